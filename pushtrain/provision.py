"""From a claimed run to a pod: the ladder of GPU × data center, one rung after the other, until one has capacity.

Every rung's price and deadline stand in the ledger (`provisioning`) before anything is asked for, so that whoever goes
on after a crash finds the same pod under the same deadline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pushtrain.cloud import Live, Volume
from pushtrain.control import Control
from pushtrain.errors import CloudAuthFailed, CloudError, NoBalance, NoCapacity, RequestRejected
from pushtrain.events import Event, EventDraft, now_text, parse_time
from pushtrain.ledger import RunRecord
from pushtrain.lifecycle import used
from pushtrain.placement import DISK_USD_PER_GB_MONTH, HOURS_PER_MONTH, Candidate, ladder, storage_usd_per_hour
from pushtrain.run import Run
from pushtrain.spec import JobSpec

# Below this a pod could not even boot: nothing is rented for it.
LEAST_USEFUL_S = 120.0
# A recorded deadline is used again while that costs the attempt no more than this of its time: a run that waits for
# capacity all night then fills neither its branch nor loses the night.
STALE_SHARE, STALE_MOST_S = 0.05, 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A candidate with what is left of the budget on it: `usd_per_hour` is with storage, the deadline is when the
    first of the two caps is reached."""

    gpu: str
    data_center: str
    tier: str
    usd_per_hour: float
    volume_usd_per_hour: float
    deadline_epoch_s: float

    @property
    def place(self) -> tuple[str, str, str]:
        return self.gpu, self.data_center, self.tier

    @classmethod
    def of(cls, spec: JobSpec, record: RunRecord, candidate: Candidate, now_s: float) -> "Rung":
        left_h, left_usd = left(spec, record, now_s)
        storage = storage_usd_per_hour(spec)
        rate = candidate.usd_per_hour + storage
        return cls(
            gpu=candidate.gpu,
            data_center=candidate.data_center,
            tier=candidate.tier,
            usd_per_hour=round(rate, 6),
            volume_usd_per_hour=round(storage - DISK_USD_PER_GB_MONTH * spec.compute.disk_gb / HOURS_PER_MONTH, 6),
            deadline_epoch_s=round(now_s + min(left_h, left_usd / rate) * 3600, 3),
        )


def left(spec: JobSpec, record: RunRecord, now_s: float) -> tuple[float, float]:
    """Hours and dollars the budget still has; a volume that waits between attempts spends, too."""
    hours, usd = used(record, now_s)
    return spec.budget.max_hours - hours, spec.budget.max_usd - usd


def provision(control: Control, run: Run, spec: JobSpec, record: RunRecord, *, attempt: int) -> bool:
    """Create the attempt's pod; True when the run can go on (with a pod, or to its end).

    No capacity, no balance and a refused key leave the run waiting and are tried again by the next tick; a request the
    cloud will never accept ends it. Raises NoBalance, CloudAuthFailed, RequestRejected after writing that down.
    """
    left_h, left_usd = left(spec, record, control.clock())
    if left_h * 3600 < LEAST_USEFUL_S or left_usd <= 0:
        return _budget_spent(control, run, attempt)
    try:
        candidates = ladder(
            spec,
            control.cloud.offers(spec.compute.count),
            known_gpus=control.cloud.gpu_names(),
            volume_data_center=_pinned(record),
        )
        return _climb(control, run, spec, record, candidates, attempt)
    except NoCapacity as nothing:
        _wait(control, run, attempt, nothing)
        return False
    except (NoBalance, CloudAuthFailed) as refused:
        _wait(control, run, attempt, refused)
        raise
    except RequestRejected as rejected:
        draft = EventDraft(
            state="failed", writer="control", attempt=attempt, reason=rejected.reason, message=str(rejected)
        )
        control.ledger.append(run.id, events=[draft])
        raise


