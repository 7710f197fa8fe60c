"""One container of a virtual pod: watchdog and agent as generators of waits, with the pod's own limits and verdicts."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from infra.simulator.state import Pod
from pushtrain.capabilities import CLOUDS
from pushtrain.pod.context import Context, read_context
from pushtrain.pod.phase import Phase, Seen, Standing, _states, advance, look
from pushtrain.pod.terminate import pause_ticks
from pushtrain.pod.watchdog import MOST_STARTS, Limits, Reason, View, arrive, verdict

from .agent import Agent, OpenLedger, Seat
from .boards import Boards
from .cloud import VirtualService
from .fault import Fault
from .trainer import Work
from .virtual import Scheduler

ACCEPTED = range(200, 300)


@dataclass(kw_only=True)
class Fate:
    """What a schedule has in store for one pod. `amount` is the crashing container's uptime, the agent's point, or how
    far the wall clock is ahead of the truth; blows come at the pod's age `at_s`."""

    never_starts: Fault | None = None
    crash_loop: Fault | None = None
    killed_at_point: Fault | None = None
    skewed: Fault | None = None
    blows: list[tuple[Fault, str]] = field(default_factory=list)


@dataclass(kw_only=True)
class Ground:
    """What all machines of one schedule share."""

    scheduler: Scheduler
    boards: Boards
    work: Work
    folder: Path
    open_ledger: OpenLedger | None = None
    at_work: Callable[[Pod, bool], None]
    """Told when a pod's agent begins and ends: one run has one at most."""
    start_s: float = 20.0


class Host(Protocol):
    """The machine a container runs on."""

    ground: Ground
    pod: Pod
    fate: Fate
    refused: list[tuple[float, float]]
    service: VirtualService
    env: Mapping[str, str]

    def end_itself(self) -> None: ...

    def strike(self, blow: str) -> bool: ...

    def log(self, source: str, line: str) -> None: ...


