"""Where a run may go, in which order, and what it may cost there at most. Pure: offers in, candidates out."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD, keeps, machine
from pushtrain.cloud import Offer, Stock, Tier, VolumeKind
from pushtrain.errors import NoCapacity, SpecError
from pushtrain.gpus import GPU_NAMES, nearest, unusable
from pushtrain.prices import storage_usd_per_month
from pushtrain.spec import JobSpec
from pushtrain.traffic import brought_usd

HOURS_PER_MONTH = 730
AS_SPOT = ", spot"
# Who bids the least that is asked is the first to be outbid; what is bid is also what is paid.
MARGIN = 1.2

_STOCK_ORDER: dict[Stock, int] = {"HIGH": 0, "MEDIUM": 1, "LOW": 2, "NONE": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One place to try, at one cloud. `usd_per_hour` is the price of all its GPUs, without storage.

    Where the cloud has no network volumes (a community machine) there is no `data_center`, but a disk of the pod's own.
    `volume_kind` is the network volume the run would get in that data center. With `is_spot` the price is what is bid,
    or what the cloud asks where it sets that price, `on_demand_usd` what the same costs on demand; `min_bid_usd` is the
    least that has to be bid. All are for all its GPUs.
    """

    gpu: str
    data_center: str | None
    tier: Tier
    usd_per_hour: float
    gpu_memory_gb: int
    stock: Stock
    volume_kind: VolumeKind | None = None
    cloud: str = DEFAULT_CLOUD
    min_bid_usd: float | None = None
    is_spot: bool = False
    on_demand_usd: float | None = None

    @property
    def place(self) -> str:
        """For people."""
        at = "" if self.cloud == DEFAULT_CLOUD else f" at {CLOUDS[self.cloud].title}"
        return f"{self.gpu} {where(self.data_center, self.tier)}{at}{AS_SPOT if self.is_spot else ''}"


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
    cloud: str | None = None,
    volume_data_center: str | None = None,
    known_gpus: Collection[str] | None = None,
) -> list[Candidate]:
    """Candidates at one cloud, the spec's own where none is named, in the order to try them.

    With `compute.spot` all that is to be had as spot comes before anything on demand. Then what the user put in order,
    the tiers and then the GPUs; within one tier and GPU the places that are low in stock come last, then the cheaper
    one is first (storage included), then the fuller one, then by id.

    An existing volume pins the run to `volume_data_center`. Raises SpecError for a GPU the trainer cannot use and, with
    `known_gpus` (all ids the cloud knows), for one not among them; NoCapacity, saying which condition removed what,
    when nothing is left.
    """
    cloud = cloud or spec.compute.clouds[0]
    check_gpus(spec, known_gpus, cloud)
    removed: list[str] = []
    left = offers
    for condition, holds in _conditions(spec, cloud, volume_data_center):
        kept = [offer for offer in left if holds(offer)]
        if len(kept) < len(left):
            removed.append(f"{len(left) - len(kept)} {condition}")
        left = kept
    if not left:
        why = f"of {len(offers)} offers, {', then '.join(removed)}" if removed else "the cloud offers nothing at all"
        raise NoCapacity(f"no place for {spec.name}: {why}", hint=_wider(spec, cloud))
    found = [candidate_of(offer, spec, cloud) for offer in left]
    free = [*bids(spec, found), *(it for it in found if it.stock != "NONE")]
    if not free:
        hint = _wider(spec, cloud)
        raise NoCapacity(f"no place for {spec.name}: on demand sold out, as spot dearer than max_share", hint=hint)
    return sorted(free, key=lambda candidate: _rank(candidate, spec))


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """What one cloud offers, with every GPU type id that it knows, None where nobody asked."""

    cloud: str
    offers: list[Offer]
    known_gpus: Collection[str] | None


def ladder_over(spec: JobSpec, offered: Sequence[Offered], *, volume_data_center: str | None = None) -> list[Candidate]:
    """Candidates at several clouds in one order, that of `ladder`: tier, GPU, then price whoever asks it.

    A cloud that has none is left out. Raises as `ladder` where none is left: SpecError where each cloud says that.
    """
    found: list[Candidate] = []
    refused: list[NoCapacity | SpecError] = []
    for one in offered:
        try:
            found += ladder(
                spec, one.offers, cloud=one.cloud, known_gpus=one.known_gpus, volume_data_center=volume_data_center
            )
        except (NoCapacity, SpecError) as nothing:
            refused.append(nothing)
    if found:
        return sorted(found, key=lambda candidate: _rank(candidate, spec))
    if len(refused) == 1 or (refused and all(isinstance(it, SpecError) for it in refused)):
        raise refused[0]
    said = [f"{CLOUDS[one.cloud].title}: {why}" for one, why in zip(offered, refused, strict=True)]
    raise NoCapacity("; ".join(said) or "no cloud was asked", hint="name more GPU types, tiers or clouds, or wait")