def adopt(control: Control, run: Run, record: RunRecord, live: Live) -> bool:
    """Write down the pod of an attempt whose creator died before it could; True when something was written.

    The pod is found in the cloud's listing by its name or, when it has already come and gone, by its own first event;
    price and deadline are those recorded before it was asked for. A pod of that name on no recorded rung has another
    deadline in its environment than anybody knows: it is terminated.
    """
    mine = [event for event in record.events if event.attempt == max(event.attempt for event in record.events)]
    planned = next((event for event in reversed(mine) if event.state == "provisioning"), None)
    if planned is None or any(event.state == "provisioned" for event in mine):
        return False
    pod = next((pod for pod in live.pods if pod.name == run.pod_name(planned.attempt)), None)
    spoke = next((event for event in mine if event.state == "booting"), None)
    if pod is None and spoke is None:
        return False
    volume = _volume(run, live)
    where = (pod.data_center if pod else None) or (volume.data_center if volume else None)
    here = [rung for rung in _rungs(planned) if where in (None, rung.data_center)]
    rung = next((rung for rung in here if pod is None or pod.gpu == rung.gpu), None)
    if rung is None:
        if pod is not None:
            control.cloud.terminate(pod.id)
        return False
    outputs = {
        "pod_id": pod.id if pod else str((spoke.data if spoke else {}).get("pod", "")),
        "volume_id": volume.id if volume else control.engine.outputs(run.stack).get("volume_id", ""),
    }
    began = _time(pod.created_at) if pod else spoke.time if spoke else None
    _record_pod(control, run, rung, planned.attempt, outputs, time=began)
    return True


def _time(text: str | None) -> str | None:
    """A cloud's time as the ledger writes it; None for one nobody can read."""
    try:
        return now_text(parse_time(text)) if text else None
    except ValueError:
        return None


def _climb(
    control: Control, run: Run, spec: JobSpec, record: RunRecord, candidates: Sequence[Candidate], attempt: int
) -> bool:
    pinned = _pinned(record) is not None
    if not pinned:
        candidates = _volume_first(control, run, record, candidates)
    rungs = _recorded_rungs(control, run, spec, record, candidates, attempt)
    refusals: list[CloudError] = []
    for candidate, rung in zip(candidates, rungs, strict=True):
        if rung.deadline_epoch_s < control.clock() + LEAST_USEFUL_S:
            continue
        program = control.launch(run, spec, candidate, attempt=attempt, deadline_epoch_s=rung.deadline_epoch_s)
        try:
            outputs = control.engine.up(run.stack, program)
        except (NoCapacity, CloudAuthFailed, RequestRejected) as refusal:
            # RunPod's table: 400 and 403 may be about this candidate alone; a key that is wrong is wrong everywhere.
            if isinstance(refusal, CloudAuthFailed) and refusal.reason != "AccessDenied":
                raise
            control.say(f"{run.id}: {rung.gpu} in {rung.data_center}: {refusal.reason}: {refusal}")
            refusals.append(refusal)
            if not pinned:
                _remove_volume(control, run)  # just made, it would pin the next rung to this data center
            continue
        _record_pod(control, run, rung, attempt, outputs)
        return True
    if not refusals:
        return _budget_spent(control, run, attempt)
    raise _worst(refusals)


def _worst(refusals: Sequence[CloudError]) -> CloudError:
    """What to say when no rung took the pod: capacity comes back by itself, anything else only if all said so."""
    if any(isinstance(refusal, NoCapacity) for refusal in refusals):
        texts = "; ".join(str(refusal) for refusal in refusals)
        return NoCapacity(texts, hint="more GPUs or data centers in compute widen the ladder")
    return next((refusal for refusal in refusals if isinstance(refusal, CloudAuthFailed)), refusals[-1])


def _volume_first(
    control: Control, run: Run, record: RunRecord, candidates: Sequence[Candidate]
) -> Sequence[Candidate]:
    """Rungs in the data center where a climb that was cut short left the (empty) volume come first; a volume where no
    rung is goes."""
    volume = _volume(run, control.cloud.find(run.resource_prefix + "-"))
    if volume is None:
        if record.last.state == "provisioning":
            control.engine.destroy(run.stack)  # what its state still remembers is not there any more
        return candidates
    if all(candidate.data_center != volume.data_center for candidate in candidates):
        _remove_volume(control, run)
    return sorted(candidates, key=lambda candidate: candidate.data_center != volume.data_center)


