"""A job that may go to one of several clouds: which it is at, and in which order they are asked.

A run is at one cloud at any moment, the one that its newest climb was at (`pushtrain.fleet.cloud_of`). That stands in
the ledger before anything is asked for there, by compare-and-swap: of two reconciles at once the second one reads on,
and asks where the first one asks, where adoption by name leaves one pod. Before its first pod a run goes on to the next
cloud where one has no room, and names it. Who comes back with a pod and finds that the run went on meanwhile, or has
one elsewhere, ends its own (`pushtrain.provisioned`), and who has one looks where was asked before. A run that waits is
asked for everywhere and names nothing, or its branch would fill. From its first pod on a run stays where that pod was,
where its volume and its bill are. What a climb that was cut short left at another cloud no run owns: it is swept. Only
while a run waits for its first pod, and names nothing, is it owner at every one of its clouds; a pod that turns up at
one of them is its own.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from pushtrain.capabilities import CLOUDS
from pushtrain.climb import Turn, climb, worst
from pushtrain.cloud import Live
from pushtrain.control import Control
from pushtrain.errors import CloudAuthFailed, CloudError, LedgerMoved, NoBalance, NoCapacity, RequestRejected
from pushtrain.events import EventDraft
from pushtrain.fleet import cloud_of, members, named_cloud
from pushtrain.gpus import MIN_CUDA_VERSION
from pushtrain.ledger import RunRecord
from pushtrain.placement import Candidate, Offered, ladder_over
from pushtrain.run import Run
from pushtrain.rungs import planned_here
from pushtrain.soldout import sold_out
from pushtrain.spec import JobSpec
from pushtrain.sweep import unowned
from pushtrain.twins import end_unnamed


def clouds_for(control: Control, spec: JobSpec) -> list[str]:
    """The clouds that a spec allows and that there is a key for. Raises CloudAuthFailed where there is none."""
    here = members(control.everywhere)
    found = [name for name in spec.compute.clouds if name in here]
    if not found:
        control.at(spec.compute.clouds[0])
    return found


def candidates_at(control: Control, spec: JobSpec, names: Sequence[str]) -> list[Candidate]:
    """The ladder over these clouds. One that does not answer is left out where another does.

    Raises NoCapacity, SpecError for a GPU that none of them knows, CloudError where none answers: RequestRejected,
    which ends a run, only where all of them said so.
    """
    offered, away = list[Offered](), list[CloudError]()
    for name in names:
        cloud = control.at(name).cloud
        try:
            offers = cloud.offers(spec.compute.count, MIN_CUDA_VERSION)
            offered.append(Offered(cloud=name, offers=offers, known_gpus=cloud.gpu_names()))
        except CloudError as failure:
            if len(names) > 1:
                control.say(f"{spec.name}: {name} is not asked: {failure.reason}: {failure}")
            away.append(failure)
    if not offered:
        raise next((it for it in away if not isinstance(it, RequestRejected)), away[0])
    return ladder_over(spec, offered)


def look_again(control: Control, run: Run, record: RunRecord) -> tuple[Live, RunRecord]:
    """What the run's cloud lists of it, then what the ledger says: a run that went on to another cloud meanwhile is
    looked for there."""
    if record.run.get("clouds"):
        record = control.ledger.read(record.run_id)
    live = control.at(record).cloud.find(run.resource_prefix + "-")
    return live, control.ledger.read(record.run_id)


def is_anywhere(record: RunRecord) -> bool:
    """Whether a run names no cloud and never had a pod: every cloud that it may go to may just have made it one."""
    newest = max((event.attempt for event in record.events), default=0)
    was_placed = any(event.state == "provisioned" for event in record.events)
    return bool(record.run.get("clouds")) and not was_placed and not named_cloud(record, newest)


def clouds_of(record: RunRecord) -> list[str]:
    """Where a run is: at one cloud, or while it waits for its first pod at each that it may go to."""
    return [cloud_of(record), *(record.run["clouds"] if is_anywhere(record) else ())]


def found_again(control: Control, run: Run, record: RunRecord, listed: Mapping[str, Live]) -> RunRecord:
    """What the ledger says of a run. Of one that waits and all the same has a pod at one of its clouds, by a reconcile
    that died or a request that was carried out late, it names that cloud when this returns: the pod is looked for
    there. `listed` is what each cloud lists of the run."""
    if not is_anywhere(record) or any(event.state == "destroying" for event in record.events):
        return record
    here, attempt = cloud_of(record), max(event.attempt for event in record.events)
    there = [name for name, live in listed.items() if any(pod.name == run.pod_name(attempt) for pod in live.pods)]
    for name in sorted(there if here not in there else ()):
        if (planned := planned_here(control.at(name), record, attempt)) is None:
            continue
        message = f"its pod is at {CLOUDS[name].title}"
        draft = EventDraft(state="provisioning", writer="control", attempt=attempt, message=message, data=planned.data)
        try:
            control.ledger.append_at(run.id, record.tip, draft)
        except LedgerMoved as moved:
            control.say(f"{run.id}: {moved}: looked at again")
        return control.ledger.read(run.id)
    return record


def left_at(
    control: Control, listed: Live, owners: Collection[str], records: Mapping[str, RunRecord], *, cloud: str
) -> Live:
    """What is listed at a cloud and no run owns. What is listed of a run at another cloud than it is on is of a climb
    that was cut short, or a twin. What `records` would sweep of a run that may be at several clouds, the ledger is
    asked about once more: the run may have gone there since. Raises LedgerError."""
    left = unowned(control, listed, _owners_at(cloud, owners, records))
    moving = [run_id for run_id in owners if run_id in records and records[run_id].run.get("clouds")] if left else []
    now = {run_id: control.ledger.read(run_id) for run_id in moving if not _owners_at(cloud, [run_id], records)}
    return unowned(control, left, _owners_at(cloud, owners, {**records, **now})) if now else left


def _owners_at(cloud: str, owners: Iterable[str], records: Mapping[str, RunRecord]) -> list[str]:
    return [run_id for run_id in owners if run_id not in records or cloud in clouds_of(records[run_id])]


def climb_clouds(control: Control, run: Run, spec: JobSpec, record: RunRecord, turn: Turn, *, live: Live) -> bool:
    """`climb` over every cloud that the run may go to, the cheapest place first; as `climb` where there is but one.

    `live` is what is listed of the run where it is. True also where another reconcile wrote meanwhile: whoever asked
    looks again. Raises what the last of them said that matters most; at once CloudUnavailable in the middle of a climb,
    when something may have been made.
    """
    names = [name for name in record.run.get("clouds") or () if name in members(control.everywhere)]
    is_placed = any(event.state == "provisioned" for event in record.events)
    if is_placed or not record.run.get("clouds"):
        return climb(control, run, spec, record, turn, live=live)
    refusals, first = list[CloudError](), named_cloud(record, turn.attempt)
    known = {"", first}
    for name, places in _in_turn(first, candidates_at(control, spec, names)):
        here, now = control.at(name), control.ledger.read(run.id)
        if named_cloud(now, turn.attempt) not in known:
            return True
        known.add(name)
        told = [said for candidate in places if (said := sold_out(here, spec, candidate)) is not None]
        if len(told) == len(places):
            refusals += told
            continue
        listed = live if name == cloud_of(record) else here.cloud.find(run.resource_prefix + "-")
        try:
            if climb(here, run, spec, now, replace(turn, places=places), live=listed):
                _look_back(control, run, turn.attempt)
                return True
        except (NoCapacity, NoBalance, CloudAuthFailed, RequestRejected) as refusal:
            refusals.append(refusal)
        except LedgerMoved as moved:
            control.say(f"{run.id}: {moved}: looked at again")
            return True
    if refusals:
        raise worst(refusals)
    return False


def _in_turn(name: str, candidates: Sequence[Candidate]) -> list[tuple[str, list[Candidate]]]:
    """Clouds and what is asked of each, in the ladder's order; first the one where another reconcile may just be
    asking, `name`."""
    groups = [(cloud, list(group)) for cloud, group in groupby(candidates, key=lambda candidate: candidate.cloud)]
    return sorted(groups, key=lambda group: group[0] != name)


def _look_back(control: Control, run: Run, attempt: int) -> None:
    """End what came to be at the clouds that were asked before, by a reconcile that died, or a request that its cloud
    carried out late. One that does not answer is left to the sweep."""
    record = control.ledger.read(run.id)
    asked = {str(it.data.get("cloud")) for it in record.events if (it.state, it.attempt) == ("provisioning", attempt)}
    for other in sorted((asked - {cloud_of(record)}) & set(members(control.everywhere))):
        there = control.at(other)
        try:
            for pod in there.cloud.find(run.resource_prefix + "-").pods:
                control.say(f"{run.id}: pod {pod.id} at {CLOUDS[other].title} is one too many: terminated")
                end_unnamed(there, run, pod)
        except CloudError as failure:
            control.say(f"{run.id}: {other} is left to the sweep: {failure.reason}: {failure}")
