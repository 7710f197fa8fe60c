"""How long pods took from the create to their first word, by cloud, as runs of the ledger have it. Pure."""

import statistics
from collections import defaultdict
from collections.abc import Iterable

from pushtrain.fleet import cloud_of
from pushtrain.ledger import RunRecord


def boots_s(records: Iterable[RunRecord]) -> dict[str, list[float]]:
    """Seconds by cloud, one for each attempt whose pod said that it boots."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        asked = {event.attempt: event.epoch_s for event in record.events if event.state == "provisioned"}
        heard: dict[int, float] = {}
        for event in record.events:
            if event.state == "booting" and event.attempt in asked:
                heard.setdefault(event.attempt, event.epoch_s)
        for attempt, epoch_s in heard.items():
            if epoch_s >= asked[attempt]:
                found[cloud_of(record)].append(epoch_s - asked[attempt])
    return dict(found)


def median_s(seconds: Iterable[float] | None) -> float | None:
    """None where no pod was ever seen there."""
    known = list(seconds or ())
    return statistics.median(known) if known else None
