"""What JarvisLabs answers, and which error that is. Pure.

There are no codes, and many errors come inside an HTTP 200 as `{"success": false}`, or `sucess` as some endpoints write
it, with a text under `message`, `error` or `detail` (jarvislabs 0.2.19, dstack 0.22.5). `meant` gives such an
answer the status it should have had, so that there is one table:

| answer                                  | then                                                              |
| --------------------------------------- | ----------------------------------------------------------------- |
| 401                                     | CloudAuthFailed                                                   |
| 402, or words about the balance         | NoBalance                                                         |
| 403                                     | CloudAuthFailed                                                   |
| words about capacity                    | NoCapacity                                                        |
| 404, or words about something not found | None, or success; of a read the list of all instances agrees      |
| 404 that is not JSON                    | CloudUnavailable: it is not JarvisLabs' own                       |
| 429                                     | waited for, then CloudUnavailable                                 |
| 5xx, no answer, a 200 that failed with  | read: again; create: the name is looked up, else sent again       |
| words about the cloud itself, or none   |                                                                   |
| 400, 422 and anything else              | RequestRejected                                                   |
"""

import re
from typing import Any

from infra.clouds.answers import Answer, Speaks
from infra.clouds.refusals import Why
from pushtrain.capabilities import JARVISLABS

BASE_URL = JARVISLABS.pod.public_api
_FLAGS = ("success", "sucess")
_BALANCE = re.compile(r"\bbalance\b|insufficient (credit|fund)|add (credit|fund|money)|recharge", re.I)
_CAPACITY = re.compile(r"capacity|out of stock|no free|not available|unavailable", re.I)
_SERVICE = re.compile(r"service (is )?(temporarily |currently )?unavailable|load balancer", re.I)
_ABSENT = re.compile(r"not found|no such|(does not|doesn'?t) exist", re.I)
_KEY = re.compile(r"unauthori[sz]ed|(invalid|expired) (api )?(token|key)|token (is )?(invalid|expired)", re.I)
_CLOUD = re.compile(r"something went wrong|internal|unexpected|timed? ?out|try again", re.I)


def flag(content: Any) -> bool | None:
    """What an answer says of its own success; None where it does not say."""
    flags = [content[name] for name in _FLAGS if name in content] if isinstance(content, dict) else []
    return any(str(it).strip().lower() in ("true", "1", "yes", "success") for it in flags) if flags else None


def meant(content: Any) -> int | None:
    """The status that an error inside a 2xx stands for; None where the answer is none."""
    if flag(content) is not False:
        return None
    said = _said(content)
    by_words = ((_SERVICE, 500), (_BALANCE, 402), (_KEY, 401), (_ABSENT, 404), (_CAPACITY, 409), (_CLOUD, 500))
    return next((status for words, status in by_words if words.search(said)), 400 if said else 500)


def is_full(answer: Answer) -> bool:
    return not answer.ok and not answer.ambiguous and answer.status != 422 and says_full(answer.said)


def says_full(said: str) -> bool:
    return bool(_CAPACITY.search(said)) and not _SERVICE.search(said)


def is_clear(answer: Answer) -> bool:
    """A refusal whose reason is known, so that nothing was made."""
    return not answer.ok and (answer.status in (401, 402, 403, 404, 422, 429) or is_full(answer))


def why(answer: Answer) -> Why | None:
    """What the words of a refusal say, beyond its status."""
    if _BALANCE.search(answer.said):
        return "money"
    return "full" if answer.status != 403 and is_full(answer) else None


def _said(found: dict[str, Any]) -> str:
    """The words of an error; of FastAPI's list of violations each with its field."""
    detail = found.get("detail")
    if isinstance(detail, list):
        rows = [it if isinstance(it, dict) else {"msg": it} for it in detail]
        return "; ".join(": ".join(str(it) for it in (*_field(row), row.get("msg", ""))) for row in rows)
    error = found.get("error")
    words = (found.get("message"), error.get("message") if isinstance(error, dict) else error, detail)
    return next((str(it) for it in words if it), "")


def _field(row: dict[str, Any]) -> list[str]:
    loc = row.get("loc")
    return [str(part) for part in loc if part != "body"][-1:] if isinstance(loc, list) else []


SPEAKS = Speaks(
    can=JARVISLABS,
    path="/",
    error_of=lambda body: body if {"message", "error", "detail", *_FLAGS} & set(body) else None,
    said=_said,
    status_of=meant,
    why=why,
    hints={"money": "add balance in the console, https://jarvislabs.ai"},
)