def check_gpus(spec: JobSpec, known_gpus: Collection[str] | None = None, cloud: str = DEFAULT_CLOUD) -> None:
    """Raises SpecError for the first GPU the trainer cannot use, or that the cloud has never heard of. A type that
    other clouds have is passed over where the cloud has another one that the spec names."""
    has_another = known_gpus is not None and any(gpu in known_gpus for gpu in spec.compute.gpus)
    for gpu in spec.compute.gpus:
        if reason := unusable(gpu, bf16=spec.computes_in_bf16):
            raise SpecError(f"compute.gpus: {gpu!r} cannot be used: {reason}", hint="name another GPU type")
        if known_gpus is not None and gpu not in known_gpus and not (has_another and gpu in GPU_NAMES):
            near = nearest(gpu, [name for name in known_gpus if not unusable(name)])
            raise SpecError(
                f"compute.gpus: {cloud} knows no GPU {gpu!r}",
                hint=f"nearest: {', '.join(near)}" if near else "the cloud's catalogue lists the ids",
            )


def where(data_center: str | None, tier: str) -> str:
    """For people: `in EU-SE-1`, or what is known of a place without a network volume."""
    return f"in {data_center}" if data_center else f"on a {machine(tier)}"


def hourly_usd(candidate: Candidate, spec: JobSpec) -> float:
    """USD per hour of a running pod at the candidate with everything it holds: GPUs, volume, disks."""
    return candidate.usd_per_hour + storage_usd_per_hour(spec, candidate)


def on_demand_hourly_usd(candidate: Candidate, spec: JobSpec) -> float:
    """The same on demand, where a run that lost its spot machines goes on."""
    usd = candidate.usd_per_hour if candidate.on_demand_usd is None else candidate.on_demand_usd
    return usd + storage_usd_per_hour(spec, candidate)


def storage_usd_per_hour(spec: JobSpec, candidate: Candidate) -> float:
    """USD per hour of all storage while a pod runs."""
    own_gb = spec.compute.volume.size_gb if candidate.data_center is None else 0
    disks = storage_usd_per_month("DISK", spec.compute.disk_gb + own_gb, candidate.cloud) / HOURS_PER_MONTH
    return disks + volume_usd_per_hour(spec, candidate)


def volume_usd_per_hour(spec: JobSpec, candidate: Candidate) -> float:
    """USD per hour of the run's network volume, which is billed for as long as it exists; 0 without one, and for a kept
    one: no run pays for what all share."""
    if candidate.data_center is None or spec.compute.volume.keep:
        return 0.0
    compute, kind = spec.compute, candidate.volume_kind or "STANDARD"
    return storage_usd_per_month(kind, compute.volume.size_gb, candidate.cloud) / HOURS_PER_MONTH


def cap(spec: JobSpec, candidate: Candidate) -> CostEstimate:
    """What the budget means here: the dollar cap holds with storage, so a dear candidate gets fewer hours, and one
    attempt's known traffic is kept of it. What began as spot may end on demand, and cost as much."""
    hourly = hourly_usd(candidate, spec)
    budget, dearest = spec.budget, max(hourly, on_demand_hourly_usd(candidate, spec))
    traffic_usd = brought_usd(candidate.cloud, spec)
    return CostEstimate(
        usd_per_hour_gpu=candidate.usd_per_hour,
        usd_per_hour_storage=storage_usd_per_hour(spec, candidate),
        cap_usd=min(budget.max_usd, budget.max_hours * dearest + traffic_usd),
        deadline_hours=min(budget.max_hours, max(0.0, budget.max_usd - traffic_usd) / hourly),
    )