class Container:
    """Watchdog and agent as generators of waits; both are gone the moment the container ends."""

    def __init__(self, machine: Host) -> None:
        ground, pod = machine.ground, machine.pod
        self._machine, self._scheduler = machine, ground.scheduler
        self.started_s = ground.scheduler.now
        env = dict(machine.env) | {
            "PUSHTRAIN_WORKSPACE": str(ground.folder / (pod.volume_id or pod.id)),
            "PUSHTRAIN_TRAINER_PYTHON": "python3",
        }
        self.context: Context = read_context(env)
        self._folder = self.context.attempt_dir
        assert ground.open_ledger is not None
        fatal = machine.fate.killed_at_point
        self._seat = Seat(
            scheduler=ground.scheduler,
            boards=ground.boards,
            context=self.context,
            work=ground.work,
            pod_id=pod.id if CLOUDS[machine.service.rental.name].pod.pod_id else "",
            clock=self.clock,
            open_ledger=ground.open_ledger,
            log=lambda line: machine.log("container", line),
            shipper_dies_at=int(fatal.amount) if fatal is not None and fatal.what == "shipper" else None,
            crash=self._die,
            begins=lambda: self._at_work(True),
        )
        self.agent = Agent(self._seat)
        self._alive, self._told, self._watched = True, False, True
        self._points = 0
        self._play(self._watchdog(), lambda: self._watched)

    def clock(self) -> float:
        skewed = self._machine.fate.skewed
        return self._scheduler.now + (skewed.amount if skewed is not None else 0.0)

    def end(self) -> None:
        self._alive = False
        self._at_work(False)
        self.agent.kill()

    def _at_work(self, is_at_work: bool) -> None:
        self._machine.ground.at_work(self._machine.pod, is_at_work)

    def strike(self, blow: str) -> None:
        match blow:
            case "preemption":
                self._told = True
            case "kill_trainer":
                self.agent.orders.killed = True
            case "trainer_hangs":
                self.agent.orders.hangs = True
            case "trainer_fails":
                self.agent.orders.fails = True
            case "kill_agent":
                self._kill_agent(-9)
            case "kill_watchdog":
                # The container's first process takes over: it terminates the pod, for ever.
                self._watched = False
                self._play(self._terminate())

    def _kill_agent(self, code: int) -> None:
        if self.agent.exit_code is None:
            self.agent.exit_code = code
            self.agent.kill()
        self._at_work(False)

    def _play(self, steps: Iterator[float], while_true: Callable[[], bool] = lambda: True) -> None:
        """Carry out steps, each after the wait the one before asked for, as long as this container lives."""

        def step() -> None:
            if self._alive and while_true() and (pause := next(steps, None)) is not None:
                self._scheduler.after(pause, step)

        self._scheduler.after(0.0, step)

    def _watchdog(self) -> Generator[float, None, None]:
        """The steps of `pushtrain.pod.watchdog.guard`, with its own limits, views and verdicts."""
        context, now = self.context, self._scheduler.now
        cloud_s = now if self._machine.service.way.is_open() else None
        limits = Limits.starting(wall_s=self.clock(), monotonic_s=now, context=context, cloud_s=cloud_s)
        found = arrive(context, self._machine.pod.id)
        self._seen, self._standing = found.seen or Seen(), Standing(phase=Phase.BOOT, moved_s=now, since_s=now)
        reason = verdict(self._view(), limits)
        if reason is None and found.is_twin:
            reason = Reason.TWIN
        if reason is None and found.is_over:
            reason = Reason.ALREADY_ENDED
        if reason is None and found.vain_starts > MOST_STARTS:
            reason = Reason.CRASH_LOOP
        if reason is None:
            self._play(self._pointed(self.agent.steps()), lambda: self.agent.exit_code is None)
            while reason is None:
                yield context.tick_s
                self._look()
                reason = verdict(self._view(), limits)
            yield from self._stop(reason)
        yield from self._terminate()

    def _look(self) -> None:
        """One look of `pushtrain.pod.phase.Pulse`."""
        before, folder = self._seen, self._folder
        seen = look(folder, before)
        states, read_to = _states(folder / "events.jsonl", before.events_bytes, seen.events_bytes)
        self._standing = advance(self._standing, before, seen, states, self._scheduler.now)
        self._seen = replace(seen, events_bytes=read_to)

    def _view(self) -> View:
        return View(
            wall_s=self.clock(),
            monotonic_s=self._scheduler.now,
            moved_monotonic_s=self._standing.moved_s,
            phase=self._standing.phase,
            since_monotonic_s=self._standing.since_s,
            exit_code=self.agent.exit_code,
            told_to_stop=self._told,
        )

    def _stop(self, reason: Reason) -> Generator[float, None, None]:
        give_up_s = self._scheduler.now + self.context.grace_s
        self.agent.stop(reason.value)
        while self.agent.exit_code is None and self._scheduler.now < give_up_s:
            yield 1.0
        self._kill_agent(-9)

    def _terminate(self) -> Generator[float, None, None]:
        """For ever, until the cloud obeys and this very generator is gone."""
        began_s, tick_s, pod_id = self._scheduler.now, self.context.tick_s, self._machine.pod.id
        service = self._machine.service
        latency_s = service.way.pace(f"pod {pod_id}")
        ways = service.rental.ways(pod_id)
        while True:
            asked_s = self._scheduler.now
            for method, target, body in ways:
                yield service.way.slowness_s("pod_action") or latency_s()
                if service.way.is_open() and service.api.from_pod(pod_id, method, target, body) in ACCEPTED:
                    break
            if not ways:
                self._kill_agent(-9)
                self._machine.end_itself()
            pause_s = pause_ticks((self._scheduler.now - began_s) / tick_s) * tick_s
            self._machine.refused.append((asked_s, self._scheduler.now + pause_s))
            yield pause_s

    def _pointed(self, steps: Iterator[float]) -> Iterator[float]:
        """The agent's steps, with a moment to die before each."""
        for pause in steps:
            self._points += 1
            fatal = self._machine.fate.killed_at_point
            if fatal is not None and fatal.what == "agent" and self._points == int(fatal.amount):
                self._die()
            yield pause

    def _die(self) -> None:
        """One of our processes is killed at a point of its work, and the container with it; once."""
        fatal, self._machine.fate.killed_at_point = self._machine.fate.killed_at_point, None
        if fatal is not None:
            self._machine.ground.boards.hit(fatal)
            self._scheduler.after(0.0, lambda: self._machine.strike("container_restart") and None)
