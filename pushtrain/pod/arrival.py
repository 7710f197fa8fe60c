"""A pod's first word in the ledger, and whose attempt it is by then.

On a network volume a second pod of an attempt finds the first one's id (`pushtrain.pod.watchdog.arrive`). Where pods
share none, the ledger tells: a create that its cloud carried out minutes late comes to an attempt that has its pod.
"""

import threading
from collections.abc import Mapping, Sequence

from pushtrain.events import Event, EventDraft
from pushtrain.ledger import Ledger
from pushtrain.record import RENTED


class Arrival:
    """Between the shipper, in whose thread the first word lands, and the agent, which waits for what it met there."""

    def __init__(self, ledger: Ledger, run_id: str, attempt: int, pod_id: str) -> None:
        self._ledger, self._run_id = ledger, run_id
        self._attempt, self._pod_id = attempt, pod_id
        self._looked = threading.Event()
        self.other = ""
        """The pod whose attempt this is; empty where it is this one's, or nobody knows (yet)."""

    def append(self, *, events: tuple[EventDraft, ...], log: bytes, metrics: bytes, files: Mapping[str, bytes]) -> str:
        """`Ledger.append` for the run; after the first word the run is read once. Raises LedgerError."""
        tip = self._ledger.append(self._run_id, events=events, log=log, metrics=metrics, files=files)
        if self._pod_id and not self.is_known and any(event.state == "booting" for event in events):
            record = self._ledger.read(self._run_id)
            self.other = other_pod(record.events, record.paths, self._attempt, self._pod_id)
            self._looked.set()
        return tip

    @property
    def is_known(self) -> bool:
        """Whether there is nothing to wait for: the ledger was looked at, or the pod was never told its id."""
        return not self._pod_id or self._looked.is_set()

    def wait(self, timeout_s: float) -> None:
        self._looked.wait(timeout_s)


def other_pod(events: Sequence[Event], paths: Mapping[str, str], attempt: int, pod_id: str) -> str:
    """Another pod that has spoken in this attempt before this one, and was not ended since: the first of them. It goes
    on, whichever one the control plane has named: it is at work."""
    mine = [event for event in events if event.attempt == attempt]
    spoke = [str(it.data.get("pod") or "") for it in mine if it.state == "booting"]
    there = [it for it in spoke if it and f"{RENTED}pod-{it}" not in paths]
    if not there or there[0] == pod_id or any(it.state == "lost" for it in mine):
        return ""
    return there[0]
