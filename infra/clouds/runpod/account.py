"""What REST v2 has no route for: the account's balance, from GraphQL, as long as RunPod keeps that."""

import time
from dataclasses import dataclass
from typing import Any

from infra.clouds.runpod.answers import SPEAKS
from infra.clouds.wire import Call, Limits, Wire

_QUERY = "query { myself { clientBalance currentSpendPerHr } }"
_TIMEOUT_S = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    balance_usd: float
    usd_per_hour: float


def read_account(api_key: str, base_url: str) -> tuple[Account | None, str]:
    """The account, or None and why RunPod does not say it. Raises CloudAuthFailed for a key no header can carry."""
    http = Wire(api_key, base_url, speaks=SPEAKS, limits=Limits(attempts=2), sleep=time.sleep, clock=time.monotonic)
    try:
        answer = http.send(
            Call(method="POST", path="/graphql", body={"query": _QUERY}, timeout_s=_TIMEOUT_S, repeatable=True)
        )
    finally:
        http.close()
    said: Any = answer.json
    found = (said.get("data") or {}).get("myself") if answer.ok and isinstance(said, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("clientBalance"), int | float):
        return None, answer.said if not answer.ok else "GraphQL knows no balance for it"
    spend = found.get("currentSpendPerHr")
    account = Account(
        balance_usd=float(found["clientBalance"]),
        usd_per_hour=float(spend) if isinstance(spend, int | float) else 0.0,
    )
    return account, ""
