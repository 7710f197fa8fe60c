"""The attempts of a run: where each ran and for how long, why it ended, and what work was lost. Pure."""

import json
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from pushtrain.budget import attempt_hours
from pushtrain.events import Event
from pushtrain.ledger import RunRecord

_ENDED = ("finished", "failed", "preempted", "lost", "cancelled")


def attempts(record: RunRecord, metrics: bytes) -> list[dict[str, Any]]:
    """One row for each attempt that had a pod. `metrics` are the run's lines in the ledger, of all attempts.

    `steps_lost` are those that a later start of the training did again, as far as the pod had reported them: at most
    what lay between two checkpoints. `resumed_from_step` is None for an attempt that never trained.
    """
    lost = steps_lost(record.events, metrics)
    rows = []
    starts = {event.attempt: event for event in reversed(record.events) if event.state == "provisioned"}
    for number, start in sorted(starts.items()):
        mine = [event for event in record.events if event.attempt == number]
        ended = next((event for event in reversed(mine) if event.state in _ENDED), None)
        resumed = [_step(event) for event in mine if event.state == "training"]
        hours = attempt_hours(record, start)
        rows.append(
            {
                "attempt": number,
                "pod": start.data.get("pod_id"),
                "gpu": start.data.get("gpu"),
                "data_center": start.data.get("data_center"),
                "usd_per_hour": start.data.get("usd_per_hour"),
                "hours": round(hours, 6),
                "ended": (ended.reason or ended.state) if ended else None,
                "resumed_from_step": resumed[0] if resumed else None,
                "steps_lost": lost.get(number, 0),
            }
        )
    return rows


def steps_lost(events: Sequence[Event], metrics: bytes) -> dict[int, int]:
    """Attempt → steps it had done that a later start of the training did again, by the pods' own clocks."""
    reported = list(_steps(metrics.splitlines()))
    starts = [event for event in events if event.state == "training"]
    lost: dict[int, int] = {}
    for before, start in pairwise(starts):
        done = [step for time_s, step in reported if before.epoch_s <= time_s < start.epoch_s]
        repeated = max(done, default=0) - _step(start)
        if repeated > 0:
            lost[before.attempt] = lost.get(before.attempt, 0) + repeated
    return lost


def _steps(lines: Iterable[bytes]) -> Iterable[tuple[float, int]]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        # A command may tell of steps without a loss; an evaluation tells of a step that was counted before.
        is_step = isinstance(row, dict) and "eval_loss" not in row
        figures = [row.get("time"), row.get("step")] if is_step else []
        if figures and all(isinstance(it, int | float) and math.isfinite(it) for it in figures):
            yield float(row["time"]), int(row["step"])


def _step(event: Event) -> int:
    step = event.data.get("resumed_from_step")
    return int(step) if isinstance(step, int | float) else 0
