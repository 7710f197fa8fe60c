"""Many schedules over all cores, and what they amount to."""

import contextlib
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pushtrain.capabilities import DEFAULT_CLOUD

from .figures import Figures
from .schedule import KINDS, Schedule, schedule
from .several import share
from .shrink import shrink
from .world import Result, World, play

COLLECT_EVERY, TELL_EVERY = 5, 1000
Prepare = Callable[[World], None]


def as_is(world: World) -> None:
    """Nothing is changed in the world."""


@dataclass(kw_only=True)
class Sum:
    """Everything a batch found. `broken`: the shortest schedule of each seed that broke a promise, and its sentence."""

    schedules: int = 0
    seconds: float = 0.0
    drawn: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    figures: Figures = field(default_factory=Figures)
    broken: list[tuple[Schedule, str]] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)
    """Which schedule a worst figure is from."""

    def add(self, it: Result) -> None:
        self.schedules += 1
        self.drawn.update(fault.kind for fault in it.schedule.faults)
        self.struck.update(it.struck)
        mine, its = self.figures, it.figures
        for name in _ADDED:
            setattr(mine, name, getattr(mine, name) + getattr(its, name))
        for name in ("longest_twin_s", "longest_orphan_s", "overshoot_usd", "overshoot_share", "excused_usd"):
            if getattr(its, name) > getattr(mine, name):
                setattr(mine, name, getattr(its, name))
                self.seeds[name] = it.schedule.seed
        if it.broken:
            self.broken.append((it.schedule, it.broken[0]))

    def table(self) -> str:
        it = self.figures

        def seed(name: str) -> str:
            return f" (seed {self.seeds[name]})" if name in self.seeds else ""

        rows = [
            ("schedules", f"{self.schedules}"),
            ("runs", f"{it.runs}"),
            ("pods created", f"{it.pods}"),
            ("pods on no receipt", f"{it.unnamed_pods}, ${it.unnamed_usd:.4f} in all"),
            ("leaks", f"{it.leaks}"),
            ("lost events", f"{it.lost_events}"),
            ("double pods", f"{it.double_pods}"),
            (
                "twins ended before work",
                f"{it.twins}, the longest lived {it.longest_twin_s:.1f} s{seed('longest_twin_s')}",
            ),
            ("kept volumes made twice", f"{it.kept_twice}, each told and deleted as told"),
            ("longest orphan life", f"{it.longest_orphan_s:.1f} s{seed('longest_orphan_s')}"),
            ("worst overshoot of a cap", f"${it.overshoot_usd:.4f}{seed('overshoot_usd')}"),
            ("the same in percent", f"{100 * it.overshoot_share:.2f} %{seed('overshoot_share')}"),
            ("worst while nobody could act", f"${it.excused_usd:.4f}{seed('excused_usd')}"),
            ("broken promises", f"{len(self.broken)}"),
            ("time", f"{self.seconds:.1f} s"),
        ]
        lines = [f"{name:30} {value}" for name, value in rows]
        lines += ["", f"{'faults by kind':30} {'struck':>8} {'drawn':>8}"]
        kinds = dict.fromkeys([*KINDS, *self.drawn])
        lines += [f"  {kind:28} {self.struck[kind]:8} {self.drawn[kind]:8}" for kind in kinds]
        return "\n".join(lines)


_ADDED = (
    "runs", "pods", "leaks", "lost_events", "double_pods", "twins", "kept_twice", "unnamed_pods", "unnamed_usd",
)  # fmt: skip


def run_batch(
    seeds: Iterable[int],
    *,
    processes: int,
    prepare: Prepare = as_is,
    tell: Callable[[str], None] = lambda text: None,
    cloud: str = DEFAULT_CLOUD,
) -> Sum:
    """Plays every seed at that cloud, or at each in its share. `prepare` is called with each world before it begins; it
    has to be a module's function. `tell` hears how far it is."""
    began, total = time.monotonic(), Sum()

    def add(result: Result) -> None:
        total.add(result)
        for sentence in result.broken[:1]:
            tell(f"seed {result.schedule.seed}: {sentence}")
        if total.schedules % TELL_EVERY == 0:
            tell(f"{total.schedules} schedules, {len(total.broken)} broken, {time.monotonic() - began:.0f} s")

    with _quiet():
        if processes == 1:
            for seed in seeds:
                add(_played((seed, cloud, prepare)))
        else:
            with multiprocessing.get_context("fork").Pool(processes, _settle_down, maxtasksperchild=250) as pool:
                for result in pool.imap_unordered(_played, ((seed, cloud, prepare) for seed in seeds), chunksize=8):
                    add(result)
    total.seconds = time.monotonic() - began
    return total


def shortest(it: Schedule, sentence: str, prepare: Prepare = as_is) -> tuple[Schedule, str]:
    """The shortest schedule that breaks the same promise, and its sentence."""
    promise, said = sentence.partition(":")[0], sentence

    def breaks(smaller: Schedule) -> bool:
        nonlocal said
        found = next((text for text in play_safely(smaller, prepare).broken if text.startswith(promise)), None)
        said = found or said
        return found is not None

    with _quiet():
        return shrink(it, breaks), said


def play_safely(it: Schedule, prepare: Prepare = as_is) -> Result:
    try:
        return play(it, prepare)
    except Exception as error:  # noqa: BLE001 — whatever it is, it is a finding with a seed
        return Result(schedule=it, broken=[f"crash: {type(error).__name__}: {error}"], figures=Figures())


def _played(job: tuple[int, str, Prepare]) -> Result:
    seed, cloud, prepare = job
    result = play_safely(schedule(seed, share(cloud, seed)), prepare)
    result.said.clear()
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return result


def _settle_down() -> None:
    """A tenth of the time goes into looking for garbage among what was imported: look at the rest, now and then."""
    gc.freeze()
    gc.disable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What pods print is not for this terminal."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        sys.stdout.flush()
        yield
