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

from typing import Any

from infra.clouds.answers import Answer, Speaks
from infra.clouds.refusals import Why
from pushtrain.capabilities import LAMBDA

BASE_URL = LAMBDA.pod.public_api
DUPLICATE = "global/duplicate"
_ABSENT = "global/object-does-not-exist"
_WHY: dict[str, Why] = {
    "global/account-inactive": "money",
    "global/invalid-address": "money",
    "global/quota-exceeded": "quota",
    "global/invalid-parameters": "invalid",
    "filesystems/filesystem-in-use": "busy",
    _ABSENT: "gone",
}
# After one request too many, where nothing says how long: twice what SkyPilot found to be let through.
_PAUSE_S = 2.0


def error_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """Without its envelope."""
    error = body.get("error")
    return error if isinstance(error, dict) and error.get("code") else None


def said(error: dict[str, Any]) -> str:
    return " ".join(str(error[name]) for name in ("message", "suggestion") if error.get(name)) + f" ({error['code']})"


def code(answer: Answer) -> str:
    return str(answer.json.get("code") or "") if not answer.ok and isinstance(answer.json, dict) else ""


def is_absent(answer: Answer) -> bool:
    """Lambda itself says that there is no such thing."""
    return code(answer) == _ABSENT


def why(answer: Answer) -> Why | None:
    """What the code of a refusal says."""
    return "full" if code(answer).endswith("/insufficient-capacity") else _WHY.get(code(answer))


SPEAKS = Speaks(
    can=LAMBDA,
    path=LAMBDA.pod.api_path,
    error_of=error_of,
    said=said,
    wait_s=lambda body: _PAUSE_S,
    why=why,
    hints={
        "money": "payment and address of the account: https://cloud.lambda.ai/settings/billing",
        "busy": "terminate the machines that mount it, wait, then delete it again",
        "gone": "something that was there a moment ago is gone: the next look goes on",
    },
)