def _conditions(spec: JobSpec, cloud: str, volume_data_center: str | None) -> list[tuple[str, Callable[[Offer], bool]]]:
    """What was removed, in words, and the test that keeps the rest; from what the spec says to what the hour brings."""
    compute, can = spec.compute, CLOUDS[cloud]
    conditions: list[tuple[str, Callable[[Offer], bool]]] = [
        (f"are not {' or '.join(compute.gpus)}", lambda offer: offer.gpu in compute.gpus),
        (f"are not in compute.tiers {', '.join(compute.tiers)}", lambda offer: offer.tier in compute.tiers),
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
            lambda offer: not can.keeps(offer.tier) or (offer.has_network_volumes and offer.data_center is not None),
        ),
        (f"have no machine with {compute.count} GPUs", lambda offer: offer.max_count >= compute.count),
        ("are out of stock", lambda offer: is_free(spec, offer)),
    ]


def _wider(spec: JobSpec, cloud: str) -> str:
    if spec.compute.volume.keep:
        name = spec.compute.volume.name
        return f"name more GPU types, wait, or `pushtrain volumes copy {name} DATA_CENTER` and name the copy"
    more = [tier for tier in CLOUDS[cloud].tiers if tier not in spec.compute.tiers]
    allow = f", allow {' or '.join(more)} in compute.tiers," if more else ","
    return f"name more GPU types or data centers{allow} or wait"


def candidate_of(offer: Offer, spec: JobSpec, cloud: str | None = None) -> Candidate:
    """What an offer of a cloud, the spec's own where none is named, is for a spec, whatever its stock."""
    cloud = cloud or spec.compute.clouds[0]
    kept = keeps(cloud, offer.tier)
    kinds = offer.volume_kinds if kept else ()
    return Candidate(
        cloud=cloud,
        gpu=offer.gpu,
        data_center=offer.data_center if kept else None,
        tier=offer.tier,
        usd_per_hour=offer.usd_per_gpu_hour * spec.compute.count,
        gpu_memory_gb=offer.gpu_memory_gb,
        stock=offer.stock,
        min_bid_usd=None if (bid := offer.min_bid_usd_per_gpu_hour) is None else bid * spec.compute.count,
        volume_kind="STANDARD" if "STANDARD" in kinds else next(iter(kinds), None),
    )


def is_free(spec: JobSpec, offer: Offer) -> bool:
    """Machines that may be taken away can be free where those on demand are sold out."""
    return offer.stock != "NONE" or (spec.compute.spot is not None and offer.min_bid_usd_per_gpu_hour is not None)


def bids(spec: JobSpec, candidates: list[Candidate]) -> list[Candidate]:
    """Those of the candidates, all on demand, that are also to be had for at most `max_share` of their price: at what a
    run bids first, or at the cloud's own price where it sets one."""
    spot = spec.compute.spot
    if spot is None:
        return []
    found = [
        replace(it, is_spot=True, on_demand_usd=it.usd_per_hour, stock="LOW" if it.stock == "NONE" else it.stock)
        for it in candidates
        if it.min_bid_usd is not None
    ]
    return [
        replace(it, usd_per_hour=it.min_bid_usd if _sets_spot_price(it.cloud) else bid_usd(it, spot.max_share))
        for it in found
        if it.min_bid_usd is not None and it.min_bid_usd <= most_bid_usd(it, spot.max_share)
    ]


def most_bid_usd(candidate: Candidate, max_share: float) -> float:
    """An hour for all its GPUs."""
    return round((candidate.on_demand_usd or candidate.usd_per_hour) * max_share, 6)


def bid_usd(candidate: Candidate, max_share: float, raised: float = 0.0) -> float:
    """What is bid: MARGIN above the least, and with `raised` 0 to 1 as far from there to the most."""
    most = most_bid_usd(candidate, max_share)
    first = min(most, (candidate.min_bid_usd or 0.0) * MARGIN)
    return round(first + (most - first) * min(1.0, raised), 6)


def _sets_spot_price(cloud: str) -> bool:
    return cloud in CLOUDS and CLOUDS[cloud].sets_spot_price


def _rank(candidate: Candidate, spec: JobSpec) -> tuple[bool, int, int, bool, float, int, str, str]:
    """Bids first. A place that is low in stock is a trap: the volume pins every later attempt to it."""
    compute = spec.compute
    return (
        not candidate.is_spot,
        compute.tiers.index(candidate.tier),
        compute.gpus.index(candidate.gpu),
        candidate.stock == "LOW",
        round(hourly_usd(candidate, spec), 6),
        _STOCK_ORDER[candidate.stock],
        candidate.data_center or "",
        candidate.cloud,
    )
