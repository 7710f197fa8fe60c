"""The promises of docs/money.md, checked at every change of cloud and ledger and once more when all is at rest."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.simulator import billing
from infra.simulator.state import Account, Pod, Volume
from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.events import Event, EventDraft, broken_links, decode
from pushtrain.ledger import RUNS
from pushtrain.run import is_kept, kept_prefix, kept_volume_name, ledger_prefix, resource_prefix

from .memory_git import MemoryRemote
from .virtual import Scheduler

LEDGER_URL = "https://git.example/o/runs.git"
MARK = ledger_prefix(LEDGER_URL)
OTHER_MARK = ledger_prefix("https://git.example/o/other-runs.git")
KEPT_MARK = kept_prefix(LEDGER_URL)
# Made before all of it: one of ours that no run uses, and another ledger's of the name that runs here use.
IDLE = kept_volume_name("idle", LEDGER_URL)
OTHERS = kept_volume_name("models", "https://git.example/o/other-runs.git")


@dataclass(kw_only=True)
class Figures:
    """What is worth telling of one schedule. Seconds and dollars."""

    runs: int = 0
    pods: int = 0
    unnamed_pods: int = 0
    """Not on the receipt: they came and went, and no control plane ever saw them."""
    unnamed_usd: float = 0.0
    leaks: int = 0
    lost_events: int = 0
    double_pods: int = 0
    """Two of one run at work at once."""
    twins: int = 0
    """Second pods that were made, by two reconciles at once or a request carried out late, and ended before work."""
    longest_twin_s: float = 0.0
    longest_orphan_s: float = 0.0
    overshoot_usd: float = 0.0
    overshoot_share: float = 0.0
    excused_usd: float = 0.0
    kept: int = 0
    """Volumes that are there at rest, on purpose."""
    kept_twice: int = 0
    """One was there beside it, made minutes late; the Action told, and somebody deleted it as it said."""


@dataclass(kw_only=True)
class Listed:
    """When a control plane last asked the cloud for everything: the two latest askings, each from its first page to its
    last."""

    pods: list[list[float]] = field(default_factory=list)
    volumes: list[list[float]] = field(default_factory=list)

    def page(self, kind: str, now: float, is_first: bool) -> None:
        asked = self.pods if kind == "pod" else self.volumes
        if is_first or not asked:
            asked.append([now, now])
            del asked[:-2]
        asked[-1][1] = now


class Promises:
    """Hears of everything as it happens; `broken` is what went wrong, in the order it did."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.broken: list[str] = []
        self.figures = Figures()
        self.account: Account | None = None
        self.remote = MemoryRemote(self._moved)
        self.receipts: dict[str, float] = {}
        """Run id → when its receipt landed."""
        self._scheduler = scheduler
        self._began = scheduler.now
        self._run_of: dict[str, str] = {}
        self._landed: list[tuple[str, str, list[str]]] = []
        self._doubles: dict[str, float] = {}
        self._at_work: dict[str, str] = {}

    def breaks(self, promise: str, what: str) -> None:
        self.broken.append(f"{promise}: {what} (at {self._scheduler.now - self._began:.1f} s)")
        self._scheduler.stop()

    # What the cloud did.

    def pod_made(self, pod: Pod) -> None:
        run_id = self._owner(pod.name)
        if run_id is None:
            return
        self.figures.pods += 1
        env, attempt = pod.env, int(pod.name.rpartition("-a")[2])
        said = [it for it in self._events(run_id) if it.state == "provisioning" and it.attempt == attempt]
        rungs = [rung for event in said for rung in event.data.get("rungs") or ()]
        deadline = int(env["PUSHTRAIN_DEADLINE_EPOCH_S"])
        wanted = (pod.gpu, pod.data_center, deadline)
        # A rung without a data center is a machine of its own, wherever it stands.
        planned = [(it["gpu"], it["data_center"] or pod.data_center, int(it["deadline_epoch_s"])) for it in rungs]
        if wanted not in planned:
            self.breaks("intent", f"pod {pod.name} was made and no rung in the ledger says {wanted}")
        if len(self._living(run_id)) > 1:
            self._doubles.setdefault(run_id, self._scheduler.now)
            self.figures.twins += 1

    def volume_made(self, volume: Volume) -> None:
        if is_kept(volume.name):
            return self._kept_made(volume)
        run_id = self._owner(volume.name)
        if run_id is None:
            return
        planned = [it for it in self._events(run_id) if it.state == "provisioning"]
        places = {rung["data_center"] for event in planned for rung in event.data.get("rungs") or ()}
        if volume.data_center not in places:
            self.breaks("intent", f"volume {volume.name} was made in {volume.data_center}, planned: {sorted(places)}")

    def _kept_made(self, volume: Volume) -> None:
        """Some run that names it said where, before it was made."""
        places = set()
        for run_id in self._run_of.values():
            if self._run_json(run_id).get("kept_volume") == volume.name:
                planned = [event for event in self._events(run_id) if event.state == "provisioning"]
                places |= {rung["data_center"] for event in planned for rung in event.data.get("rungs") or ()}
        if volume.data_center not in places:
            self.breaks("intent", f"{volume.name} was made in {volume.data_center}, planned: {sorted(places)}")

    def kept_gone(self, volume: Volume) -> None:
        """Of two made at once one goes again, before anybody mounts it. Nothing else ever deletes a kept volume."""
        account = self._cloud()
        same = [it for it in account.live_volumes() if it.name == volume.name and it.id != volume.id]
        used = [pod.name for pod in account.pods.values() if pod.volume_id == volume.id]
        if not same or used or not volume.name.startswith(KEPT_MARK):
            self.breaks("kept", f"{volume.name} ({volume.id}) was deleted; used by {used}, beside it {len(same)}")

    def gone(self, name: str) -> None:
        if not name.startswith(MARK):
            self.breaks("foreign", f"{name} was touched")
            return
        run_id = self._owner(name)
        if run_id in self._doubles and len(self._living(run_id)) <= 1:
            began = self._doubles.pop(run_id)
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
        self._landed.append((run_id, who, [_key(event) for event in events]))

    def receipt_landed(self, run_id: str, receipt: Mapping[str, Any], listed: Listed) -> None:
        """Whoever wrote it says that the cloud was asked twice and had nothing."""
        if len(listed.pods) < 2 or len(listed.volumes) < 2:
            return self.breaks("receipt", f"{run_id}: the cloud was not asked twice")
        resources = self._resources(run_id)
        account, first_s = self._cloud(), min(listed.pods[0][0], listed.volumes[0][0])
        prefix = resource_prefix(run_id, LEDGER_URL) + "-"
        made = [it for it in account.pods.values() if it.name.startswith(prefix) and it.created_at < first_s]
        unnamed = [it for it in made if it.id not in receipt["pods"]]
        self.figures.unnamed_pods += len(unnamed)
        self.figures.unnamed_usd += sum(billing.pod_cost(it, 0.0, first_s).total for it in unnamed)
        for asked, kind in ((listed.pods, "pod"), (listed.volumes, "volume")):
            for start, end in asked:
                there = [
                    name
                    for name, created, ended, is_pod in resources
                    if is_pod == (kind == "pod") and created < start and (ended is None or ended > end)
                ]
                if there:
                    self.breaks("receipt", f"{run_id}: {there[0]} was there when the cloud was asked")

    def _moved(self, ref: str, old: str | None, new: str) -> None:
        if not ref.startswith(RUNS):
            return
        run_id, files = ref[len(RUNS) :], self.remote.commits[new].files
        before = self.remote.commits[old].files if old else {}
        if old is None:
            self._run_of[resource_prefix(run_id, LEDGER_URL)] = run_id
            self.figures.runs += 1
        if any(files.get(path) != blob for path, blob in before.items()):
            self.breaks("events", f"{run_id}: a push took something away")
        if "receipt.json" in files and "receipt.json" not in before:
            self.receipts[run_id] = self._scheduler.now

    # At rest.

    def check_rest(self) -> None:
        account = self._cloud()
        left = [it.name for it in [*account.live_pods(), *account.live_volumes()] if it.name.startswith(MARK)]
        if left:
            self.figures.leaks += len(left)
            self.breaks("nothing left", ", ".join(left))
        for run_id in self._run_of.values():
            events = self._events(run_id)
            if run_id not in self.receipts:
                self.breaks("receipt", f"{run_id} ends with {events[-1].state} and no receipt")
            if problems := broken_links(events):
                self.breaks("events", f"{run_id}: {problems[0]}")
            if CLOUDS[self._run_json(run_id).get("cloud", DEFAULT_CLOUD)].has_own_prices:
                self._check_prices(run_id, [event for event in events if event.state == "provisioned"])
        self._check_kept()
        self._check_landed()
        if self._doubles:
            self.breaks("one pod", f"two pods of {sorted(self._doubles)} to the end")
        for run_id, closed in self.receipts.items():
            for _, created, ended, _ in self._resources(run_id):
                orphan_s = (ended or self._scheduler.now) - max(created, closed)
                self.figures.longest_orphan_s = max(self.figures.longest_orphan_s, orphan_s)

    def _check_prices(self, run_id: str, provisioned: Sequence[Event]) -> None:
        """No pod is a run's that became dearer than what its deadline was counted with."""
        for event in provisioned:
            pod, counted_usd = self._cloud().pods[str(event.data["pod_id"])], float(event.data["usd_per_hour"])
            if pod.usd_per_hour > counted_usd + 1e-3:
                self.breaks("price", f"{run_id}: pod {pod.id} at ${pod.usd_per_hour}, counted with ${counted_usd}")

    def _check_kept(self) -> None:
        """What a run worked on, and what was there before all of it, is there still; of each name one."""
        live = [it for it in self._cloud().live_volumes() if is_kept(it.name)]
        names = Counter(it.name for it in live)
        self.figures.kept = len(live)
        if twice := [name for name, many in names.items() if many > 1]:
            self.breaks("kept", f"{twice[0]} is there {names[twice[0]]} times")
        ids = {it.id for it in live}
        for run_id in self._run_of.values():
            used = [it.data.get("kept_volume_id") for it in self._events(run_id) if it.state == "provisioned"]
            if gone := [it for it in used if it and it not in ids]:
                self.breaks("kept", f"{run_id} worked on {gone[0]}, which is gone")
        if missing := {IDLE, OTHERS} - names.keys():
            self.breaks("kept", f"{sorted(missing)} are gone")

    def _check_landed(self) -> None:
        final = {run_id: [_key(event) for event in self._events(run_id)] for run_id in self._run_of.values()}
        wanted: dict[str, Counter[str]] = defaultdict(Counter)
        by_writer: dict[tuple[str, str], list[str]] = defaultdict(list)
        for run_id, who, keys in self._landed:
            wanted[run_id].update(keys)
            by_writer[run_id, who] += keys
        for run_id, counts in wanted.items():
            if missing := counts - Counter(final.get(run_id, ())):
                self.figures.lost_events += missing.total()
                self.breaks("events", f"{run_id}: lost {next(iter(missing))[:120]}")
        for (run_id, who), keys in by_writer.items():
            rest = iter(final.get(run_id, ()))
            if not all(key in rest for key in keys):
                self.figures.lost_events += 1
                self.breaks("events", f"{run_id}: what {who} said is not in its order")

    # Helpers.

    def _run_json(self, run_id: str) -> Mapping[str, Any]:
        files = self.remote.commits[self.remote.refs[RUNS + run_id]].files
        return dict(json.loads(self.remote.blobs[files["run.json"]]))

    def _cloud(self) -> Account:
        assert self.account is not None
        return self.account

    def _owner(self, name: str) -> str | None:
        """The run a resource belongs to; None for what is not ours."""
        if not name.startswith(MARK):
            return None
        found = next((run_id for prefix, run_id in self._run_of.items() if name.startswith(prefix + "-")), None)
        if found is None:
            self.breaks("intent", f"{name} was made and no run in the ledger has that name")
        return found

    def _events(self, run_id: str) -> list[Event]:
        files = self.remote.commits[self.remote.refs[RUNS + run_id]].files
        return [decode(self.remote.blobs[files[path]]) for path in sorted(files) if path.startswith("events/")]

    def _living(self, run_id: str) -> list[Pod]:
        prefix = resource_prefix(run_id, LEDGER_URL) + "-"
        return [it for it in self._cloud().live_pods() if it.status == "RUNNING" and it.name.startswith(prefix)]

    def _resources(self, run_id: str) -> list[tuple[str, float, float | None, bool]]:
        """Name, made, gone (None: still there) and whether it is a pod, of all a run ever had."""
        prefix, account = resource_prefix(run_id, LEDGER_URL) + "-", self._cloud()
        pods = [(it.name, it.created_at, it.ended_at, True) for it in account.pods.values()]
        volumes = [(it.name, it.spans[0].start, it.spans[-1].end, False) for it in account.volumes.values()]
        return [it for it in [*pods, *volumes] if it[0].startswith(prefix)]


def _key(event: Event | EventDraft) -> str:
    said: Mapping[str, Any] = {
        "state": event.state,
        "writer": event.writer,
        "attempt": event.attempt,
        "reason": event.reason,
        "message": event.message,
        "data": dict(event.data),
    }
    return json.dumps(said, sort_keys=True)
