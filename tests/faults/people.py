"""Who starts control planes: the Actions of one repository, and people at their laptops."""

import re

from pushtrain.control import Control
from pushtrain.follow import cancel, follow
from pushtrain.foreground import _cancel as cancel_own
from pushtrain.reconcile import Tick, tick
from pushtrain.retry import retry
from pushtrain.sweep import remove_orphans, survey
from pushtrain.volumes.account import Account

from .fault import Fault
from .office import Office
from .virtual import Process

# A hosted machine is made, the repository checked out and the environment installed before anything happens.
ACTION_STARTS_S = 25.0
# GitHub: SIGINT, 7.5 s later SIGTERM, which ends Python.
CANCEL_GRACE_S = 7.5


class Actions:
    """train.yml: one at a time, one waiting, started by a push and every hour."""

    def __init__(self, office: Office, hour_s: float) -> None:
        self._office, self._hour_s = office, hour_s
        self.running: Process | None = None
        self.last = Tick()
        self.dropped: list[Fault] = []
        """Hours at which GitHub starts nothing."""
        self._is_starting = self._is_waiting = False
        office.scheduler.after(hour_s, self._hour)

    @property
    def busy(self) -> bool:
        return self._is_starting or (self.running is not None and not self.running.ended)

    def ask(self) -> None:
        if self.busy:
            self._is_waiting = True
        else:
            self._is_starting = True
            self._office.scheduler.after(ACTION_STARTS_S, self._start)

    def cancel(self) -> bool:
        """Somebody presses Cancel; False when nothing runs."""
        running = self.running
        if running is None or running.ended:
            return False
        running.interrupt_at = running.points + 1
        self._office.scheduler.after(CANCEL_GRACE_S, running.kill)
        return True

    def _hour(self) -> None:
        if self.dropped:
            self._office.boards.hit(self.dropped.pop())
        else:
            self.ask()
        self._office.scheduler.after(self._hour_s, self._hour)

    def _start(self) -> None:
        office = self._office
        self._is_starting = False
        number = len(office.shifts)

        def work(control: Control) -> None:
            try:
                follow(control, max_minutes=office.max_minutes, once=self._ticked)
            finally:
                office.scheduler.after(1.0, self._next)

        state = "state" if office.keeps_state else f"state-{number}"
        self.running = office.start("action", work, office.repository.checkout(), state)

    def _ticked(self, done: Tick) -> None:
        self.last = done

    def _next(self) -> None:
        if self._is_waiting and not self.busy:
            self._is_waiting = False
            self.ask()


def reconcile_by_hand(office: Office, minutes: float, state: str, back: int) -> None:
    """Another machine, or another terminal on the same one: `state` "shared" or "own"."""

    def work(control: Control) -> None:
        if minutes:
            follow(control, max_minutes=minutes, once=lambda done: None)
        else:
            tick(control)

    office.start("laptop", work, office.repository.checkout(back), "state" if state == "shared" else "laptop")


def cancel_by_hand(office: Office) -> None:
    def work(control: Control) -> None:
        for run_id in control.ledger.refs():
            cancel(control, run_id, reason="Cancelled")

    office.start("cancel", work, office.repository.checkout(), "laptop")


def retry_by_hand(office: Office) -> None:
    def work(control: Control) -> None:
        retry(control, "job", by="somebody", why="once more")

    office.start("retry", work, office.repository.checkout(), "laptop")


def run_by_hand(office: Office, stopped_after_s: float) -> None:
    """`pushtrain run job`, and Ctrl-C: the steps of pushtrain.foreground, which listens to real signals."""

    def work(control: Control) -> None:
        try:
            follow(control, max_minutes=600, only="job", once=lambda done: None)
        except KeyboardInterrupt:
            cancel_own(control, control.source.desired().jobs["job"], lambda done: None)

    process = office.start("run", work, office.repository.checkout(), "laptop")

    def interrupt() -> None:
        process.interrupt_at = process.points + 1

    if stopped_after_s and "job" in office.repository.commits[-1].jobs:
        office.scheduler.after(stopped_after_s, interrupt)


def sweep_by_hand(office: Office) -> None:
    def work(control: Control) -> None:
        remove_orphans(control, survey(control).orphans, wait_s=control.settings.teardown_wait_s)

    office.start("sweep", work, office.repository.checkout(), "laptop")


def delete_as_told(office: Office, told: str) -> None:
    """Somebody reads the red Action and types the commands that it names."""

    def work(control: Control) -> None:
        account = Account(cloud=control.cloud, ledger=control.ledger, say=control.say)
        for volume_id in re.findall(r"`pushtrain volumes delete (\S+) --yes`", told):
            account.delete(volume_id, yes=True, wait=lambda: False)

    office.start("volumes", work, office.repository.checkout(), "laptop")
