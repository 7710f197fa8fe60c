"""Virtual time, and the processes that live in it: exactly one runs at any moment, chosen by the clock alone.

A process is an OS thread (with helpers of its own, as asyncio's executor is one) that holds the baton between two
waits. Whoever waits drives the clock: it carries out what is due before its own time comes, on its own stack, and hands
the baton to another process only when that one is due. So one schedule always gives the same run.
"""

import heapq
import threading
from collections.abc import Callable
from itertools import count


class Died(BaseException):
    """kill -9: nothing after the line that raised it was done, and whatever is tried on the way out raises it again."""


class Process:
    """One process. `points` counts the moments between two effects it has passed: where it can be killed."""

    def __init__(self, scheduler: "Scheduler", name: str) -> None:
        self.name = name
        self.points = 0
        self.kill_at: int | None = None
        """The point at which it dies."""
        self.interrupt_at: int | None = None
        self.dead = False
        self.ended = False
        self._scheduler = scheduler
        self._token = 0
        self._go = threading.Lock()
        self._go.acquire()

    def point(self) -> None:
        """Between two effects. Raises Died (or KeyboardInterrupt) when the schedule says so."""
        self.points += 1
        if self.points == self.kill_at:
            self.dead = True
        if self.dead:
            raise Died
        if self.points == self.interrupt_at:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        if self.dead:
            raise Died
        self._scheduler.wait(self, self._scheduler.now + max(0.0, seconds))
        if self.dead:
            raise Died

    def kill(self) -> None:
        """Dies where it waits, now."""
        if not self.dead and not self.ended:
            self.dead = True
            self.wake()

    def wake(self) -> None:
        """Ends its wait now."""
        self._scheduler.plan_wake(self, self._scheduler.now)


class Event:
    """Stands for threading.Event between the processes of one schedule."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._set = self._waiting = False

    def set(self) -> None:
        self._set = True
        if self._waiting:
            self._process.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout_s: float) -> bool:
        if not self._set:
            self._waiting = True
            try:
                self._process.sleep(timeout_s)
            finally:
                self._waiting = False
        return self._set


class Scheduler:
    """`now` is the true time in epoch seconds. `failure` is what a process or a planned call raised and should not."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.failure: BaseException | None = None
        self.processes: list[Process] = []
        self._due: list[tuple[float, int, Process | None, int, Callable[[], None] | None]] = []
        self._numbers = count()
        self._main = Process(self, "main")

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Plan a call. It must not wait; it runs on whatever stack is at hand."""
        heapq.heappush(self._due, (max(when, self.now), next(self._numbers), None, 0, call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + seconds, call)

    def start(self, name: str, body: Callable[[Process], None], prepare: Callable[[Process], None]) -> Process:
        """A process that begins now, once the caller waits. `prepare` sees it before."""
        process = Process(self, name)
        prepare(process)
        self.processes.append(process)

        def main() -> None:
            process._go.acquire()
            try:
                if not process.dead:
                    body(process)
            except Died:
                pass
            except BaseException as error:  # noqa: BLE001 — seen by `run`
                self._failed(error)
            process.ended = True
            self._drive(process)

        threading.Thread(target=main, name=name, daemon=True).start()
        self.plan_wake(process, self.now)
        return process

    def run(self, until: float) -> None:
        """Let time pass; returns at `until`, or when `stop` is called. Raises what went wrong."""
        self.wait(self._main, until)
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """`run` returns as soon as whoever runs waits."""
        self._main.wake()

    def close(self) -> None:
        """End every process; afterwards none of their threads does anything."""
        self._due.clear()
        for process in self.processes:
            if not process.ended:
                process.dead = True
                self.plan_wake(process, self.now)
        self.plan_wake(self._main, self.now)
        while any(not process.ended for process in self.processes):
            self._drive(self._main)
            self.plan_wake(self._main, self.now)

    def wait(self, process: Process, until: float) -> None:
        """Until then, or until somebody wakes it."""
        if not self._due or self._due[0][0] > until:
            self.now = max(self.now, until)  # nothing else happens before: the usual case
            return
        self.plan_wake(process, until)
        self._drive(process)

    def plan_wake(self, process: Process, when: float) -> None:
        process._token += 1
        heapq.heappush(self._due, (when, next(self._numbers), process, process._token, None))

    def _drive(self, me: Process) -> None:
        """Carry out what is due until it is this process's turn; one that has ended only hands the baton on."""
        while True:
            when, _, process, token, call = heapq.heappop(self._due)
            if process is None:
                self.now = max(self.now, when)
                assert call is not None
                try:
                    call()
                except BaseException as error:  # noqa: BLE001 — seen by `run`
                    self._failed(error)
                continue
            if process.ended or token != process._token:
                continue
            self.now = max(self.now, when)
            process._token += 1
            if process is me:
                return
            process._go.release()
            if not me.ended:
                me._go.acquire()
            return

    def _failed(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self.stop()
