"""Faults of the simulated cloud, switched on and off while it runs. Pure: who has the time asks `take`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Kind = Literal[
    "no_capacity",
    "no_stock",
    "error_after_create",
    "lost_answer",
    "slow",
    "http_401",
    "http_402",
    "http_403",
    "http_410",
    "http_429",
    "http_500",
    "http_502",
    "lost_pod",
    "container_restart",
    "crash_loop",
    "volume_busy",
    "never_starts",
    "no_public_ip",
    "no_sshd",
    "slow_sshd",
    "volume_full",
    "transfer_cut",
    "refused_but_rented",
    "pays_in_rupees",
    "outbid",
]
HubKind = Literal["hub_down", "hub_upload_down", "hub_upload_cut", "hub_commit_lost"]


@dataclass(kw_only=True, slots=True)
class Fault:
    """One fault.

    `times`: how often it still strikes; None: until it is switched off. `match`: subject → pattern with `*`, all of
    which must fit; subjects are operation, gpu, data_center, pod_id, pod_name, volume_id, volume_name. `seconds`: how
    long for slow, what Retry-After says for http_429, the pod's least age for lost_pod and outbid, and the container's
    least uptime for container_restart and crash_loop, how much later sshd starts for slow_sshd. no_public_ip, no_sshd
    and slow_sshd strike a pod's start: no address from outside, an image without sshd, an sshd that takes its time.
    """

    id: str
    kind: Kind
    times: int | None = 1
    match: dict[str, str] = field(default_factory=dict)
    seconds: float = 1.0

    def fits(self, kind: Kind, subject: dict[str, str]) -> bool:
        return (
            self.kind == kind
            and self.times != 0
            and all(name in subject and fnmatchcase(subject[name], pattern) for name, pattern in self.match.items())
        )

    def use(self) -> None:
        if self.times is not None:
            self.times -= 1


class Faults:
    """The board of faults. `subject` names what is being done, in the words of `Fault.match`."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._faults: list[Fault] = []

    def add(self, kind: Kind, times: int | None, match: dict[str, str], seconds: float) -> Fault:
        fault = Fault(id=self._new_id(), kind=kind, times=times, match=match, seconds=seconds)
        self._faults.append(fault)
        return fault

    def active(self) -> list[Fault]:
        return [fault for fault in self._faults if fault.times != 0]

    def clear(self, fault_id: str | None = None) -> None:
        """Switch off one, or all."""
        self._faults = [fault for fault in self._faults if fault_id is not None and fault.id != fault_id]

    def find(self, kind: Kind, **subject: str) -> Fault | None:
        """The first fault that fits, without using it up."""
        return next((fault for fault in self._faults if fault.fits(kind, subject)), None)

    def take(self, kind: Kind, **subject: str) -> Fault | None:
        """The first fault that fits, used once."""
        fault = self.find(kind, **subject)
        if fault is not None:
            fault.use()
        return fault
