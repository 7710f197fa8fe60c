"""How far a run is, in figures: read from its events and metrics. Pure; the views draw it."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pushtrain.budget import used
from pushtrain.events import Event
from pushtrain.ledger import RunRecord
from pushtrain.receipt import cost

# The phases a person follows, in order; control states in between are folded into the one before.
PHASES = (
    "claimed",
    "provisioning",
    "provisioned",
    "booting",
    "environment",
    "preparing",
    "training",
    "evaluating",
    "publishing",
    "finished",
    "destroying",
    "closed",
)


@dataclass(kw_only=True)
class Progress:
    """Latest figures of a run. Losses are (step, loss) in order; `tokens_per_s` is the last one logged."""

    step: int = 0
    total_steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    eval_losses: list[tuple[int, float]] = field(default_factory=list)
    tokens_per_s: float | None = None
    times: list[tuple[int, float]] = field(default_factory=list)
    """(step, epoch seconds) of the steps that were logged."""

    def add(self, lines: Iterable[bytes]) -> None:
        """Take in metrics lines as the trainer wrote them; a line that is no JSON object has no figures.

        A resumed attempt repeats steps: they then count once, as it saw them.
        """
        for line in lines:
            row = _row(line)
            step = int(_figure(row, "step") or 0)
            self.total_steps = int(_figure(row, "total_steps") or self.total_steps)
            if (eval_loss := _figure(row, "eval_loss")) is not None:
                _put(self.eval_losses, step, eval_loss)
            elif _figure(row, "step") is not None:
                self.step = step
                if (time_s := _figure(row, "time")) is not None:
                    _put(self.times, step, time_s)
            if (loss := _figure(row, "loss")) is not None:
                _put(self.losses, step, loss)
            if (tokens_per_s := _figure(row, "tokens_per_s")) is not None:
                self.tokens_per_s = tokens_per_s

    def left_s(self) -> float | None:
        """Seconds of training left at the pace of the last steps; None where that cannot be told."""
        recent = self.times[-20:]
        if len(recent) < 2 or self.total_steps < recent[-1][0]:
            return None
        (first, began_s), (last, ended_s) = recent[0], recent[-1]
        return max(0.0, ended_s - began_s) / (last - first) * (self.total_steps - last)


def spent_usd(record: RunRecord, now_s: float) -> float:
    """Dollars so far: every ended attempt, and the one that runs until now; the receipt's or the bill's once it is
    over."""
    if (known := cost(record)) is not None:
        return known[0]
    _, usd = used(record)
    starts = [event for event in record.events if event.state == "provisioned"]
    if starts and record.last.attempt == starts[-1].attempt and record.last.state not in ("lost", "destroying"):
        rate = float(starts[-1].data.get("usd_per_hour", 0.0))
        usd += max(0.0, now_s - record.last.epoch_s) / 3600 * rate
    return usd


def phase_times(events: Iterable[Event], now_s: float) -> list[tuple[str, float | None]]:
    """(phase, seconds) for every phase of the newest attempt; None for those that did not start."""
    events = list(events)
    began: dict[str, float] = {}
    attempt = max((event.attempt for event in events), default=1)
    for event in events:
        if event.state in PHASES and (event.attempt == attempt or event.state == "claimed"):
            began.setdefault(event.state, event.epoch_s)
    started = [phase for phase in PHASES if phase in began]
    ends = [began[phase] for phase in started[1:]] + [now_s]
    spans = {phase: max(0.0, end - began[phase]) for phase, end in zip(started, ends, strict=False)}
    return [(phase, spans.get(phase)) for phase in PHASES]


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _figure(row: dict[str, Any], name: str) -> float | None:
    """A finite number; None for everything else, NaN among it."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _put(series: list[tuple[int, float]], step: int, value: float) -> None:
    while series and series[-1][0] >= step:
        series.pop()
    series.append((step, value))
