"""What Vast.ai answers, and which error that is. Pure.

An error is `{"success": false, "error": CODE, "msg": TEXT}`, sometimes in a 200 and sometimes without one of the three;
a limit on requests is plain text without a Retry-After (docs.vast.ai, "Rate limits and errors").

| answer                                     | then                                                            |
| ------------------------------------------ | --------------------------------------------------------------- |
| 401, or `auth_error` (search says 404)     | CloudAuthFailed                                                 |
| 402, or words about credit                 | NoBalance: the code is not documented                           |
| 403                                        | CloudAuthFailed                                                 |
| `no_such_ask`, 410, `no_such_offer`        | NoCapacity: somebody else took the machine; the next offer      |
| `no_such_instance`, `instances: null`      | None, or success                                                |
| any other 404                              | CloudUnavailable: it is not Vast's own                          |
| 429                                        | waits what the text names, 2 s where it names nothing           |
| 429 `search_quota_exceeded`                | CloudUnavailable: that one is of the day                        |
| 5xx, no answer, a 2xx nobody can read      | read: again; create: the label is looked up, else sent again    |
| 400 and anything else                      | RequestRejected                                                 |
"""

import json
import re
from typing import Any

from infra.clouds.runpod_answers import Answer, problem_text
from infra.clouds.wire import Speaks
from pushtrain.errors import (
    ACCESS_DENIED,
    INVALID_REQUEST,
    CloudAuthFailed,
    CloudError,
    CloudUnavailable,
    NoBalance,
    NoCapacity,
    RequestRejected,
)

BASE_URL = "https://console.vast.ai"
_TAKEN = ("no_such_ask", "no_such_offer", "no longer available")
_MONEY = re.compile(r"insufficient (credit|balance|funds)|lacks credit|credit (is )?too low|add (credit|funds)", re.I)
_THRESHOLD = re.compile(r"threshold=(\d+(?:\.\d+)?)")
# Between two requests to one endpoint, where Vast does not say it: the figure its own answers name most often.
_PAUSE_S = 2.0


def problem(body: bytes) -> dict[str, Any] | None:
    """Vast's own error object; None for anything a proxy may say instead."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"error", "msg", "success", "message"} & set(found) else None


def text(body: bytes) -> str:
    found = problem(body)
    if found is None:
        return problem_text(body)
    return ": ".join(str(found[name]) for name in ("error", "msg", "message") if found.get(name))


def wait_s(body: bytes) -> float | None:
    """Seconds after which a request that came too soon is welcome; None where waiting does not help."""
    said = body.decode("utf-8", "replace")
    if "search_quota_exceeded" in said:
        return None
    named = _THRESHOLD.search(said)
    return float(named[1]) if named else _PAUSE_S


SPEAKS = Speaks(
    cloud="Vast.ai",
    key_name="VAST_API_KEY",
    url_name="VAST_URL",
    public_url=BASE_URL,
    path="/api/v0",
    problem=problem,
    text=text,
    wait_s=wait_s,
)


def code(answer: Answer) -> str:
    return str(answer.json.get("error") or "") if isinstance(answer.json, dict) else ""


def refused(answer: Answer) -> bool:
    """An error, also one inside a 200."""
    return not answer.ok or (isinstance(answer.json, dict) and answer.json.get("success") is False)


def is_absent(answer: Answer) -> bool:
    return code(answer) == "no_such_instance"


def is_taken(answer: Answer) -> bool:
    """The machine of that offer is gone: somebody else has it, or its host took it back."""
    return refused(answer) and not answer.ambiguous and (answer.status == 410 or _says(answer, *_TAKEN))


def failure(answer: Answer, doing: str) -> CloudError:
    """The error a refusal means; `doing` says what was asked, with names and ids, no secrets."""
    said = text(json.dumps(answer.json).encode()) if answer.ok and answer.json else answer.said
    message, status = f"{doing}: {said}", answer.status
    if answer.ambiguous:
        return CloudUnavailable(message, hint="Vast.ai did not answer as it should: run the same command again later")
    if status == 429:
        return CloudUnavailable(message, hint="Vast.ai's limit on requests: try again later")
    if status == 401 or code(answer) == "auth_error":
        return CloudAuthFailed(message, hint="VAST_API_KEY is wrong, expired, or of another cloud: make a new key")
    if status == 402 or _MONEY.search(message):
        return NoBalance(message, hint="add credit at https://cloud.vast.ai/billing/")
    if status == 403:
        return CloudAuthFailed(message, hint="the key is valid but may not do this", reason=ACCESS_DENIED)
    if is_taken(answer):
        return NoCapacity(message, hint="another machine, another GPU, or later")
    if status == 404 and answer.json is None:
        return CloudUnavailable(message, hint="this is not Vast.ai's own 404: check VAST_URL and proxies")
    return RequestRejected(
        message,
        hint="the request breaks a rule of Vast.ai: fix the value it names; do not retry",
        reason=INVALID_REQUEST if code(answer) in ("invalid_args", "no_ssh_key_for_vm") else None,
    )


def _says(answer: Answer, *words: str) -> bool:
    said = f"{code(answer)} {answer.said} {answer.json}".lower()
    return any(word in said for word in words)
