"""Boot and agent of a virtual pod: the steps of pushtrain.pod.{boot,agent}, with the real spool, shipper, outcome and
ledger code; installing and training are waits."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pushtrain.events import EventDraft, now_text
from pushtrain.ledger import Ledger
from pushtrain.pod.agent import ARRIVAL_TICKS, LAST_EFFORT_S, SAVING_SHARE
from pushtrain.pod.arrival import Arrival
from pushtrain.pod.boot import TRIES
from pushtrain.pod.context import EXIT_BOOT_FAILED, EXIT_TWIN, Context
from pushtrain.pod.outcome import Outcome, Remains, decide
from pushtrain.pod.shipper import Shipper
from pushtrain.pod.spool import Spool

from .boards import Boards
from .trainer import Clock, Orders, Work, train
from .virtual import Died, Event, Process, Scheduler

Steps = Generator[float, None, int]


class OpenLedger(Protocol):
    """The pod's own ledger, as a process of its own reaches it."""

    def __call__(self, process: Process) -> Ledger: ...


@dataclass(kw_only=True)
class Seat:
    """Where a container sits: what its agent needs of the world. `clock` is the pod's own wall clock, `pod_id` what the
    cloud tells it of itself: at some nothing."""

    scheduler: Scheduler
    boards: Boards
    context: Context
    work: Work
    pod_id: str
    clock: Clock
    open_ledger: OpenLedger
    log: Callable[[str], None]
    shipper_dies_at: int | None
    crash: Callable[[], None]
    """Told when the shipper died at that point: its process is the agent's."""
    begins: Callable[[], None]
    """Told when the agent has looked whose attempt it is, and works from here on."""


class VirtualShipper(Shipper):
    """The real shipper on a virtual thread."""

    def __init__(self, seat: Seat, process: Process) -> None:
        context, ledger = seat.context, seat.open_ledger(process)
        spool = Spool(context.attempt_dir, attempt=context.attempt, clean=str)
        self.arrival = Arrival(ledger, context.run_id, context.attempt, seat.pod_id)
        super().__init__(
            spool,
            self.arrival.append,
            every_s=context.ship_every_s,
            tick_s=context.tick_s,
            clock=lambda: seat.scheduler.now,
        )
        self._wake = Event(process)  # type: ignore[assignment]

    def close_with(self, draft: EventDraft, files: dict[str, bytes]) -> None:
        """`finish` without the wait, which is the agent's own here."""
        self._spool.say(draft, files, is_last=True)
        self._closing = True
        self._wake.set()

    def run(self) -> None:
        self._run()