def _remove_volume(control: Control, run: Run) -> None:
    """By the engine, then by name: a volume that another machine's engine made is in no state here."""
    control.engine.destroy(run.stack)
    for volume in control.cloud.find(run.volume_name).volumes:
        control.cloud.delete_volume(volume.id)


def _volume(run: Run, live: Live) -> Volume | None:
    return next((volume for volume in live.volumes if volume.name == run.volume_name), None)


def _pinned(record: RunRecord) -> str | None:
    """The data center of the run's volume, once a pod of it ran there: checkpoints may be on it."""
    places = (event.data.get("data_center") for event in reversed(record.events) if event.state == "provisioned")
    return next((str(place) for place in places if place), None)


def _recorded_rungs(
    control: Control, run: Run, spec: JobSpec, record: RunRecord, candidates: Sequence[Candidate], attempt: int
) -> list[Rung]:
    """A rung for each candidate, in the ledger when this returns."""
    now_s = control.clock()
    fresh = [Rung.of(spec, record, candidate, now_s) for candidate in candidates]
    mine = [event for event in record.events if event.attempt == attempt and event.state == "provisioning"]
    known = {rung.place: rung for rung in (_rungs(mine[-1]) if mine else ())}
    if all(rung.place in known and _still_good(known[rung.place], rung, now_s) for rung in fresh):
        return [known[rung.place] for rung in fresh]
    shown = ", ".join(f"{rung.gpu} in {rung.data_center} (${rung.usd_per_hour:.2f}/h)" for rung in fresh[:3])
    message = f"{len(fresh)} candidates: {shown}"
    data = {"rungs": [asdict(rung) for rung in fresh]}
    draft = EventDraft(state="provisioning", writer="control", attempt=attempt, message=message, data=data)
    control.ledger.append(run.id, events=[draft])
    control.say(f"{run.id}: provisioning, {message}")
    return fresh


def _still_good(old: Rung, new: Rung, now_s: float) -> bool:
    slack_s = min(STALE_MOST_S, STALE_SHARE * (new.deadline_epoch_s - now_s))
    late_s = new.deadline_epoch_s - old.deadline_epoch_s
    return old.usd_per_hour == new.usd_per_hour and -0.01 <= late_s <= slack_s


def _rungs(planned: Event) -> list[Rung]:
    rungs: list[Mapping[str, Any]] = planned.data.get("rungs") or []
    return [Rung(**rung) for rung in rungs]


def _record_pod(
    control: Control, run: Run, rung: Rung, attempt: int, outputs: Mapping[str, Any], *, time: str | None = None
) -> None:
    """Unless another reconcile did already, or has closed the run meanwhile."""
    record = control.ledger.read(run.id)
    said = any(event.state == "provisioned" and event.attempt == attempt for event in record.events)
    if said or record.is_over:
        return
    data = {
        "pod_id": outputs["pod_id"],
        "pod_name": run.pod_name(attempt),
        "volume_id": outputs["volume_id"],
        **asdict(rung),
        "engine": control.engine.name,
    }
    message = f"{rung.gpu} in {rung.data_center} at ${rung.usd_per_hour:.3f}/h with storage"
    draft = EventDraft(state="provisioned", writer="control", attempt=attempt, message=message, data=data, time=time)
    control.ledger.append(run.id, events=[draft])
    control.say(f"{run.id}: attempt {attempt} on {message}")


def _wait(control: Control, run: Run, attempt: int, why: CloudError) -> None:
    control.say(f"{run.id}: waiting ({why.reason}): {why}")
    last = control.ledger.read(run.id).last
    if last.state == "waiting" and last.reason == why.reason:
        return  # once is enough: a run that waits all night does not fill its branch
    draft = EventDraft(state="waiting", writer="control", attempt=attempt, reason=why.reason, message=str(why))
    control.ledger.append(run.id, events=[draft])


def _budget_spent(control: Control, run: Run, attempt: int) -> bool:
    message = "what is left of max_hours and max_usd does not pay for another attempt"
    draft = EventDraft(state="failed", writer="control", attempt=attempt, reason="BudgetSpent", message=message)
    control.ledger.append(run.id, events=[draft])
    return True
