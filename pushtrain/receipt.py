"""The receipt: what was rented, for how long, what it cost. A run is over only with this file."""

from pushtrain.budget import used
from pushtrain.control import Control
from pushtrain.errors import CloudError
from pushtrain.events import now_text, parse_time
from pushtrain.ledger import RunRecord
from pushtrain.run import Run


def make_receipt(
    control: Control, run: Run, record: RunRecord, outcome: str, proof: dict[str, object]
) -> dict[str, object]:
    """What was rented, for how long, what it cost and what was estimated. A run is over only with this file."""
    pods, volumes = rented(record)
    hours, usd = used(record)
    billed, source = usd, "time × price"
    if pods or volumes:
        try:
            bill = control.cloud.bill(pods, volumes, record.events[0].time)
            billed, source = bill.total_usd, "billing API"
        except CloudError as failure:
            control.say(f"{run.id}: no bill from the cloud: {failure}")
    else:
        source = "nothing was rented"
    return {
        "run_id": run.id,
        "outcome": outcome,
        "closed": now_text(control.clock()),
        "attempts": max(event.attempt for event in record.events),
        "pods": pods,
        "volumes": volumes,
        "billed_usd": round(billed, 6),
        "billed_source": source,
        "time_times_price_usd": round(usd, 6),
        "pod_hours": round(hours, 6),
        "cap_usd": record.run.get("budget", {}).get("max_usd"),
        "phases_s": phases_s(record, control.clock()),
        "proof": proof,
    }


def rented(record: RunRecord) -> tuple[list[str], list[str]]:
    """Ids of every pod and volume the run's events know of, whoever said so: they are what the bill is asked for."""
    pods: set[str] = set()
    volumes: set[str] = set()
    for event in record.events:
        if event.state == "provisioned":
            pods.add(str(event.data["pod_id"]))
            volumes.add(str(event.data["volume_id"]))
        elif event.state == "destroying":
            pods.update(event.data.get("pods") or ())
            volumes.update(event.data.get("volumes") or ())
        elif event.state == "booting":
            pods.add(str(event.data.get("pod") or ""))
    return sorted(pods - {""}), sorted(volumes - {""})


def phases_s(record: RunRecord, now_s: float) -> dict[str, float]:
    """Seconds from each event to the next, summed by state; the last one lasts until now."""
    spans: dict[str, float] = {}
    times = [parse_time(event.time) for event in record.events] + [now_s]
    for event, begin, end in zip(record.events, times, times[1:], strict=False):
        spans[event.state] = round(spans.get(event.state, 0.0) + max(0.0, end - begin), 3)
    return spans
