"""What an account has left, for the clouds that tell it. The seam has no such question: only `doctor` asks it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.clouds.answers import Speaks
from infra.clouds.jarvis import answers as jarvis_answers
from infra.clouds.runpod.account import read_account
from infra.clouds.vast import answers as vast_answers
from infra.clouds.wire import Call, Limits, Wire
from pushtrain.capabilities import CLOUDS

_TIMEOUT_S = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """`usd_per_hour` is None where the cloud does not say what is spent now."""

    usd: float
    usd_per_hour: float | None = None


def read_balance(name: str, environ: Mapping[str, str]) -> tuple[Balance | None, str]:
    """What is left on the account whose key is set, or None and why nobody says it. Raises CloudAuthFailed for a key
    that no header can carry."""
    can = CLOUDS[name]
    key, url = environ.get(can.key_name, "").strip(), environ.get(can.pod.base_url) or can.pod.public_api
    if name == "runpod":
        found, why = read_account(key, url)
        return (None, why) if found is None else (Balance(usd=found.balance_usd, usd_per_hour=found.usd_per_hour), "")
    if name not in _ASKED:
        return None, UNTOLD[name]
    speaks, path, fields = _ASKED[name]
    http = Wire(key, url, limits=Limits(attempts=2), sleep=time.sleep, clock=time.monotonic, speaks=speaks)
    return _read(http, path, fields)


# Where it is read, and the fields that count together: vastai 1.9.1 (`show user`), jarvislabs 0.2.19 (`balance`).
_ASKED: Mapping[str, tuple[Speaks, str, tuple[str, ...]]] = {
    "vast": (vast_answers.SPEAKS, "/api/v0/users/current/", ("credit",)),
    "jarvislabs": (jarvis_answers.SPEAKS, "/users/balance", ("balance", "grants")),
}
UNTOLD = {
    "lambda": "it sends invoices, and has no balance",
    "modal": "a workspace has a budget, which its tokens cannot read",
}


def _read(http: Wire, path: str, fields: tuple[str, ...]) -> tuple[Balance | None, str]:
    try:
        answer = http.send(Call(method="GET", path=path, timeout_s=_TIMEOUT_S, repeatable=True))
    finally:
        http.close()
    said: Any = answer.json
    if not answer.ok or not isinstance(said, dict):
        return None, answer.said
    found = [said.get(name, 0.0 if at else None) for at, name in enumerate(fields)]
    told = [float(it) for it in found if isinstance(it, int | float) and math.isfinite(it)]
    return (Balance(usd=sum(told)), "") if len(told) == len(found) else (None, f"no {fields[0]} in what it answered")