class Agent:
    """One container's boot and agent. `steps` is the whole of it; `kill` ends it and its shipper at once."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self.orders = Orders()
        self.exit_code: int | None = None
        self.stop_reason = ""
        self.shipping: Process | None = None
        self._shipper: VirtualShipper | None = None

    def kill(self) -> None:
        if self.shipping is not None:
            self.shipping.kill()

    def stop(self, reason: str) -> None:
        """SIGTERM; `reason` is what the watchdog wrote, empty when it came from elsewhere."""
        self.stop_reason, self.orders.stop = reason, True

    def steps(self) -> Generator[float, None, None]:
        code = yield from self._boot()
        self.exit_code = code if code is not None else (yield from self._attempt())

    def _boot(self) -> Generator[float, None, int | None]:
        seat, checkout = self._seat, self._seat.context.checkout
        if checkout.exists():
            yield 1.0
            seat.log("boot: commit is here already")
            return None
        for attempt in range(TRIES):
            yield seat.work.fetch_s
            seat.log("boot: fetched" if not seat.boards.source else "boot: no answer; trying again")
            if not seat.boards.source:
                checkout.mkdir(parents=True)
                return None
            yield seat.context.tick_s * 2**attempt
        return EXIT_BOOT_FAILED

    def _attempt(self) -> Steps:
        context = self._seat.context
        context.attempt_dir.mkdir(parents=True, exist_ok=True)
        self._beat()
        dies_at = self._seat.shipper_dies_at
        self.shipping = self._seat.scheduler.start("shipper", self._ship, lambda it: setattr(it, "kill_at", dies_at))
        yield 0.0  # the shipper makes itself
        self._say("booting", pod=self._seat.pod_id, python="3.12")
        if (yield from self._is_twin()):
            return EXIT_TWIN
        self._seat.begins()
        earlier = self._remains(None)
        if earlier.failure is not None or decide(earlier).state == "finished":
            return (yield from self._report(decide(earlier)))
        yield from self._wait(self._seat.work.environment_s)
        if self.orders.stop:
            return (yield from self._report(decide(self._remains(None))))
        self._say("environment", python="3.12")
        work, hub = self._seat.work, self._seat.boards.hub
        training = train(context.run_dir, context.attempt, work, self.orders, hub, self._seat.clock)
        code = yield from self._watched(training)
        return (yield from self._report(decide(self._remains(code))))

    def _is_twin(self) -> Generator[float, None, bool]:
        assert self._shipper is not None
        arrival, give_up_s = self._shipper.arrival, self._seat.scheduler.now + ARRIVAL_TICKS * self._seat.context.tick_s
        while not arrival.is_known and not self.orders.stop and self._seat.scheduler.now < give_up_s:
            yield self._seat.context.tick_s
        return bool(arrival.other)

    def _watched(self, training: Steps) -> Steps:
        """The trainer under the agent's eyes: the heartbeat moves when its files do, and SIGKILL follows SIGTERM."""
        told_s, context, sizes = None, self._seat.context, list[int]()
        files = [context.attempt_dir / name for name in ("events.jsonl", "metrics.jsonl")]
        while True:
            try:
                pause = next(training)
            except StopIteration as end:
                return int(end.value)
            fresh = [_size(file) for file in files]
            if fresh != sizes:
                sizes = fresh
                self._beat()
                self._seat.log(f"trainer: {fresh}")
            yield pause
            now = self._seat.scheduler.now
            told_s = told_s or (now if self.orders.stop else None)
            if told_s is not None and now - told_s > context.grace_s * SAVING_SHARE:
                return -9

    def _report(self, outcome: Outcome) -> Steps:
        context = self._seat.context
        if outcome.state != "preempted":
            end = {"state": outcome.state, "reason": outcome.reason, "message": outcome.message, "time": 0.0}
            context.ended.write_text(json.dumps(end))
        draft = self._draft(outcome.state, reason=outcome.reason, message=outcome.message, data=dict(outcome.data))
        assert self._shipper is not None and self.shipping is not None
        self._shipper.close_with(draft, dict(outcome.files))
        patience_s = context.grace_s * (1 - SAVING_SHARE) if self.orders.stop else LAST_EFFORT_S
        give_up_s = self._seat.scheduler.now + patience_s
        while not self.shipping.ended and self._seat.scheduler.now < give_up_s:
            yield 1.0
        self.shipping.kill()
        return outcome.exit_code

    def _ship(self, process: Process) -> None:
        self._shipper = VirtualShipper(self._seat, process)
        try:
            self._shipper.run()
        except Died:
            if process.points == process.kill_at:
                self._seat.crash()
            raise

    def _wait(self, seconds: float) -> Generator[float, None, None]:
        end_s = self._seat.scheduler.now + seconds
        while self._seat.scheduler.now < end_s and not self.orders.stop:
            self._beat()
            yield min(10.0, end_s - self._seat.scheduler.now)

    def _beat(self) -> None:
        self._seat.context.heartbeat.touch()

    def _remains(self, exit_code: int | None) -> Remains:
        folder = self._seat.context.attempt_dir
        return Remains(
            exit_code=exit_code,
            result=_read(folder / "result.json"),
            failure=_read(folder / "failure.json"),
            stopped=self.orders.stop,
            stop_reason=self.stop_reason,
        )

    def _say(self, state: str, **data: Any) -> None:
        assert self._shipper is not None
        self._shipper.say(self._draft(state, data=data))

    def _draft(self, state: str, *, reason: str = "", message: str = "", data: dict[str, Any]) -> EventDraft:
        return EventDraft(
            state=state,
            writer="pod",
            attempt=self._seat.context.attempt,
            reason=reason,
            message=message,
            data=data,
            time=now_text(self._seat.clock()),
        )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
