"""Deliberate bugs: each takes away one of the lines that keep money safe. The proof has to notice every one of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any
from unittest.mock import patch

from infra import launch
from infra.clouds.answers import Answer
from pushtrain import climb, run
from pushtrain.cloud import VolumeRequest
from pushtrain.pod.watchdog import Limits
from pushtrain.run import kept_volume_name

from . import container
from .schedule import schedule


@dataclass(frozen=True)
class Bug:
    """`planted` puts the bug in for a while. It is looked for in the schedules that have one of `kinds` (any: all of
    them), `within` so many, from seed `first` on: of some kinds of trouble hundreds of schedules never meet it."""

    planted: Callable[[], contextlib.AbstractContextManager[None]]
    within: int
    kinds: frozenset[str] = frozenset()
    first: int = 0

    def seeds(self) -> Iterator[int]:
        fitting = (
            seed
            for seed in count(self.first)
            if not self.kinds or self.kinds & {it.kind for it in schedule(seed).faults}
        )
        return islice(fitting, self.within)


@contextlib.contextmanager
def create_before_intent() -> Iterator[None]:
    """The rungs are written down after the pod was made: whoever dies in between leaves a pod nobody planned."""
    write, late = climb.recorded_rungs, dict[str, Callable[[], object]]()

    def recorded_rungs(control: Any, of: Any, record: Any, fresh: Any, *, attempt: int) -> Any:
        late[of.id] = lambda: write(control, of, record, fresh, attempt=attempt)
        return list(fresh)

    def ask(control: Any, of: Any, *rest: Any) -> Any:
        refusal = _ask(control, of, *rest)
        late.pop(of.id, lambda: None)()
        return refusal

    _ask = climb._ask
    with patch.object(climb, "recorded_rungs", recorded_rungs), patch.object(climb, "_ask", ask):
        yield


@contextlib.contextmanager
def absent_is_failure() -> Iterator[None]:
    """Deleting what is gone already fails: after one lost answer, or a pod that went by itself, nothing goes on."""
    with patch.object(Answer, "absent", property(lambda self: False)):
        yield


@contextlib.contextmanager
def watchdog_after_clone() -> Iterator[None]:
    """The watchdog starts when the commit has been fetched: a fetch that never ends is billed for ever."""
    guard = container.Container._watchdog

    def watchdog(self: container.Container) -> Iterator[float]:
        while self._machine.ground.boards.source:
            yield 5.0
        yield from guard(self)

    with patch.object(container.Container, "_watchdog", watchdog):
        yield


@contextlib.contextmanager
def restart_rearms_deadline() -> Iterator[None]:
    """The deadline counts from the start of the container instead of standing in its environment."""
    starting = Limits.starting

    def relative(*, wall_s: float, monotonic_s: float, context: Any, **more: Any) -> Limits:
        made = starting(wall_s=wall_s, monotonic_s=monotonic_s, context=context, **more)
        began = _FIRST_LOOK.setdefault(context.run_id, context.deadline_epoch_s - wall_s)
        return Limits(
            stop_epoch_s=float("inf"), stop_monotonic_s=monotonic_s + began, stall_s=made.stall_s, phase_s=made.phase_s
        )

    _FIRST_LOOK.clear()
    with patch.object(Limits, "starting", staticmethod(relative)):
        yield


@contextlib.contextmanager
def kept_in_the_stack() -> Iterator[None]:
    """The kept volume is a resource of the run's stack, like its own: it goes with the first run that used it."""

    def stack_plan(of: Any, spec: Any, candidate: Any, **more: Any) -> Any:
        made, kept = _stack_plan(of, spec, candidate, **more), spec.compute.volume
        if not kept.keep or made.pod is None:
            return made
        name = kept_volume_name(kept.name, of.ledger_url)
        own = VolumeRequest(name=name, size_gb=kept.size_gb, data_center=candidate.data_center, kind="STANDARD")
        return replace(made, volume=own)

    _stack_plan = launch.stack_plan
    with patch.object(launch, "stack_plan", stack_plan):
        yield


@contextlib.contextmanager
def kept_bears_the_mark() -> Iterator[None]:
    """A kept volume's name begins like a run's: the sweep finds it, and no run owns it."""

    def marked(ledger_url: str) -> str:
        return run.ledger_prefix(ledger_url) + "keep-"

    with patch.object(run, "kept_prefix", marked):
        yield


_FIRST_LOOK: dict[str, float] = {}

BUGS: Mapping[str, Bug] = {
    "create before intent": Bug(create_before_intent, 20),
    "absent is failure": Bug(absent_is_failure, 20),
    "watchdog after clone": Bug(watchdog_after_clone, 60, frozenset({"source_down"})),
    "restart re-arms the deadline": Bug(
        restart_rearms_deadline, 60, frozenset({"container_restart", "killed_pod_process"}), first=1900
    ),
    "the kept volume is in the stack": Bug(kept_in_the_stack, 40),
    "a kept volume bears the mark": Bug(kept_bears_the_mark, 40),
}
