"""One fault of a schedule."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. `at_s` counts from the start (for a pod's: from its creation), `who` numbers processes or pods from 0
    in the order they were made, `amount` is times, seconds or a point, as the kind says; `what` names an operation,
    `where` the cloud that it strikes, of several; empty: each."""

    kind: str
    at_s: float = 0.0
    who: int = 0
    amount: float = 0.0
    what: str = ""
    where: str = ""


Hit = Callable[[Fault], None]
"""Told when a fault took effect: many that are drawn never do."""
