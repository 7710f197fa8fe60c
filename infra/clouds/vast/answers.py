"""What Vast.ai answers, and which error that is. Pure.

An error is `{"success": false, "error": CODE, "msg": TEXT}`, sometimes in a 200 and sometimes without one of the three;
a limit on requests is plain text without a Retry-After (docs.vast.ai, "Rate limits and errors").

| answer                                     | then                                                            |
| ------------------------------------------ | --------------------------------------------------------------- |
| 401, or `auth_error` (search says 404)     | CloudAuthFailed                                                 |
| 402, or words about credit                 | NoBalance: the code is not documented                           |
| 403                                        | CloudAuthFailed                                                 |
| `no_such_ask`, 410, `no_such_offer`        | NoCapacity: somebody else took the machine; the next offer      |
| `invalid_price`                            | NoCapacity: outbid since the search, which asked for less       |
| `no_such_instance`, `instances: null`      | None, or success                                                |
| any other 404                              | CloudUnavailable: it is not Vast's own                          |
| 429                                        | waits what the text names, 2 s where it names nothing           |
| 429 `search_quota_exceeded`                | CloudUnavailable: that one is of the day                        |
| 5xx, no answer, a 2xx nobody can read      | read: again; create: the label is looked up, else sent again    |
| 400 and anything else                      | RequestRejected                                                 |
"""

import re
from typing import Any

from infra.clouds.answers import Answer, Speaks
from infra.clouds.refusals import Why
from pushtrain.capabilities import VAST

BASE_URL = VAST.pod.public_api
_TAKEN = ("no_such_ask", "no_such_offer", "no longer available", "invalid_price")
_MONEY = re.compile(r"insufficient (credit|balance|funds)|lacks credit|credit (is )?too low|add (credit|funds)", re.I)
_THRESHOLD = re.compile(r"threshold=(\d+(?:\.\d+)?)")
# Between two requests to one endpoint, where Vast does not say it: the figure its own answers name most often.
_PAUSE_S = 2.0


def said(error: dict[str, Any]) -> str:
    return ": ".join(str(error[name]) for name in ("error", "msg", "message") if error.get(name))


def wait_s(body: bytes) -> float | None:
    """Seconds after which a request that came too soon is welcome; None where waiting does not help."""
    text = body.decode("utf-8", "replace")
    if "search_quota_exceeded" in text:
        return None
    named = _THRESHOLD.search(text)
    return float(named[1]) if named else _PAUSE_S


def code(answer: Answer) -> str:
    return str(answer.json.get("error") or "") if isinstance(answer.json, dict) else ""


def is_absent(answer: Answer) -> bool:
    return code(answer) == "no_such_instance"


def is_taken(answer: Answer) -> bool:
    """The machine of that offer is gone: somebody else has it, or bids more for it, or its host took it back."""
    return not answer.ok and not answer.ambiguous and (answer.status == 410 or _says(answer, *_TAKEN))


def why(answer: Answer) -> Why | None:
    """What Vast.ai's own codes and words say of a refusal."""
    if code(answer) == "auth_error":
        return "auth"
    if _MONEY.search(answer.said):
        return "money"
    if is_taken(answer):
        return "full"
    return "invalid" if code(answer) in ("invalid_args", "no_ssh_key_for_vm") else None


SPEAKS = Speaks(
    can=VAST,
    path=VAST.pod.api_path,
    error_of=lambda body: body if {"error", "msg", "success", "message"} & set(body) else None,
    said=said,
    wait_s=wait_s,
    status_of=lambda content: 400 if isinstance(content, dict) and content.get("success") is False else None,
    why=why,
    hints={
        "money": "add credit at https://cloud.vast.ai/billing/",
        "full": "another machine, another GPU, or later",
    },
)


def _says(answer: Answer, *words: str) -> bool:
    text = f"{code(answer)} {answer.said} {answer.json}".lower()
    return any(word in text for word in words)
