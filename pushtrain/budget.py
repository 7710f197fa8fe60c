"""What a run has used of its hours and dollars, and what is left. Pure.

Both caps hold over all attempts with storage. Time × price is counted here by the ledger's events; the cloud's bill
comes late, but where it says more, more was spent.
"""

from dataclasses import dataclass

from pushtrain.capabilities import CLOUDS
from pushtrain.events import POD_ENDS, Event
from pushtrain.fleet import cloud_of
from pushtrain.ledger import RunRecord
from pushtrain.spec import JobSpec
from pushtrain.traffic import brought_usd

# The pod is told to be gone this much before the cap, so that a control plane that has to do it itself still keeps it;
# of a short budget it is a tenth.
RESERVE_S, RESERVE_SHARE = 60.0, 0.1
# Kept of the dollars for the volume between the last pod's end and the tick that removes it: the schedule is hourly.
TEARDOWN_HOURS, TEARDOWN_SHARE = 1.0, 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What the budget still has: hours of pods, and dollars."""

    hours: float
    usd: float


def used(record: RunRecord, now_s: float | None = None) -> tuple[float, float]:
    """Hours of pods and dollars (GPU and storage) so far, by the recorded prices.

    An attempt lasts from its `provisioned` event to its end; between attempts, and until `now_s` (None: the last
    event), only the volume costs.
    """
    starts = _starts(record)
    hours = usd = 0.0
    for start in starts.values():
        spent_h = attempt_hours(record, start)
        hours += spent_h
        usd += spent_h * float(start.data.get("usd_per_hour", 0.0))
    if starts:
        first = min(starts.values(), key=lambda event: event.epoch_s)
        # An attempt on a community machine had no volume: the dear side is that there was one all along.
        volume_usd = max(float(start.data.get("volume_usd_per_hour", 0.0)) for start in starts.values())
        until_s = max(event.epoch_s for event in record.events) if now_s is None else now_s
        idle_hours = max(0.0, (until_s - first.epoch_s) / 3600 - hours)
        usd += idle_hours * volume_usd
    return hours, usd + beside_usd(record)


def volume_usd(record: RunRecord, until_s: float) -> float:
    """Dollars of the run's own volume alone, by the recorded price, from the first pod on."""
    starts = _starts(record)
    if not starts:
        return 0.0
    rate = max(float(start.data.get("volume_usd_per_hour", 0.0)) for start in starts.values())
    return max(0.0, until_s - min(start.epoch_s for start in starts.values())) / 3600 * rate


def beside_usd(record: RunRecord, since_s: float = 0.0) -> float:
    """What pods cost that no event names, twins say, of those that were ended after `since_s`."""
    notes = [note for note in record.rented.values() if float(note.get("ended", 0.0)) > since_s]
    return sum(float(note.get("usd", 0.0)) for note in notes)


def attempt_hours(record: RunRecord, start: Event) -> float:
    """How long the pod of the attempt lived that began with the `provisioned` event `start`."""
    return max(0.0, (_end_s(record, start) - start.epoch_s) / 3600)


def left(spec: JobSpec, record: RunRecord, now_s: float, billed_usd: float = 0.0, late_h: float = 0.0) -> Left:
    """A volume that waits between attempts spends, too. `billed_usd` is what the cloud's bill says by now, `late_h`
    what `late_hours` makes of it."""
    hours, usd = used(record, now_s)
    usd += len(_starts(record)) * brought_usd(cloud_of(record), spec)
    more = extended(record)
    return Left(
        hours=spec.budget.max_hours + more.hours - hours - late_h,
        usd=spec.budget.max_usd + more.usd - max(usd, billed_usd),
    )


def late_hours(record: RunRecord, pods_usd: float) -> float:
    """Hours of pods that are on the bill (`pods_usd`) and in no event: one that had said its last word and could not be
    ended. At the price of the last attempt. None where traffic is on that bill: it cannot be told from hours there, and
    `left` counts its dollars."""
    starts = _starts(record)
    if not starts or CLOUDS[cloud_of(record)].traffic_usd:
        return 0.0
    known_usd = beside_usd(record) + sum(attempt_hours(record, start) * _pod_rate(start) for start in starts.values())
    return max(0.0, pods_usd - known_usd) / _pod_rate(starts[max(starts)])


def extended(record: RunRecord) -> Left:
    """What people have added to the budget of this run, `pushtrain.extend`."""
    notes = [event.data for event in record.events if event.state == "extended" and event.writer == "control"]
    return Left(
        hours=sum(float(it.get("hours", 0.0)) for it in notes), usd=sum(float(it.get("usd", 0.0)) for it in notes)
    )


def cap_usd(record: RunRecord) -> float:
    """What the run may cost at most: the claim's cap, and what was added."""
    return float(record.run.get("budget", {}).get("max_usd") or 0.0) + extended(record).usd


def pod_seconds(rest: Left, *, usd_per_hour: float, volume_usd_per_hour: float) -> tuple[float, float]:
    """How long a pod may run on what is left, and the seconds after that which the caps still have for ending it."""
    kept_usd = min(volume_usd_per_hour * TEARDOWN_HOURS, max(0.0, rest.usd) * TEARDOWN_SHARE)
    seconds = max(0.0, min(rest.hours, (rest.usd - kept_usd) / usd_per_hour) * 3600)
    reserve_s = min(RESERVE_S, seconds * RESERVE_SHARE)
    return seconds - reserve_s, reserve_s


def _end_s(record: RunRecord, start: Event) -> float:
    """The pod's own last word, where it can end its bill and the word can be true (its clock may be hours off), else
    when the control plane saw to it.

    A teardown that leaks goes on costing until it is done.
    """
    attempt, after = start.attempt, [event for event in record.events if event.seq > start.seq]
    lost = next((event for event in after if event.state == "lost" and event.attempt == attempt), None)
    teardown = [event for event in after if event.state in ("destroying", "leak", "closed")]
    if lost is not None:
        latest_s = lost.epoch_s
    elif teardown:
        latest_s = teardown[-1].epoch_s
    else:
        latest_s = max([start.epoch_s, *(event.epoch_s for event in after if event.attempt == attempt)])
    word = next((event for event in after if event.attempt == attempt and event.state in POD_ENDS), None)
    can_end = CLOUDS[cloud_of(record)].ends_own_bill
    if can_end and word is not None and word.writer == "pod" and start.epoch_s <= word.epoch_s <= latest_s:
        return word.epoch_s
    return latest_s


def _starts(record: RunRecord) -> dict[int, Event]:
    """`provisioned` of each attempt. Two reconciles at once may both have said it: an attempt counts once."""
    return {event.attempt: event for event in reversed(record.events) if event.state == "provisioned"}


def _pod_rate(start: Event) -> float:
    """Dollars an hour of the pod alone, with its disk."""
    return float(start.data["usd_per_hour"]) - float(start.data.get("volume_usd_per_hour", 0.0))
