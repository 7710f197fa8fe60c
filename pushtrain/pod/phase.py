"""Where an attempt stands, read from what it leaves on the volume: heartbeat, events, metrics, steps.

The watchdog believes that files change and its own clock, never a time that is written in them: an agent or a trainer
that hangs or is dead says nothing new, and then the limit of the phase it was last seen in runs out.
"""

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path


class Phase(Enum):
    """BOOT lasts to the agent's first heartbeat, ENVIRONMENT to the trainer's first event, FIRST_STEP to its first
    step, STEPS (training and evaluating) to its `publishing`, UPLOAD to the end."""

    BOOT = 0
    ENVIRONMENT = 1
    FIRST_STEP = 2
    STEPS = 3
    UPLOAD = 4


# `training` is said before the first step of all, which is waited for all the same.
_BY_STATE = {
    "preparing": Phase.FIRST_STEP,
    "training": Phase.FIRST_STEP,
    "evaluating": Phase.STEPS,
    "publishing": Phase.UPLOAD,
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look at the attempt's folder: times of change in nanoseconds, sizes in bytes; 0 where there is no file."""

    heartbeat_ns: int = 0
    step_ns: int = 0
    metrics_bytes: int = 0
    events_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """`moved_s`: last change of the heartbeat; `since_s`: when the phase began, in STEPS the last step. Both on the
    watchdog's monotonic clock."""

    phase: Phase
    moved_s: float
    since_s: float


def advance(standing: Standing, before: Seen, now: Seen, states: Iterable[str], now_s: float) -> Standing:
    """What follows from one look after another; `states` are those of the events that came between. Pure.

    A phase never goes back.
    """
    phases = [standing.phase, *(_BY_STATE.get(state, Phase.BOOT) for state in states)]
    if now.heartbeat_ns != before.heartbeat_ns:
        standing = replace(standing, moved_s=now_s)
        phases.append(Phase.ENVIRONMENT)
    stepped = (now.metrics_bytes, now.step_ns) != (before.metrics_bytes, before.step_ns)
    if stepped:
        phases.append(Phase.STEPS)
    phase = max(phases, key=lambda phase: phase.value)
    if phase is not standing.phase or (stepped and phase is Phase.STEPS):
        standing = replace(standing, phase=phase, since_s=now_s)
    return standing


class Pulse:
    """Looks once a tick from a thread of its own, so that a volume that hangs reads as no news.

    `seen` is what an earlier container of the attempt left, which is no news either; None: the first look says it.
    """

    def __init__(self, folder: Path, seen: Seen | None, tick_s: float) -> None:
        now_s = time.monotonic()
        self.standing = Standing(phase=Phase.BOOT, moved_s=now_s, since_s=now_s)
        self._folder, self._seen, self._tick_s = folder, seen, tick_s
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        before = self._seen or look(self._folder, Seen())
        while True:
            time.sleep(self._tick_s)
            now = look(self._folder, before)
            states, read_to = _states(self._folder / "events.jsonl", before.events_bytes, now.events_bytes)
            self.standing = advance(self.standing, before, now, states, time.monotonic())
            before = replace(now, events_bytes=read_to)


def look(folder: Path, before: Seen) -> Seen:
    """The files as they are; what cannot be asked for now is as it was `before`. Never raises."""
    heartbeat, step = _stat(folder / "heartbeat"), _stat(folder / "step")
    metrics, events = _stat(folder / "metrics.jsonl"), _stat(folder / "events.jsonl")
    return Seen(
        heartbeat_ns=heartbeat[0] if heartbeat else before.heartbeat_ns,
        step_ns=step[0] if step else before.step_ns,
        metrics_bytes=metrics[1] if metrics else before.metrics_bytes,
        events_bytes=events[1] if events else before.events_bytes,
    )


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _states(path: Path, start: int, end: int) -> tuple[list[str], int]:
    """States of the whole lines in bytes `start` to `end`, and where the last of them ends."""
    if end <= start:
        return [], start
    try:
        with path.open("rb") as file:
            file.seek(start)
            raw = file.read(end - start)
    except OSError:
        return [], start
    whole = raw[: raw.rfind(b"\n") + 1]
    return [state for line in whole.splitlines() if (state := _state(line))], start + len(whole)


def _state(line: bytes) -> str:
    try:
        return str(json.loads(line)["state"])
    except (ValueError, TypeError, KeyError):
        return ""
