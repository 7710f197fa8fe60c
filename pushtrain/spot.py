"""Machines that may be taken away: how often a run lost one, and when that was often enough. Pure."""

from collections.abc import Sequence

from pushtrain.events import Event
from pushtrain.placement import Candidate
from pushtrain.spec import JobSpec


def lost_machines(events: Sequence[Event]) -> int:
    """How many attempts of a run ended because their machine was taken away."""
    bids = {event.attempt for event in events if event.state == "provisioned" and event.data.get("is_spot")}
    return len({it.attempt for it in events if it.state == "lost" and it.reason == "Preempted"} & bids)


def affordable(spec: JobSpec, events: Sequence[Event], candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates of a run's next attempt: after `compute.spot.interruptions` lost machines none by bid any more."""
    spot = spec.compute.spot
    is_over = spot is not None and lost_machines(events) >= spot.interruptions
    return [it for it in candidates if not (is_over and it.is_spot)]
