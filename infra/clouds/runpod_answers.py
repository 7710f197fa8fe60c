"""What RunPod answers, and which error that is. Pure: no I/O, no clock.

The retry table of the whole client (the vendor's, completed by what was seen on the wire):

| answer                         | inside one call                            | then                               |
| ------------------------------ | ------------------------------------------ | ---------------------------------- |
| 2xx                            | –                                          | the result                         |
| 400 with a known capacity text | never retried                              | NoCapacity: next candidate         |
| 400, 405, 422, any 3xx         | never retried                              | RequestRejected with the detail    |
| 401                            | never retried                              | CloudAuthFailed                    |
| 402                            | never retried                              | NoBalance                          |
| 403                            | never retried                              | CloudAuthFailed                    |
| 404 on read, delete, terminate | never retried                              | None, or success                   |
| 404 on create                  | never retried                              | CloudUnavailable: its volume went  |
| 404 that is no RFC 9457 body   | never retried                              | CloudUnavailable: not RunPod's 404 |
| 409                            | never retried; terminate goes on to DELETE | CloudUnavailable: state may change |
| 410                            | never retried                              | RequestRejected: API retired       |
| 429                            | waits Retry-After, while that is bounded   | CloudUnavailable                   |
| our own share of the quota     | not sent; waits while that is bounded      | CloudUnavailable                   |
| 408, 5xx, no answer, a cut, a  | repeatable: bounded backoff with jitter;   | CloudUnavailable; NoCapacity when  |
| 2xx nobody can read            | create: look the name up, else send again  | nothing is there and the text says |
|                                |                                            | so                                 |
"""

import html
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pushtrain.errors import (
    ACCESS_DENIED,
    API_RETIRED,
    INVALID_REQUEST,
    CloudAuthFailed,
    CloudError,
    CloudUnavailable,
    NoBalance,
    NoCapacity,
    RequestRejected,
)

# RunPod has no machine-readable code for "no capacity", only English; compared in lower case, and where it was seen.
# "No longer any" goes on with "the requested specifications" (REST v2 and GraphQL on demand), "the request
# specifications" (GraphQL spot) or "enough disk space" (runpod/runpod-python#297).
CAPACITY_TEXTS = (
    "no longer any instances available",  # REST v2, GraphQL; live bodies of 2026
    "resources to deploy your pod",  # "This machine does not have the …": community, big disks; RunPod's SDK 2.0.0rc2
    "not enough free gpus",  # "There are … on the host machine to start this pod": GraphQL, resuming
    "no instances currently available",  # GraphQL
    "insufficient capacity",  # RunPod's SDK 2.0.0rc2
    "no available machine",  # the same
    "out of stock",  # the same
)
_CLOUDFLARE_1010 = re.compile(r"error\s*(?:code)?\s*:?\s*1010", re.IGNORECASE)
_TAGS = re.compile(r"<(style|script)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one exchange brought.

    `status` is None when nothing usable came: no connection, a time-out, a cut, a 2xx that is not JSON. The request
    may have been carried out all the same. `said` is for people, already redacted. `json` is the raw body (of an error:
    its RFC 9457 problem, if it is one); it may hold a pod's environment, so it stays out of the repr.
    """

    status: int | None
    said: str
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def absent(self) -> bool:
        """RunPod itself says there is no such thing: a 404 of a proxy or a wrong base URL proves nothing."""
        return self.status == 404 and self.json is not None

    @property
    def ambiguous(self) -> bool:
        """Nobody knows whether the request was carried out."""
        return self.status is None or self.status == 408 or self.status >= 500

    @property
    def retry_after_s(self) -> float | None:
        """Seconds of the Retry-After header; RunPod sends whole seconds, never a date."""
        seconds = self.headers.get("retry-after", "").strip()
        return float(seconds) if re.fullmatch(r"\d{1,9}", seconds) else None


def says_no_capacity(answer: Answer) -> bool:
    """Whether an error's body says so anywhere: `detail` or `errors` of a problem, messages of GraphQL's errors."""
    found = answer.json if isinstance(answer.json, dict) else {}
    errors = found.get("errors")
    listed = errors if isinstance(errors, list) else []
    messages = [error.get("message") if isinstance(error, dict) else error for error in listed]
    texts = " ".join(str(text) for text in [answer.said, found.get("detail"), found.get("title"), *messages]).lower()
    return not answer.ok and any(text in texts for text in CAPACITY_TEXTS)


def failure(answer: Answer, doing: str) -> CloudError:
    """The error an answer that is not `ok` means; `doing` says what was asked, with names and ids, no secrets."""
    message, status = f"{doing}: {answer.said}", answer.status
    if answer.ambiguous:
        return CloudUnavailable(message, hint="RunPod did not answer as it should: run the same command again later")
    if status == 429:
        return CloudUnavailable(message, hint="RunPod's rate limit is used up: wait for the window to end")
    if status == 404 and not answer.absent:
        return CloudUnavailable(message, hint="this is not RunPod's own 404: check RUNPOD_API_BASE_URL and proxies")
    if status == 409:
        return CloudUnavailable(message, hint="the resource is in a state that forbids this: try again when it changes")
    if status == 400 and says_no_capacity(answer):
        return NoCapacity(message, hint="another GPU, another data center, or later")
    if status == 402:
        return NoBalance(message, hint="add funds at https://console.runpod.io/user/billing")
    if status == 401:
        return CloudAuthFailed(message, hint="RUNPOD_API_KEY is wrong, expired or revoked: make a new key")
    if status == 403 and _CLOUDFLARE_1010.search(message):
        return CloudAuthFailed(
            f"{message} (Cloudflare error 1010: the User-Agent was refused before RunPod saw the request)",
            hint="a proxy rewrites the User-Agent, or Cloudflare blocks this network; the key is not the problem",
        )
    if status == 403:
        return CloudAuthFailed(
            message, hint="the key is valid but may not do this: give it write access", reason=ACCESS_DENIED
        )
    if status == 410:
        return RequestRejected(
            f"{message} (RunPod has retired this generation of its API)",
            hint="update pushtrain: this version speaks an API that is gone; what runs is listed in RunPod's console",
            reason=API_RETIRED,
        )
    return RequestRejected(
        message,
        hint="the request breaks a rule of RunPod: fix the value it names; do not retry",
        reason=INVALID_REQUEST if status == 422 else None,
    )


def problem(body: bytes) -> dict[str, Any] | None:
    """The RFC 9457 object of an error body; None for whatever a proxy on the way may say instead."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and (found.get("detail") or found.get("title")) else None


def problem_text(body: bytes) -> str:
    """The human part of an error body: `detail` and `errors` of a problem, else its words without HTML."""
    found = problem(body)
    if found is None:
        return " ".join(html.unescape(_TAGS.sub(" ", body.decode("utf-8", "replace"))).split())
    errors = found.get("errors")
    listed = "; ".join(str(error) for error in errors) if isinstance(errors, list) else ""
    return f"{found.get('detail') or found['title']}" + (f" ({listed})" if listed else "")


@contextmanager
def expected_shape(doing: str, cloud: str = "RunPod") -> Iterator[None]:
    """Turns a missing or mistyped field into CloudUnavailable: an answer nobody understands proves nothing."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CloudUnavailable(
            f"{doing}: {cloud}'s answer has an unexpected shape ({type(exc).__name__}: {exc})",
            hint=f"{cloud}'s API may have changed: update pushtrain",
        ) from None
