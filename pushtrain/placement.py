"""Where a run may go, in which order, and what it may cost there at most. Pure: offers in, candidates out."""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from pushtrain.cloud import Offer, Stock, Tier
from pushtrain.errors import NoCapacity, SpecError
from pushtrain.spec import JobSpec

# RunPod's list prices of network volumes and of a running pod's container disk, in USD per GB and month. The first TB
# is counted as 1024 GB: the estimate then errs on the dear side.
VOLUME_USD_PER_GB_MONTH = 0.07
VOLUME_USD_PER_GB_MONTH_ABOVE = 0.05
VOLUME_FIRST_GB = 1024
DISK_USD_PER_GB_MONTH = 0.10
HOURS_PER_MONTH = 730

_STOCK_ORDER: dict[Stock, int] = {"HIGH": 0, "MEDIUM": 1, "LOW": 2, "NONE": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One place to try. `usd_per_hour` is the price of all its GPUs, without storage."""

    gpu: str
    data_center: str
    tier: Tier
    usd_per_hour: float
    gpu_memory_gb: int
    stock: Stock


@dataclass(frozen=True, kw_only=True, slots=True)
class CostEstimate:
    """The most a run may cost at one candidate, and the hours after which it has cost that."""

    usd_per_hour_gpu: float
    usd_per_hour_storage: float
    cap_usd: float
    deadline_hours: float

    @property
    def usd_per_hour(self) -> float:
        return self.usd_per_hour_gpu + self.usd_per_hour_storage


def ladder(
    spec: JobSpec,
    offers: list[Offer],
    *,
    volume_data_center: str | None = None,
    known_gpus: Collection[str] | None = None,
) -> list[Candidate]:
    """Candidates in the order to try them: the spec's GPU preference, then stock, then price, then id.

    An existing volume pins the run to `volume_data_center`. With `known_gpus` (all ids the cloud knows) a GPU id not
    among them raises SpecError. Raises NoCapacity, saying which condition removed what, when nothing is left.
    """
    if known_gpus is not None:
        check_gpus(spec, known_gpus)
    removed: list[str] = []
    left = offers
    for condition, holds in _conditions(spec, volume_data_center):
        kept = [offer for offer in left if holds(offer)]
        if len(kept) < len(left):
            removed.append(f"{len(left) - len(kept)} {condition}")
        left = kept
    if not left:
        why = f"of {len(offers)} offers, {', then '.join(removed)}" if removed else "the cloud offers nothing at all"
        raise NoCapacity(f"no place for {spec.name}: {why}", hint="name more GPU types or data centers, or wait")
    return sorted((_candidate(offer, spec) for offer in left), key=lambda candidate: _rank(candidate, spec))


def check_gpus(spec: JobSpec, known_gpus: Collection[str]) -> None:
    """Raises SpecError for the first GPU id the cloud has never heard of, with the nearest ones it has."""
    for gpu in spec.compute.gpus:
        if gpu not in known_gpus:
            near = _nearest(gpu, known_gpus)
            raise SpecError(
                f"compute.gpus: {spec.compute.cloud} knows no GPU {gpu!r}",
                hint=f"nearest: {', '.join(near)}" if near else "the cloud's catalogue lists the ids",
            )


def hourly_usd(candidate: Candidate, spec: JobSpec) -> float:
    """USD per hour of a running pod at the candidate with everything it holds: GPUs, volume, container disk."""
    return candidate.usd_per_hour + storage_usd_per_hour(spec)


def storage_usd_per_hour(spec: JobSpec) -> float:
    """USD per hour of the run's network volume (billed while it exists) and container disk (while the pod runs)."""
    size_gb = spec.compute.volume.size_gb
    volume = VOLUME_USD_PER_GB_MONTH * min(size_gb, VOLUME_FIRST_GB)
    volume += VOLUME_USD_PER_GB_MONTH_ABOVE * max(0, size_gb - VOLUME_FIRST_GB)
    return (volume + DISK_USD_PER_GB_MONTH * spec.compute.disk_gb) / HOURS_PER_MONTH


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """For run.json and plan --json."""
    return asdict(candidate)


def cap(spec: JobSpec, candidate: Candidate) -> CostEstimate:
    """What the budget means here: the dollar cap holds with storage, so a dear candidate gets fewer hours."""
    hourly = hourly_usd(candidate, spec)
    budget = spec.budget
    return CostEstimate(
        usd_per_hour_gpu=candidate.usd_per_hour,
        usd_per_hour_storage=storage_usd_per_hour(spec),
        cap_usd=min(budget.max_usd, budget.max_hours * hourly),
        deadline_hours=min(budget.max_hours, budget.max_usd / hourly),
    )


def _conditions(spec: JobSpec, volume_data_center: str | None) -> list[tuple[str, Callable[[Offer], bool]]]:
    """What was removed, in words, and the test that keeps the rest; from what the spec says to what the hour brings."""
    compute = spec.compute
    conditions: list[tuple[str, Callable[[Offer], bool]]] = [
        (f"are not {' or '.join(compute.gpus)}", lambda offer: offer.gpu in compute.gpus),
        ("are community offers (network volumes are secure only)", lambda offer: offer.tier == "SECURE"),
    ]
    if compute.data_centers:
        asked = ", ".join(compute.data_centers)
        conditions.append(
            (f"are outside compute.data_centers {asked}", lambda offer: offer.data_center in compute.data_centers)
        )
    if volume_data_center is not None:
        conditions.append(
            (
                f"are outside {volume_data_center}, where the run's volume is",
                lambda offer: offer.data_center == volume_data_center,
            )
        )
    return [
        *conditions,
        (
            "are in data centers without network volumes",
            lambda offer: offer.has_network_volumes and offer.data_center is not None,
        ),
        (f"have no machine with {compute.count} GPUs", lambda offer: offer.max_count >= compute.count),
        ("are out of stock", lambda offer: offer.stock != "NONE"),
    ]


def _candidate(offer: Offer, spec: JobSpec) -> Candidate:
    return Candidate(
        gpu=offer.gpu,
        data_center=offer.data_center or "",
        tier=offer.tier,
        usd_per_hour=offer.usd_per_gpu_hour * spec.compute.count,
        gpu_memory_gb=offer.gpu_memory_gb,
        stock=offer.stock,
    )


def _rank(candidate: Candidate, spec: JobSpec) -> tuple[int, int, float, str]:
    preference = spec.compute.gpus.index(candidate.gpu)
    return preference, _STOCK_ORDER[candidate.stock], candidate.usd_per_hour, candidate.data_center


def _nearest(gpu: str, known_gpus: Collection[str]) -> list[str]:
    """Names that contain what was written, then names spelt alike; three at most."""
    by_lower = {name.lower(): name for name in sorted(known_gpus)}
    wanted = gpu.lower().strip()
    inside = [name for lower, name in by_lower.items() if wanted in lower]
    alike = [by_lower[lower] for lower in get_close_matches(wanted, by_lower, n=3, cutoff=0.5)]
    return list(dict.fromkeys([*inside, *alike]))[:3]
