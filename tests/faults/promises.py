"""The promises of docs/money.md, checked at every change of cloud and ledger; `rest` looks once more at the end."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from infra.simulator import billing
from infra.simulator.state import Account, Pod, Volume
from pushtrain.events import Event, EventDraft, decode
from pushtrain.ledger import RUNS
from pushtrain.run import is_kept, resource_prefix

from .figures import KEPT_MARK, LEDGER_URL, MARK, Figures, Listed
from .memory_git import MemoryRemote
from .rentals import RENTALS, Rental
from .virtual import Scheduler


class Promises:
    """Hears of everything as it happens; `broken` is what went wrong, in the order it did."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.broken: list[str] = []
        self.figures = Figures()
        self.accounts: dict[str, Account] = {}
        """By the names of their clouds."""
        self.hides: Callable[[str, Pod], bool] = lambda cloud, pod: False
        """Whether no list of that cloud has a pod yet."""
        self.remote = MemoryRemote(self._moved)
        self.receipts: dict[str, float] = {}
        """Run id → when its receipt landed."""
        self._scheduler = scheduler
        self._began = scheduler.now
        self.run_of: dict[str, str] = {}
        """Prefix of its resources → run id."""
        self.appended: list[tuple[str, str, list[str]]] = []
        """What an append reported as landed: run id, who, its events."""
        self.doubles: dict[str, float] = {}
        """Runs that have two living pods, since when."""
        self._at_work: dict[str, str] = {}

    def breaks(self, promise: str, what: str) -> None:
        self.broken.append(f"{promise}: {what} (at {self._scheduler.now - self._began:.1f} s)")
        self._scheduler.stop()

    # What the cloud did.

    def pod_made(self, pod: Pod, rental: Rental) -> None:
        run_id = self._owner(pod.name)
        if run_id is None:
            return
        self.figures.pods += 1
        attempt, deadline = int(pod.name.rpartition("-a")[2]), int(rental.env_of(pod)["PUSHTRAIN_DEADLINE_EPOCH_S"])
        wanted = (pod.gpu, pod.data_center, deadline)
        # A rung without a data center is a machine of its own, wherever it stands.
        planned = [
            (rental.gpu_of(it["gpu"]), it["data_center"] or pod.data_center, int(it["deadline_epoch_s"]))
            for it in self._rungs(run_id, rental, attempt)
        ]
        if wanted not in planned:
            self.breaks("intent", f"pod {pod.name} was made and no rung in the ledger says {wanted}")
        if len(self._living(run_id)) > 1:
            self.doubles.setdefault(run_id, self._scheduler.now)
            self.figures.twins += 1

    def volume_made(self, volume: Volume, rental: Rental) -> None:
        if is_kept(volume.name):
            return self._kept_made(volume, rental)
        run_id = self._owner(volume.name)
        if run_id is None:
            return
        places = {rung["data_center"] for rung in self._rungs(run_id, rental)}
        if volume.data_center not in places:
            self.breaks("intent", f"volume {volume.name} was made in {volume.data_center}, planned: {sorted(places)}")

    def _kept_made(self, volume: Volume, rental: Rental) -> None:
        """Some run that names it said where, before it was made."""
        places = set()
        for run_id in self.run_of.values():
            if self.run_json(run_id).get("kept_volume") == volume.name:
                places |= {rung["data_center"] for rung in self._rungs(run_id, rental)}
        if volume.data_center not in places:
            self.breaks("intent", f"{volume.name} was made in {volume.data_center}, planned: {sorted(places)}")

    def kept_gone(self, volume: Volume, rental: Rental) -> None:
        """Of two made at once one goes again, before anybody mounts it. Nothing else ever deletes a kept volume."""
        account = self.accounts[rental.name]
        same = [it for it in account.live_volumes() if it.name == volume.name and it.id != volume.id]
        used = [pod.name for pod in account.pods.values() if pod.volume_id == volume.id]
        if not same or used or not volume.name.startswith(KEPT_MARK):
            self.breaks("kept", f"{volume.name} ({volume.id}) was deleted; used by {used}, beside it {len(same)}")

    def gone(self, name: str) -> None:
        if not name.startswith(MARK):
            self.breaks("foreign", f"{name} was touched")
            return
        run_id = self._owner(name)
        if run_id in self.doubles and len(self._living(run_id)) <= 1:
            began = self.doubles.pop(run_id)
            self.figures.longest_twin_s = max(self.figures.longest_twin_s, self._scheduler.now - began)

    def at_work(self, pod: Pod, is_at_work: bool) -> None:
        """Agent and trainer of a pod began, or ended. Two at once on one volume would write over each other."""
        place = pod.name.rpartition("-")[0]  # one volume a run, or its own folder on one that runs share
        if not is_at_work:
            if self._at_work.get(place) == pod.id:
                del self._at_work[place]
        elif self._at_work.setdefault(place, pod.id) != pod.id:
            self.figures.double_pods += 1
            self.breaks("one pod", f"{pod.name}: {pod.id} begins while {self._at_work[place]} is at work")

    # What the ledger took.

    def landed(self, run_id: str, events: Sequence[EventDraft], who: str) -> None:
        """An append was reported as done."""
        self.appended.append((run_id, who, [key(event) for event in events]))

    def receipt_landed(self, run_id: str, receipt: Mapping[str, Any], listed: Listed) -> None:
        """Whoever wrote it says that the cloud was asked twice and had nothing."""
        if len(listed.pods) < 2 or len(listed.volumes) < 2:
            return self.breaks("receipt", f"{run_id}: the cloud was not asked twice")
        first_s, (pods, volumes) = min(listed.pods[0][0], listed.volumes[0][0]), self.rented(run_id)
        made = [(name, it) for name, it in pods if it.created_at < first_s]
        unnamed = [it for name, it in made if RENTALS[name].pod_id(it.id) not in receipt["pods"]]
        self.figures.unnamed_pods += len(unnamed)
        self.figures.unnamed_usd += sum(billing.pod_cost(it, 0.0, first_s).total for it in unnamed)
        # The twin of a named pod that no list has yet: nobody can know of it. It is counted above.
        named = tuple(f"{run_id}-a{it.attempt}" for it in self.events(run_id) if it.state == "provisioned")
        pods = [(name, it) for name, it in pods if not (it.name.endswith(named) and self.hides(name, it))]
        for asked, its in ((listed.pods, pods), (listed.volumes, volumes)):
            for start, end in asked:
                there = [it.name for _, it in its if it.spans[0].start < start and _is_there(it, end)]
                if there:
                    self.breaks("receipt", f"{run_id}: {there[0]} was there when the cloud was asked")

    def _moved(self, ref: str, old: str | None, new: str) -> None:
        if not ref.startswith(RUNS):
            return
        run_id, files = ref[len(RUNS) :], self.remote.commits[new].files
        before = self.remote.commits[old].files if old else {}
        if old is None:
            self.run_of[resource_prefix(run_id, LEDGER_URL)] = run_id
            self.figures.runs += 1
        if any(files.get(path) != blob for path, blob in before.items()):
            self.breaks("events", f"{run_id}: a push took something away")
        if "receipt.json" in files and "receipt.json" not in before:
            self.receipts[run_id] = self._scheduler.now

    # Helpers.

    def run_json(self, run_id: str) -> Mapping[str, Any]:
        files = self.remote.commits[self.remote.refs[RUNS + run_id]].files
        return dict(json.loads(self.remote.blobs[files["run.json"]]))

    def rented(self, run_id: str) -> tuple[list[tuple[str, Pod]], list[tuple[str, Volume]]]:
        """Every pod and volume that a run ever had, each with its cloud."""
        prefix, all_of_it = resource_prefix(run_id, LEDGER_URL) + "-", self.accounts.items()
        pods = [(name, it) for name, account in all_of_it for it in account.pods.values()]
        volumes = [(name, it) for name, account in all_of_it for it in account.volumes.values()]
        return (
            [(name, it) for name, it in pods if it.name.startswith(prefix)],
            [(name, it) for name, it in volumes if it.name.startswith(prefix)],
        )

    def _rungs(self, run_id: str, rental: Rental, attempt: int | None = None) -> Iterable[Mapping[str, Any]]:
        """What the ledger planned at that cloud, for an attempt or for all."""
        for event in self.events(run_id):
            is_here = event.data.get("cloud") in (None, rental.name)
            if event.state == "provisioning" and is_here and attempt in (None, event.attempt):
                yield from event.data.get("rungs") or ()

    def _owner(self, name: str) -> str | None:
        """The run a resource belongs to; None for what is not ours."""
        if not name.startswith(MARK):
            return None
        found = next((run_id for prefix, run_id in self.run_of.items() if name.startswith(prefix + "-")), None)
        if found is None:
            self.breaks("intent", f"{name} was made and no run in the ledger has that name")
        return found

    def events(self, run_id: str) -> list[Event]:
        files = self.remote.commits[self.remote.refs[RUNS + run_id]].files
        return [decode(self.remote.blobs[files[path]]) for path in sorted(files) if path.startswith("events/")]

    def _living(self, run_id: str) -> list[Pod]:
        return [it for _, it in self.rented(run_id)[0] if it.status == "RUNNING"]


def _is_there(it: Pod | Volume, moment: float) -> bool:
    return it.spans[-1].end is None or it.spans[-1].end > moment


def key(event: Event | EventDraft) -> str:
    said: Mapping[str, Any] = {
        "state": event.state,
        "writer": event.writer,
        "attempt": event.attempt,
        "reason": event.reason,
        "message": event.message,
        "data": dict(event.data),
    }
    return json.dumps(said, sort_keys=True)
