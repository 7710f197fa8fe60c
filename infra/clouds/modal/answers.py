"""What Modal's SDK raises, and which error that is. Pure: classes are known by name, nothing of Modal is imported.

The SDK itself repeats what got no answer three times, with one idempotency key, and waits as long as the server asks
where it limits requests. A gRPC status is a class of `modal.exception` (its own table, modal 1.6.4).

| raised                                       | then                                                         |
| -------------------------------------------- | ------------------------------------------------------------ |
| AuthError                                    | CloudAuthFailed                                              |
| words about a spend limit, credit, payment   | NoBalance: whatever the class; the text is not documented    |
| PermissionDeniedError                        | CloudAuthFailed: access denied                               |
| ResourceExhaustedError about capacity        | NoCapacity: the next candidate                               |
| ResourceExhaustedError of any other kind     | CloudUnavailable: a limit                                    |
| nothing, until the create's deadline         | NoCapacity where the API answers reads: Modal queues         |
| NotFoundError                                | None, or success; of a create RequestRejected                |
| AlreadyExistsError                           | the sandbox of that name is adopted                          |
| ImageBuildError                              | RequestRejected, but for a build that was cut off            |
| InvalidError, ConflictError                  | RequestRejected                                              |
| VersionError, UnimplementedError             | RequestRejected: API retired                                 |
| anything else, no connection, a deadline     | CloudUnavailable; after a create the name is looked up first |
"""

import re

from infra.clouds.refusals import Why, error
from pushtrain.capabilities import MODAL
from pushtrain.errors import CloudError

_MONEY = re.compile(
    r"spend(ing)? limit|budget (limit|exceeded)|payment (method|required)|out of credits?|insufficient (credit|funds)",
    re.IGNORECASE,
)
_CUT_OFF = re.compile(r"external shut-down|timed out", re.IGNORECASE)
# The first of these that is among an exception's classes says what it means: ConflictError is an InvalidError.
_CLASSES: tuple[tuple[str, Why], ...] = (
    ("AuthError", "auth"),
    ("PermissionDeniedError", "denied"),
    ("ResourceExhaustedError", "limit"),
    ("NotFoundError", "absent"),
    ("AlreadyExistsError", "exists"),
    ("VersionError", "retired"),
    ("UnimplementedError", "retired"),
    ("ImageBuildError", "invalid"),
    ("InvalidError", "invalid"),
)
_HINTS: dict[Why, str] = {
    "auth": "MODAL_TOKEN_ID or MODAL_TOKEN_SECRET is wrong or gone: make a new one at {keys_at}",
    "money": "raise the workspace's budget, or pay, at https://modal.com/settings",
    "full": "another GPU, or later",
}


class Said(Exception):
    """What Modal said no with. The text has passed `redact`."""

    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why: Why = why


def why(raised: BaseException) -> Why:
    names = [each.__name__ for each in type(raised).__mro__]
    text = str(raised)
    if _MONEY.search(text):
        return "money"
    found: Why = next((meaning for name, meaning in _CLASSES if name in names), "lost")
    if found == "limit" and "capacity" in text.lower():
        return "full"
    if "ImageBuildError" in names and _CUT_OFF.search(text):
        return "lost"
    return found


def failure(said: Said, doing: str) -> CloudError:
    """The error a refusal means; `doing` says what was asked, with names and ids, no secrets."""
    return error(said.why, f"{doing}: {said}", MODAL, _HINTS)
