"""The receipt: what was rented, for how long, what it cost. A run is over only with this file.

RunPod bills every five minutes or so, and a receipt is written seconds after the end: it says so, and the first tick 75
minutes later adds `bill.json`, which is the last file of a run.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pushtrain.attempts import attempts
from pushtrain.budget import cap_usd, used, volume_usd
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Bill
from pushtrain.control import Control
from pushtrain.errors import CloudError, PushtrainError
from pushtrain.events import now_text, parse_time
from pushtrain.fleet import cloud_of
from pushtrain.jsontext import json_bytes
from pushtrain.ledger import RunRecord
from pushtrain.record import BILL
from pushtrain.rented import elsewhere_usd, rented
from pushtrain.run import Run
from pushtrain.volumes.kept import ON_PURPOSE, first_of, in_words, told

# By then every bill of the run has been written, also one that came late; after so long nobody will say any more.
BILL_AFTER_S, BILL_UNTIL_S = 75 * 60.0, 7 * 24 * 3600.0


def make_receipt(
    control: Control, run: Run, record: RunRecord, outcome: str, proof: dict[str, object]
) -> dict[str, Any]:
    """What was rented, for how long, what it cost, and the estimate of the claim beside it.

    `cost_usd` is the larger of what the bill says by now and time × price: the one is late, the other an estimate.
    """
    pods, volumes = rented(record)
    hours, usd = used(record, control.clock())
    bill = _bill(control, record) if pods or volumes else None
    billed = usd if bill is None or not bill.is_told else bill.total_usd
    several = max(event.attempt for event in record.events) > 1
    metrics, _ = control.ledger.text(record, "metrics") if several else (b"", 0)
    return {
        "run_id": run.id,
        "outcome": outcome,
        "closed": now_text(control.clock()),
        "attempts": max(event.attempt for event in record.events),
        "history": attempts(record, metrics),
        "pods": pods,
        "volumes": volumes,
        "billed_usd": round(billed, 6),
        "billed_source": _source(bill, bool(pods or volumes)),
        "billed_is_final": not (pods or volumes) or (bill is not None and bill.final),
        "time_times_price_usd": round(usd, 6),
        "cost_usd": round(max(billed, usd), 6),
        "pod_hours": round(hours, 6),
        "cap_usd": cap_usd(record),
        "estimate": record.run.get("estimate"),
        "phases_s": phases_s(record, control.clock()),
        **_peak(record),
        "proof": proof,
        **_kept(control, record),
    }


def _peak(record: RunRecord) -> dict[str, Any]:
    """`peak_gpu_memory_gb` as the trainer measured it; nothing without a GPU, or without a result."""
    metrics = (record.result or {}).get("metrics")
    peak = metrics.get("peak_gpu_memory_gb") if isinstance(metrics, dict) else None
    return {"peak_gpu_memory_gb": peak} if isinstance(peak, int | float) and not isinstance(peak, bool) else {}


def _kept(control: Control, record: RunRecord) -> dict[str, Any]:
    """`kept`: the volume that outlives the run, what it costs and who pays; nothing where the run kept none."""
    name = record.run.get("kept_volume")
    if not name:
        return {}
    try:
        found = first_of(control.at(record).cloud.volumes(), str(name))
    except CloudError as failure:
        control.say(f"{record.run_id}: {name} is kept, and the cloud does not say how large: {failure}")
        return {"kept": [{"name": name, "why": ON_PURPOSE, "in_this_cost": False, "said": str(name)}]}
    if found is None:
        return {"kept": []}
    cloud = cloud_of(record)
    return {"kept": [{**told(found, cloud), "why": ON_PURPOSE, "in_this_cost": False, "said": in_words(found, cloud)}]}


def settle(control: Control, record: RunRecord) -> None:
    """Add the final bill to a run that has been over long enough. A cloud or ledger that is away is asked at the next
    tick; after a week the receipt's figures stand."""
    receipt = record.receipt
    if receipt is None or record.bill is not None or receipt.get("billed_is_final", True):
        return
    age_s = control.clock() - parse_time(str(receipt["closed"]))
    if age_s < BILL_AFTER_S:
        return
    bill = _bill(control, record)
    if bill is None and age_s < BILL_UNTIL_S:
        return
    told = bill if bill is not None and bill.is_told else None
    document = {
        "asked": now_text(control.clock()),
        "pods_usd": None if told is None else round(told.pods_usd, 6),
        "volumes_usd": None if told is None else round(told.volumes_usd, 6),
        "total_usd": round(receipt["cost_usd"] if told is None else told.total_usd, 6),
        "source": _source(bill, True),
        "is_final": bill is not None and bill.final,
    }
    try:
        control.ledger.append(record.run_id, files={BILL: json_bytes(document)})
    except PushtrainError as failure:
        control.say(f"{record.run_id}: {BILL} is not in the ledger yet: {failure}")


