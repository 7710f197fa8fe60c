"""What is wrong right now with the ledger's remote, the Hub, the source and the way to the cloud."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pushtrain.errors import LedgerUnavailable

from .fault import Fault, Hit
from .memory_git import CutOff
from .virtual import Process, Scheduler

GIT_PATIENCE_S = 60.0


class Windows:
    """Times during which something is away, each from a fault's time for its `amount` of seconds."""

    def __init__(self, scheduler: Scheduler, hit: Hit) -> None:
        self._scheduler, self._hit = scheduler, hit
        self._away: list[tuple[float, float, Fault]] = []

    def add(self, fault: Fault) -> None:
        """From now on."""
        self._away.append((self._scheduler.now, self._scheduler.now + fault.amount, fault))

    def __bool__(self) -> bool:
        """It is away now, and somebody wanted to know."""
        for start, end, fault in self._away:
            if start <= self._scheduler.now < end:
                self._hit(fault)
                return True
        return False

    def moments(self) -> list[float]:
        return [moment for start, end, _ in self._away for moment in (start, end)]

    def seconds_within(self, start: float, end: float) -> float:
        return sum(max(0.0, min(end, to) - max(start, begin)) for begin, to, _ in self._away)


class Way:
    """The way to one cloud."""

    def __init__(self, scheduler: Scheduler, hit: Hit, pace: Callable[[str], Callable[[], float]]) -> None:
        self.pace, self._hit = pace, hit
        self.away = Windows(scheduler, hit)
        self.refusing = Windows(scheduler, hit)
        """The cloud answers, and takes nobody's key."""
        self.slow: list[Fault] = []
        """The next request of the operation `what` is answered `amount` seconds later."""

    def is_open(self) -> bool:
        return not self.away

    def slowness_s(self, operation: str) -> float | None:
        """How slow the cloud is with this very request; None when it is not."""
        found = next((it for it in self.slow if operation.startswith(it.what)), None)
        if found is None:
            return None
        self.slow.remove(found)
        self._hit(found)
        return found.amount


class Boards:
    """Every outage of one schedule. `hit` hears of each fault that took effect."""

    def __init__(self, scheduler: Scheduler, seed: int, hit: Hit, clouds: Iterable[str]) -> None:
        self._seed, self.hit = seed, hit
        self.ways = {name: Way(scheduler, hit, self.pace) for name in clouds}
        self.hub = Windows(scheduler, hit)
        self.source = Windows(scheduler, hit)
        self.ledger = {"pod": Windows(scheduler, hit), "control": Windows(scheduler, hit)}
        self.hanging_ledger = Windows(scheduler, hit)
        self.cut_pushes: list[Fault] = []
        self.late_pushes: list[Fault] = []
        self.pushes_under_way = 0
        """Pushes that their sender has given up, and that the remote will take nevertheless."""
        self.waiting_for_push = Windows(scheduler, hit)
        """A control plane waits for the answer to a push that is late."""

    def pace(self, who: str) -> Callable[[], float]:
        """Latencies in seconds for one process: its own, so that one fault less moves nothing else."""
        rng = random.Random(f"{self._seed} {who}")
        return lambda: 0.02 + 0.4 * rng.random() ** 4


class LedgerLink:
    """One machine's way to the ledger's remote: a moment to die before and after each exchange."""

    def __init__(self, process: Process, scheduler: Scheduler, boards: Boards, who: str, name: str) -> None:
        self._process, self._scheduler, self._boards, self._who = process, scheduler, boards, who
        self._latency_s = boards.pace(f"ledger {name}")

    def __call__(self, verb: str, carry_out: Callable[[], Any]) -> Any:
        self._process.point()
        self._process.sleep(self._latency_s())
        if self._boards.hanging_ledger:
            self._process.sleep(GIT_PATIENCE_S)
            raise LedgerUnavailable(f"git {verb} took longer than {GIT_PATIENCE_S:.0f} s", hint="it is tried again")
        if self._boards.ledger[self._who]:
            raise CutOff("unable to access the remote: Connection refused")
        if verb == "push" and self._boards.late_pushes:
            late = self._boards.late_pushes.pop()
            self._boards.hit(late)
            if self._who == "control":
                self._boards.waiting_for_push.add(replace(late, amount=GIT_PATIENCE_S))
            self._boards.pushes_under_way += 1
            self._scheduler.after(late.amount, lambda: self._arrive(carry_out))
            self._process.sleep(GIT_PATIENCE_S)
            raise LedgerUnavailable(f"git {verb} took longer than {GIT_PATIENCE_S:.0f} s", hint="it is tried again")
        done = carry_out()
        self._process.point()
        self._process.sleep(self._latency_s())
        if verb == "push" and self._boards.cut_pushes:
            self._boards.hit(self._boards.cut_pushes.pop())
            raise CutOff("the remote end hung up unexpectedly")
        return done

    def _arrive(self, carry_out: Callable[[], Any]) -> None:
        self._boards.pushes_under_way -= 1
        carry_out()
