"""From a claimed run to a pod: the ladder is climbed, or the run waits, or it ends; and a pod whose creator died is
taken over."""

from pushtrain.budget import late_hours, left
from pushtrain.climb import LEAST_USEFUL_S, Turn, volume_of
from pushtrain.cloud import LISTS_BEHIND_S, Live, Pod
from pushtrain.control import Control
from pushtrain.errors import (
    CloudAuthFailed,
    CloudError,
    CloudUnavailable,
    NoBalance,
    NoCapacity,
    RequestRejected,
    SpecError,
)
from pushtrain.events import Event, EventDraft, now_text
from pushtrain.ledger import RunRecord
from pushtrain.provisioned import record_pod
from pushtrain.receipt import billed
from pushtrain.rented import made_s
from pushtrain.run import Run
from pushtrain.rungs import plan_at, rung_of, rungs_in
from pushtrain.several import climb_clouds
from pushtrain.spec import JobSpec
from pushtrain.twins import end_unnamed


def provision(control: Control, run: Run, spec: JobSpec, record: RunRecord, *, live: Live, attempt: int) -> bool:
    """Create the attempt's pod; True when the run can go on (with a pod, or to its end). `live` is what the cloud
    listed of the run before `record` was read.

    No capacity, no balance and a refused key leave the run waiting and are tried again by the next tick; a request the
    cloud will never accept ends it. Raises NoBalance, CloudAuthFailed, RequestRejected, SpecError once it is written.
    """
    bill = billed(control, record)
    spent_usd = max(bill.total_usd, left_behind_usd(run, record, live, control.clock()))
    rest = left(spec, record, control.clock(), spent_usd, late_hours(record, bill.pods_usd))
    if rest.hours * 3600 < LEAST_USEFUL_S or rest.usd <= 0:
        return _budget_spent(control, run, attempt)
    try:
        if climb_clouds(control, run, spec, record, Turn(attempt=attempt, rest=rest), live=live):
            return True  # whoever asked looks again: another reconcile may have closed the run meanwhile
        return _budget_spent(control, run, attempt)
    except NoCapacity as nothing:
        _wait(control, run, attempt, nothing)
        return False
    except (NoBalance, CloudAuthFailed) as refused:
        _wait(control, run, attempt, refused)
        raise
    except (RequestRejected, SpecError) as rejected:
        draft = EventDraft(
            state="failed", writer="control", attempt=attempt, reason=rejected.reason, message=str(rejected)
        )
        control.ledger.append(run.id, events=[draft])
        raise


def adopt(control: Control, run: Run, record: RunRecord, live: Live) -> bool:
    """Write down the pod of an attempt whose creator died before it could; True when something was written.

    The pod is found in the cloud's listing by its name or, when it has already come and gone, by its own first event;
    price and deadline are those recorded before it was asked for. A pod of that name on no recorded rung has another
    deadline in its environment than anybody knows: it is terminated. Of a run that is being taken down none is.
    """
    attempt = max(event.attempt for event in record.events)
    mine = [event for event in record.events if event.attempt == attempt]
    if any(event.state == "provisioned" for event in mine) or any(it.state == "destroying" for it in record.events):
        return False
    pod = next((pod for pod in live.pods if pod.name == run.pod_name(attempt)), None)
    # A pod does not say at which cloud it is: where several were asked, its word alone tells too little.
    asked = {event.data.get("cloud") for event in mine if event.state == "provisioning"}
    spoke = next((event for event in mine if event.state == "booting" and len(asked) == 1), None)
    if pod is None and spoke is None:
        return False
    now_s, volume = control.clock(), volume_of(run, live)
    pod = pod or _unlisted(control, run, spoke, now_s)
    began_s = made_s(control, record, pod, now_s) if pod else spoke.epoch_s if spoke else None
    planned = plan_at(control, record, attempt, now_s if began_s is None else began_s)
    if planned is None:
        return False
    rung = rung_of(control, rungs_in(planned), pod, volume)
    if rung is None:
        if pod is not None:
            end_unnamed(control, run, pod)
        return False
    outputs = {
        "pod_id": pod.id if pod else str((spoke.data if spoke else {}).get("pod", "")),
        "volume_id": volume.id if volume else control.engine.outputs(run.stack).get("volume_id", ""),
        "kept_volume_id": pod.volume_id if pod and record.run.get("kept_volume") else None,
    }
    record_pod(control, run, rung, attempt, outputs, time=None if began_s is None else now_text(began_s))
    return True


def _unlisted(control: Control, run: Run, spoke: Event | None, now_s: float) -> Pod | None:
    """The pod that has spoken and is in no list, where that is but behind. Raises CloudUnavailable where a pod that is
    not told its id spoke so lately that nobody can tell."""
    if spoke is None:
        return None
    if pod_id := str(spoke.data.get("pod") or ""):
        found = control.cloud.read_pod(pod_id)
        return found if found is not None and found.is_alive else None
    if abs(now_s - spoke.epoch_s) < LISTS_BEHIND_S:
        raise CloudUnavailable(
            f"{run.id}: its pod has spoken and is not listed", hint="a list may be behind: the next tick looks again"
        )
    return None


def left_behind_usd(run: Run, record: RunRecord, live: Live, now_s: float) -> float:
    """What the volume has cost by now that a climb left behind which was cut short before there was a pod.

    No event names it, so no bill can be asked for it; it may be as old as the first rungs that were written down.
    """
    planned = [event for event in record.events if event.state == "provisioning"]
    if not planned or volume_of(run, live) is None or any(event.state == "provisioned" for event in record.events):
        return 0.0
    rate = max((rung.volume_usd_per_hour for event in planned for rung in rungs_in(event)), default=0.0)
    return max(0.0, now_s - planned[0].epoch_s) / 3600 * rate


def _wait(control: Control, run: Run, attempt: int, why: CloudError) -> None:
    control.say(f"{run.id}: waiting ({why.reason}): {why}")
    last = control.ledger.read(run.id).last
    if last.state == "waiting" and last.reason == why.reason:
        control.waiting_s[run.id] = last.epoch_s
        return  # once is enough: a run that waits all night does not fill its branch
    control.waiting_s[run.id] = control.clock()
    draft = EventDraft(state="waiting", writer="control", attempt=attempt, reason=why.reason, message=str(why))
    control.ledger.append(run.id, events=[draft])


def _budget_spent(control: Control, run: Run, attempt: int) -> bool:
    message = "what is left of max_hours and max_usd does not pay for another attempt"
    draft = EventDraft(state="failed", writer="control", attempt=attempt, reason="BudgetSpent", message=message)
    control.ledger.append(run.id, events=[draft])
    return True
