"""Machines that may be taken away: what is bid for one, how often a run lost one, when that was often enough, and what
the ledger has seen of it. Pure.

The rule of bids, where a cloud takes them: MARGIN above the least that has to be bid, and after each lost machine a
step nearer to `max_share` of the on-demand price, which no bid is above; the last one that may be lost bids that. After
`interruptions` of them the rest is on demand. Each bid is a rung with its own deadline, so the budget holds over all.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.estimate.interruptions import Seen
from pushtrain.events import Event
from pushtrain.ledger import RunRecord
from pushtrain.placement import Candidate, bid_usd
from pushtrain.spec import JobSpec

# What ends the hours of a spot machine, as far as the ledger tells.
_ENDS = ("lost", "finished", "failed", "cancelled", "destroying")


def lost_machines(events: Sequence[Event]) -> int:
    """How many attempts of a run ended because their machine was taken away."""
    bids = {event.attempt for event in events if event.state == "provisioned" and event.data.get("is_spot")}
    return len({it.attempt for it in events if it.state == "lost" and it.reason == "Preempted"} & bids)


def affordable(spec: JobSpec, events: Sequence[Event], candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates of a run's next attempt: each lost machine raises what is bid, and after
    `compute.spot.interruptions` of them nothing is bid any more."""
    spot, lost = spec.compute.spot, lost_machines(events)
    if spot is None or lost == 0:
        return list(candidates)
    if lost >= spot.interruptions:
        return [it for it in candidates if not it.is_spot]
    return [_raised(it, spot.max_share, lost, spot.interruptions) for it in candidates]


def seen(records: Iterable[RunRecord]) -> dict[str, Seen]:
    """Lost machines and hours of spot machines, by cloud, as runs of the ledger have it."""
    lost: dict[str, int] = defaultdict(int)
    hours: dict[str, float] = defaultdict(float)
    for record in records:
        for event in record.events:
            if event.state != "provisioned" or not event.data.get("is_spot"):
                continue
            cloud = str(event.data.get("cloud") or record.run.get("cloud") or DEFAULT_CLOUD)
            mine = [it for it in record.events if it.attempt == event.attempt and it.seq >= event.seq]
            end = next((it for it in mine if it.state in _ENDS), mine[-1])
            hours[cloud] += max(0.0, end.epoch_s - event.epoch_s) / 3600
            lost[cloud] += end.state == "lost" and end.reason == "Preempted"
    return {cloud: Seen(lost=lost[cloud], hours=hours[cloud]) for cloud in hours}


def _raised(candidate: Candidate, max_share: float, lost: int, interruptions: int) -> Candidate:
    if not candidate.is_spot or CLOUDS[candidate.cloud].sets_spot_price:
        return candidate
    return replace(candidate, usd_per_hour=bid_usd(candidate, max_share, raised=lost / max(1, interruptions - 1)))
