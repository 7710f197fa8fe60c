"""The word of the control plane that an attempt has its pod: one is named for an attempt, and any other one ends."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pushtrain.control import Control
from pushtrain.errors import LedgerMoved
from pushtrain.events import Event, EventDraft
from pushtrain.fleet import named_cloud
from pushtrain.ledger import RunRecord
from pushtrain.run import Run
from pushtrain.rungs import Rung
from pushtrain.twins import end_one


def record_pod(
    control: Control,
    run: Run,
    rung: Rung,
    attempt: int,
    outputs: Mapping[str, Any],
    *,
    time: str | None = None,
    is_listed: bool = True,
) -> None:
    """Write `provisioned`, unless another reconcile did already, or has closed the run meanwhile.

    The pod is ended where the attempt has another one at another cloud, or went on to one, and where another was named
    and no list shows this one (`is_listed`): nobody would find it again. Of pods that are listed here `twins` decides.
    """
    while True:
        record = control.ledger.read(run.id)
        said = next((it for it in record.events if (it.state, it.attempt) == ("provisioned", attempt)), None)
        elsewhere = _is_elsewhere(control, record, attempt, said)
        if record.is_over or said is not None or elsewhere:
            is_named = said is not None and said.data["pod_id"] == outputs["pod_id"]
            if outputs["pod_id"] and (elsewhere or not (is_listed or is_named)):
                control.say(f"{run.id}: pod {outputs['pod_id']} is one too many: terminated")
                end_one(control, run, str(outputs["pod_id"]))
            return
        draft = _draft(control, run, record, rung, attempt, outputs, time)
        try:
            if record.run.get("clouds"):
                control.ledger.append_at(run.id, record.tip, draft)
            else:
                control.ledger.append(run.id, events=[draft])
        except LedgerMoved:
            continue  # a word of the pod itself, or another reconcile named another cloud: look again
        control.say(f"{run.id}: attempt {attempt} on {draft.message}")
        return


def _is_elsewhere(control: Control, record: RunRecord, attempt: int, said: Event | None) -> bool:
    """Whether a run of several clouds has its pod at another one than the control plane works at, or is just being
    asked for there."""
    if not record.run.get("clouds"):
        return False
    where = said.data.get("cloud") if said is not None else named_cloud(record, attempt)
    return where not in ("", control.cloud.name)


def _draft(
    control: Control,
    run: Run,
    record: RunRecord,
    rung: Rung,
    attempt: int,
    outputs: Mapping[str, Any],
    time: str | None,
) -> EventDraft:
    data = {
        "pod_id": outputs["pod_id"],
        "pod_name": run.pod_name(attempt),
        "volume_id": outputs.get("volume_id") or "",
        **asdict(rung),
        "engine": control.engine.name,
        **({"cloud": control.cloud.name} if record.run.get("clouds") else {}),
    }
    data |= {"kept_volume_id": kept_id} if (kept_id := outputs.get("kept_volume_id")) else {}
    message = f"{rung.place} at ${rung.usd_per_hour:.3f}/h with storage"
    return EventDraft(state="provisioned", writer="control", attempt=attempt, message=message, data=data, time=time)