def billed(control: Control, record: RunRecord) -> Bill:
    """The bill of what the run had so far; nothing before it had anything, and while nobody can say."""
    bill = _bill(control, record) if any(rented(record)) else None
    return Bill(pods_usd=0.0, volumes_usd=0.0) if bill is None else bill


def cost(record: RunRecord) -> tuple[float, str] | None:
    """Dollars of a run that is over, and where the figure comes from; None before."""
    if record.bill is not None:
        return float(record.bill["total_usd"]), "billed" if record.bill.get("is_final") else str(record.bill["source"])
    if record.receipt is None:
        return None
    receipt = record.receipt
    billed = float(receipt.get("billed_usd") or 0.0)
    usd = float(receipt.get("cost_usd", billed))
    if receipt.get("billed_is_final"):
        return usd, str(receipt.get("billed_source", ""))
    return usd, "billed so far" if usd == billed and receipt.get("billed_source") == "billing API" else "time × price"


def _bill(control: Control, record: RunRecord) -> Bill | None:
    """What the cloud bills, with what was noted of pods at other clouds; the volume by time × price where it tells the
    pods' cost alone."""
    try:
        until = None if record.receipt is None else str(record.receipt["closed"])
        bill = control.cloud.bill(*rented(record), record.events[0].time, until=until, now_s=control.clock())
    except CloudError as failure:
        control.say(f"{record.run_id}: no bill from the cloud: {failure}")
        return None
    bill = replace(bill, pods_usd=bill.pods_usd + elsewhere_usd(record))
    if CLOUDS[cloud_of(record)].has_volume_bill or not bill.is_told:
        return bill
    return replace(bill, volumes_usd=volume_usd(record, parse_time(until) if until else control.clock()))


def _source(bill: Bill | None, is_rented: bool) -> str:
    if not is_rented:
        return "nothing was rented"
    return "billing API" if bill is not None and bill.is_told else "time × price"


def phases_s(record: RunRecord, now_s: float) -> dict[str, float]:
    """Seconds from each event to the next, summed by state; the last one lasts until now."""
    spans: dict[str, float] = {}
    times = [parse_time(event.time) for event in record.events] + [now_s]
    for event, begin, end in zip(record.events, times, times[1:], strict=False):
        spans[event.state] = round(spans.get(event.state, 0.0) + max(0.0, end - begin), 3)
    return spans


def cost_said(receipt: Mapping[str, Any]) -> str:
    """`cost_usd` in words, with where that figure is from and what else is known."""
    usd, billed, source = float(receipt["cost_usd"]), float(receipt["billed_usd"]), str(receipt["billed_source"])
    if source == "nothing was rented":
        return f"${usd:.4f}: {source}"
    if source == "billing API" and usd > billed:
        return f"${usd:.4f} by time × price, ${billed:.4f} of it billed by now"
    return f"${usd:.4f} by {source}"
