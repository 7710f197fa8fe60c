"""The machines under the virtual cloud: their containers start late, crash, are started again or taken away."""

import shutil
from collections.abc import Mapping
from functools import partial

from infra.simulator.machine import Running
from infra.simulator.state import Pod

from .cloud import LogLine, VirtualService
from .container import Container, Fate, Ground
from .fault import Fault

# How long a container that ended stays away; RunPod's are not documented, Docker's begin at 0.1 s and double.
RESTART_S = 3.0


class Machines:
    """Told by the cloud what is rented; `fates` by the number of the pod, in the order they were made."""

    def __init__(self, ground: Ground, fates: dict[int, Fate]) -> None:
        self.ground = ground
        self.pods: dict[str, Machine] = {}
        self._fates = fates
        self._numbers: dict[str, int] = {}

    def pod_changed(self, pod: Pod, service: VirtualService) -> None:
        machine = self.pods.get(pod.id)
        if machine is None and "PUSHTRAIN_RUN_ID" in (env := service.rental.env_of(pod)):
            fate = self._fates.get(len(self.pods), Fate())
            machine = self.pods[pod.id] = Machine(self.ground, pod, fate, service, env)
        if machine is not None:
            machine.settle()

    def volume_gone(self, volume_id: str) -> None:
        shutil.rmtree(self.ground.folder / volume_id, ignore_errors=True)

    def running(self, pod_id: str) -> Running | None:
        machine = self.pods.get(pod_id)
        return machine.running() if machine is not None else None

    def log(self, pod_id: str) -> list[LogLine]:
        machine = self.pods.get(pod_id)
        return machine.lines if machine is not None else []

    def ran(self, pod_id: str) -> list[tuple[float, float]]:
        """When a container of this pod was running, from and to: a watchdog of ours, or what takes over from it."""
        machine = self.pods.get(pod_id)
        return [(since, until) for since, until in machine.ran] if machine is not None else []

    def refused(self, pod_id: str) -> list[tuple[float, float]]:
        """When the cloud would not end this pod, though it was asked to: until it was asked again."""
        machine = self.pods.get(pod_id)
        return machine.refused if machine is not None else []


class Machine:
    """The host of one pod: starts its container, and starts it again when it ends, until the pod is stopped. A machine
    that is the pod's own is switched off with its container, and is there, and billed, until somebody ends it."""

    def __init__(self, ground: Ground, pod: Pod, fate: Fate, service: VirtualService, env: Mapping[str, str]) -> None:
        self.ground, self.pod, self.fate, self.service, self.env = ground, pod, fate, service, env
        self.container: Container | None = None
        self.is_off = False
        self.deadline_s = float(env["PUSHTRAIN_DEADLINE_EPOCH_S"])
        self._booted_s: float | None = None
        self.restarts = -1
        self.ran: list[list[float]] = []
        self.refused: list[tuple[float, float]] = []
        self.lines: list[LogLine] = []
        self._starting = 0
        for fault, blow in fate.blows:
            ground.scheduler.after(fault.at_s, partial(self._befall, fault, blow))

    @property
    def wanted(self) -> bool:
        return self.pod.status == "RUNNING"

    def running(self) -> Running | None:
        """As the cloud sees it: of a machine not whether its container runs."""
        if self.service.rental.is_machine:
            return None if self._booted_s is None or not self.wanted else Running(1, self._booted_s, 0)
        return None if self.container is None else Running(1, self.container.started_s, self.restarts)

    def settle(self) -> None:
        if not self.wanted:
            self._end_container()
        elif self.fate.never_starts is not None:
            self.ground.boards.hit(self.fate.never_starts)
        elif self.container is None and not self._starting and not self.is_off:
            self._start_after(self.ground.start_s + self.service.rental.boots_s)

    def _befall(self, fault: Fault, blow: str) -> None:
        if self.strike(blow):
            self.ground.boards.hit(fault)

    def strike(self, blow: str) -> bool:
        """Something befalls the pod; False when there is nothing left that it could befall."""
        if self.pod.status == "TERMINATED":
            return False
        if blow in ("lost_pod", "preempted_away") or (blow == "container_restart" and self._leaves):
            self.service.lose(self.pod.id)
        elif blow == "container_restart":
            self._end_container()
            if self.service.rental.is_machine:
                self.is_off = True
            else:
                self._start_after(RESTART_S)
        elif self.container is not None:
            self.container.strike(blow)
            if blow == "preemption":
                self.ground.scheduler.after(15.0, lambda: self.strike("preempted_away") and None)
        else:
            return False
        return True

    def _start_after(self, seconds: float) -> None:
        self._starting += 1
        number = self._starting
        self.ground.scheduler.after(seconds, lambda: self._start(number))

    def _start(self, number: int) -> None:
        if not self.wanted or self.is_off or self.container is not None or number != self._starting:
            return
        self._starting, self._booted_s = 0, self.ground.scheduler.now
        self.restarts += 1
        self.log("system", "start container")
        self.container = Container(self)
        self.ran.append([self.ground.scheduler.now, float("inf")])
        if (crash := self.fate.crash_loop) is not None:
            self.ground.boards.hit(crash)
            self.ground.scheduler.after(crash.amount, partial(self._crash, self.container))
        if self.fate.skewed is not None:
            self.ground.boards.hit(self.fate.skewed)

    @property
    def _leaves(self) -> bool:
        """Whether the cloud ends a pod with its container, instead of starting that again."""
        return self.service.rental.ending == "leaves"

    def end_itself(self) -> None:
        """What the end of its work is where nobody is asked: the machine goes off, the pod is gone, or all stays."""
        if self._leaves and self.wanted:
            self.service.lose(self.pod.id)
        if self.service.rental.ending == "off":
            self.is_off = True
            self._end_container()

    def log(self, source: str, line: str) -> None:
        self.lines.append((self.ground.scheduler.now, source, line))

    def _crash(self, container: "Container") -> None:
        if self.container is container and self.wanted:
            self.strike("container_restart")

    def _end_container(self) -> None:
        self._starting = 0
        if self.container is not None:
            self.container.end()
            self.container = None
            self.ran[-1][1] = self.ground.scheduler.now
