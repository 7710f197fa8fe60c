"""What this process was told about places that are full, so that a hundred waiting runs ask as often as one.

A place that says so is not asked again for a minute, and for longer each time; not by any run, unless the catalogue
shows another stock there since.
"""

from pushtrain.control import Control, SoldOut
from pushtrain.errors import CloudError, NoCapacity
from pushtrain.placement import AS_SPOT, Candidate
from pushtrain.spec import JobSpec

FIRST_S, MOST_S = 60.0, 300.0


def sold_out(control: Control, spec: JobSpec, candidate: Candidate) -> NoCapacity | None:
    """What there is to say of a place that is not worth a question now; None when it is."""
    told, now_s = control.sold_out.get(_key(spec, candidate)), control.clock()
    if told is None or now_s >= told.told_s + told.for_s or candidate.stock != told.stock:
        return None
    return NoCapacity(f"{candidate.place} was sold out {now_s - told.told_s:.0f} s ago")


def remember(control: Control, spec: JobSpec, candidate: Candidate, refusal: CloudError | None) -> None:
    """What the place said to a question; None: it had room."""
    key = _key(spec, candidate)
    before = control.sold_out.pop(key, None)
    if refusal is not None and refusal.reason == NoCapacity.reason:  # not VolumeElsewhere: that is this run's own
        for_s = FIRST_S if before is None else min(2 * before.for_s, MOST_S)
        control.sold_out[key] = SoldOut(control.clock(), for_s, candidate.stock)


def _key(spec: JobSpec, candidate: Candidate) -> tuple[str, str, str | None, str, int]:
    tier = f"{candidate.tier}{AS_SPOT if candidate.is_spot else ''}"
    return candidate.cloud, candidate.gpu, candidate.data_center, tier, spec.compute.count
