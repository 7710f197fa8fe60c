"""What Lambda Cloud answers, and which error that is. Pure.

An error is `{"error": {"code": CODE, "message": TEXT, "suggestion": TEXT}}` (Lambda's API reference, as the client
lambda-ai-cloud-api-client 2.4.1 has it; how a limit on requests reads there is said nowhere).

| answer                                  | then                                                               |
| --------------------------------------- | ------------------------------------------------------------------ |
| 401, `global/invalid-api-key`           | CloudAuthFailed                                                    |
| `global/account-inactive`, `…-address`  | NoBalance: the account's owner has to pay, or to say where he is   |
| any other 403                           | CloudAuthFailed                                                    |
| `…/insufficient-capacity`               | NoCapacity: the next place                                         |
| `global/quota-exceeded`                 | NoCapacity: Lambda's support raises it, or something else ends     |
| `global/object-does-not-exist`          | read, terminate, delete: gone; create: CloudUnavailable            |
| `filesystems/filesystem-in-use`         | CloudUnavailable: its machine first                                |
| `global/duplicate`                      | the name is looked up                                              |
| 429                                     | waits, a launch for longer; then CloudUnavailable                  |
| 404 of another body, 5xx, no answer     | CloudUnavailable; create: the name is looked up, else sent again   |
| 400 and anything else                   | RequestRejected                                                    |
"""

import json
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
from pushtrain.pod.place import LAMBDA

BASE_URL = LAMBDA.public_api
DUPLICATE = "global/duplicate"
_ABSENT = "global/object-does-not-exist"
_INACTIVE = ("global/account-inactive", "global/invalid-address")
# After one request too many, where nothing says how long: twice what SkyPilot found to be let through.
_PAUSE_S = 2.0


def problem(body: bytes) -> dict[str, Any] | None:
    """Lambda's own error object, without its envelope; None for anything a proxy may say instead."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) and error.get("code") else None


def text(body: bytes) -> str:
    found = problem(body)
    if found is None:
        return problem_text(body)
    return " ".join(str(found[name]) for name in ("message", "suggestion") if found.get(name)) + f" ({found['code']})"


SPEAKS = Speaks(
    cloud="Lambda Cloud",
    key_name="LAMBDA_API_KEY",
    url_name=LAMBDA.base_url,
    public_url=BASE_URL,
    path="/api/v1",
    problem=problem,
    text=text,
    wait_s=lambda body: _PAUSE_S,
)


def code(answer: Answer) -> str:
    return str(answer.json.get("code") or "") if not answer.ok and isinstance(answer.json, dict) else ""


def is_absent(answer: Answer) -> bool:
    """Lambda itself says that there is no such thing."""
    return code(answer) == _ABSENT


def failure(answer: Answer, doing: str) -> CloudError:
    """The error an answer that is not `ok` means; `doing` says what was asked, with names and ids, no secrets."""
    message, status, said = f"{doing}: {answer.said}", answer.status, code(answer)
    if answer.ambiguous:
        return CloudUnavailable(message, hint="Lambda did not answer as it should: run the same command again later")
    if status == 429:
        return CloudUnavailable(message, hint="Lambda's limit on requests: try again in a minute")
    if status == 401:
        return CloudAuthFailed(message, hint="LAMBDA_API_KEY is wrong, expired, or of another cloud: make a new key")
    if said in _INACTIVE:
        return NoBalance(message, hint="payment and address of the account: https://cloud.lambda.ai/settings/billing")
    if status == 403:
        return CloudAuthFailed(message, hint="the key is valid but may not do this", reason=ACCESS_DENIED)
    if said.endswith("/insufficient-capacity"):
        return NoCapacity(message, hint="another GPU, another region, or later")
    if said == "global/quota-exceeded":
        return NoCapacity(message, hint="end other machines of the account, or ask Lambda's support for a larger quota")
    if said == "filesystems/filesystem-in-use":
        return CloudUnavailable(message, hint="terminate the machines that mount it, wait, then delete it again")
    if status == 404 and not said:
        return CloudUnavailable(message, hint="this is not Lambda's own 404: check LAMBDA_CLOUD_BASE_URL and proxies")
    if said == _ABSENT:
        return CloudUnavailable(message, hint="something that was there a moment ago is gone: the next look goes on")
    return RequestRejected(
        message,
        hint="the request breaks a rule of Lambda: fix the value it names; do not retry",
        reason=INVALID_REQUEST if said == "global/invalid-parameters" else None,
    )
