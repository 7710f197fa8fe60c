"""From a claimed run to a pod: the ladder of GPU × data center, one rung after the other, until one has capacity."""

from dataclasses import dataclass

from pushtrain.control import Control
from pushtrain.errors import CloudAuthFailed, NoBalance, NoCapacity, RequestRejected
from pushtrain.events import EventDraft
from pushtrain.ledger import RunRecord
from pushtrain.lifecycle import used
from pushtrain.placement import Candidate, hourly_usd, ladder
from pushtrain.run import Run
from pushtrain.spec import JobSpec

# Below this a pod could not even boot: nothing is rented for it.
LEAST_USEFUL_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What is left of a run's budget on one candidate; the deadline is when the first of the two caps is reached."""

    deadline_epoch_s: float
    usd_per_hour: float

    @classmethod
    def of(cls, spec: JobSpec, record: RunRecord, candidate: Candidate, now_s: float) -> "Allowance":
        hours, usd = used(record)
        rate = hourly_usd(candidate, spec)
        left_h = min(spec.budget.max_hours - hours, (spec.budget.max_usd - usd) / rate)
        return cls(deadline_epoch_s=now_s + left_h * 3600, usd_per_hour=rate)


def provision(control: Control, run: Run, spec: JobSpec, record: RunRecord, *, attempt: int) -> bool:
    """Create (or adopt) the attempt's pod; True when one is there.

    No capacity, no balance and a refused key leave the run waiting and are tried again by the next tick; a request the
    cloud will never accept ends it. Raises NoBalance, CloudAuthFailed, RequestRejected after writing that down.
    """
    try:
        rungs = ladder(
            spec,
            control.cloud.offers(spec.compute.count),
            known_gpus=control.cloud.gpu_names(),
            volume_data_center=_pinned(record),
        )
        return _climb(control, run, spec, record, rungs, attempt)
    except NoCapacity as nothing:
        _wait(control, run, record, attempt, nothing.reason, str(nothing))
        return False
    except (NoBalance, CloudAuthFailed) as refused:
        _wait(control, run, record, attempt, refused.reason, str(refused))
        raise
    except RequestRejected as rejected:
        draft = EventDraft(
            state="failed", writer="control", attempt=attempt, reason=rejected.reason, message=str(rejected)
        )
        control.ledger.append(run.id, events=[draft])
        raise


def _climb(control: Control, run: Run, spec: JobSpec, record: RunRecord, rungs: list[Candidate], attempt: int) -> bool:
    refusals: list[str] = []
    for index, candidate in enumerate(rungs):
        allowance = Allowance.of(spec, record, candidate, control.clock())
        if allowance.deadline_epoch_s < control.clock() + LEAST_USEFUL_S:
            return _budget_spent(control, run, attempt)
        if index == 0 and record.last.state != "waiting":
            _announce(control, run, attempt, rungs)
        program = control.launch(run, spec, candidate, attempt=attempt, deadline_epoch_s=allowance.deadline_epoch_s)
        try:
            outputs = control.engine.up(run.stack, program)
        except NoCapacity as refusal:
            refusals.append(f"{candidate.gpu} in {candidate.data_center}: {refusal}")
            if _pinned(record) is None:
                control.engine.destroy(run.stack)  # the volume just made would pin the next rung to this data center
            continue
        _record_pod(control, run, candidate, allowance, attempt, dict(outputs))
        return True
    raise NoCapacity("; ".join(refusals), hint="more GPUs or data centers in compute widen the ladder")


def _pinned(record: RunRecord) -> str | None:
    """The data center of the run's volume, once a pod of it ran there: checkpoints may be on it."""
    places = (event.data.get("data_center") for event in reversed(record.events) if event.state == "provisioned")
    return next((str(place) for place in places if place), None)


def _announce(control: Control, run: Run, attempt: int, rungs: list[Candidate]) -> None:
    ladder_text = ", ".join(f"{rung.gpu} in {rung.data_center} (${rung.usd_per_hour:.2f}/h)" for rung in rungs[:3])
    draft = EventDraft(
        state="provisioning", writer="control", attempt=attempt, message=f"{len(rungs)} candidates: {ladder_text}"
    )
    control.ledger.append(run.id, events=[draft])
    control.say(f"{run.id}: provisioning, {draft.message}")


def _record_pod(
    control: Control, run: Run, candidate: Candidate, allowance: Allowance, attempt: int, outputs: dict[str, object]
) -> None:
    data = {
        "pod_id": outputs["pod_id"],
        "pod_name": outputs["pod_name"],
        "volume_id": outputs["volume_id"],
        "gpu": candidate.gpu,
        "data_center": candidate.data_center,
        "tier": candidate.tier,
        "usd_per_hour": round(allowance.usd_per_hour, 6),
        "deadline_epoch_s": round(allowance.deadline_epoch_s, 3),
        "engine": control.engine.name,
    }
    message = f"{candidate.gpu} in {candidate.data_center} at ${allowance.usd_per_hour:.3f}/h with storage"
    draft = EventDraft(state="provisioned", writer="control", attempt=attempt, message=message, data=data)
    control.ledger.append(run.id, events=[draft])
    control.say(f"{run.id}: attempt {attempt} on {message}")


def _wait(control: Control, run: Run, record: RunRecord, attempt: int, reason: str, message: str) -> None:
    control.say(f"{run.id}: waiting ({reason}): {message}")
    if record.last.state == "waiting" and record.last.reason == reason:
        return  # once is enough: a run that waits all night does not fill its branch
    draft = EventDraft(state="waiting", writer="control", attempt=attempt, reason=reason, message=message)
    control.ledger.append(run.id, events=[draft])


def _budget_spent(control: Control, run: Run, attempt: int) -> bool:
    message = "what is left of max_hours and max_usd does not pay for another attempt"
    draft = EventDraft(state="failed", writer="control", attempt=attempt, reason="BudgetSpent", message=message)
    control.ledger.append(run.id, events=[draft])
    return True
