"""Whether a result may become what people download: the gates of `publish.promote` against the figures of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pushtrain.spec.publish import Promote


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """`found` is None where the run has no such figure: the gate does not hold then."""

    name: str
    wanted: float
    found: float | None
    holds: bool

    def __str__(self) -> str:
        found = "is not known" if self.found is None else f"is {self.found:.4f}"
        figure, _, way = self.name.rpartition("_")
        return f"{figure} {found}, {way} {self.wanted:g} {'holds' if self.holds else 'does not hold'}"


def judged(promote: Promote | None, metrics: Mapping[str, Any]) -> list[Gate]:
    """Each gate of the spec; none where the spec has none, and then every result is promoted."""
    wanted = promote.model_dump(exclude_none=True) if promote is not None else {}
    gates = []
    for name, limit in wanted.items():
        figure, _, way = name.rpartition("_")
        found = metrics.get(figure)
        holds = found is not None and (found < limit if way == "below" else found > limit)
        gates.append(Gate(name=name, wanted=limit, found=found, holds=holds))
    return gates
