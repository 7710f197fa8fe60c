"""Hears from the ledger that a run is being taken down: nothing is ever sent to a pod, so it looks."""

import threading
import time

from pushtrain.errors import PushtrainError
from pushtrain.ledger import Ledger

# What the control plane says before it takes a pod away; a session is left a few minutes for it.
_ENDING = ("cancelled", "destroying")


class Cancelled:
    """Asks every `every_s`, from a thread of its own: a remote that hangs must not hold up a session. `reason` is empty
    until the ledger says that the run is over."""

    def __init__(self, ledger: Ledger, run_id: str, every_s: float) -> None:
        self.reason = ""
        self._ledger, self._run_id, self._every_s = ledger, run_id, every_s
        self._tip = ""

    def start(self) -> "Cancelled":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def look(self) -> str:
        """The reason by the ledger as it is now. Raises LedgerError."""
        tip = self._ledger.refs().get(self._run_id)
        if tip is None or tip == self._tip:
            return self.reason
        events = self._ledger.read(self._run_id, tip).events
        self._tip = tip
        return next((event.reason or event.state for event in events if event.state in _ENDING), "")

    def _watch(self) -> None:
        while not self.reason:
            time.sleep(self._every_s)
            try:
                self.reason = self.look()
            except PushtrainError:
                continue  # the budget ends the session all the same, and what the agent sends says what is wrong
