"""A spec and the plan's sources to rows: one for each cloud, GPU and tier on which the job fits, the cheapest first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pushtrain.capabilities import CLOUDS, keeps
from pushtrain.cloud import Offer
from pushtrain.compare.boots import boots_s, median_s
from pushtrain.compare.missing import goes_there, missing
from pushtrain.estimate.memory import MemoryEstimate
from pushtrain.gpus import unusable
from pushtrain.placement import Candidate, bids, candidate_of, hourly_usd, is_free
from pushtrain.plan.build import Training, place_of
from pushtrain.plan.model import Place
from pushtrain.plan.sources import Sources
from pushtrain.prices.snapshot import ANYWHERE, PRICED, TITLES
from pushtrain.spec import JobSpec, TrainingSpec

STORAGE_NOTE = (
    "storage is counted where a pod would have it; at a cloud whose price of it is not known here at $0.10 per GB and "
    "month"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The plan's place at one cloud. `boot_s` is the median the ledger knows; `missing` what one would do without;
    `goes_there` whether the spec may be placed there as it is."""

    cloud: str
    title: str
    place: Place
    boot_s: float | None
    missing: tuple[str, ...]
    goes_there: bool

    @property
    def rank(self) -> tuple[bool, float, float, str, str, str]:
        """Expected dollars, else dollars an hour."""
        place = self.place
        expected = place.money.expected_usd if place.money else 0.0
        return place.money is None, expected, place.usd_per_hour or 0.0, self.cloud, place.gpu, place.tier


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`prices` says by cloud where its prices are from and how old, `days` the day of its snapshot, None where it was
    asked live; `notes` what was left out, and what no figure holds."""

    spec: JobSpec
    rows: tuple[Row, ...]
    memory: MemoryEstimate | None
    prices: dict[str, str]
    days: dict[str, str | None]
    notes: tuple[str, ...]


def comparison(spec: JobSpec, sources: Sources) -> Comparison:
    training, notes = _training(spec, sources)
    seen = boots_s(sources.records())
    rows, too_large = list[Row](), set[str]()
    for cloud in PRICED:
        offered = sources.market.offers(cloud, spec.compute.count)
        notes += [f"{TITLES[cloud]}: {why}"] if (why := offered.failure or offered.trouble) else []
        usable = [it for it in offered.offers if _may_run(spec, training, it) and _is_in_place(spec, cloud, it)]
        groups = _groups(spec, cloud, usable)
        places = [place_of(spec, group, training, sources) for group in groups]
        too_large |= {place.gpu for place in places if place.verdict == "too large"}
        here = [_row(spec, cloud, place, median_s(seen.get(cloud))) for place in places if place.verdict != "too large"]
        notes += [] if here or offered.failure else [f"{TITLES[cloud]}: no price known of a GPU that would do"]
        rows += here
    notes += [f"too small for it: {', '.join(sorted(too_large))}"] if too_large else []
    notes += [f"interruptions at {TITLES[cloud]}: {how}" for cloud, how in _rates(rows).items()]
    notes += [sources.past_trouble] if sources.past_trouble else []
    market = sources.market
    return Comparison(
        spec=spec,
        rows=tuple(sorted(rows, key=lambda row: row.rank)),
        memory=training.memory if training else None,
        prices={cloud: market.said_of(cloud) for cloud in PRICED},
        days={cloud: None if market.is_live(cloud) else market.snapshot(cloud).asked[:10] for cloud in PRICED},
        notes=(*notes, STORAGE_NOTE),
    )


def _training(spec: JobSpec, sources: Sources) -> tuple[Training | None, list[str]]:
    """As `plan` has it; None for what has no model of memory and time, and where model or sizes are not known."""
    if not isinstance(spec, TrainingSpec):
        return None, [f"a {spec.task} has no model of memory or time: only the GPUs that it names, by dollars an hour"]
    model = sources.hub.model(spec.model.id, spec.model.revision)
    dataset, why_none, _ = sources.dataset(spec)
    notes = [f"model: {model.how}", f"data: {dataset.how if dataset else why_none}"]
    if model.shape is None:
        return None, [*notes, "without the model's sizes: only the GPUs that the spec names, by dollars an hour"]
    return Training.of(spec, model.shape, dataset, model.stored_bytes), notes


def _may_run(spec: JobSpec, training: Training | None, offer: Offer) -> bool:
    """Where nothing says how much memory it takes, what the spec names is all that is known to do."""
    if offer.max_count < spec.compute.count or unusable(offer.gpu, bf16=spec.computes_in_bf16):
        return False
    if not is_free(spec, offer):
        return False
    return training is not None or offer.gpu in spec.compute.gpus


def _is_in_place(spec: JobSpec, cloud: str, offer: Offer) -> bool:
    """A spec that names data centers wants no other, wherever there are such."""
    wanted = spec.compute.data_centers
    return not wanted or not _has_data_centers(cloud) or offer.data_center in (*wanted, ANYWHERE)


def _has_data_centers(cloud: str) -> bool:
    return cloud in CLOUDS and CLOUDS[cloud].has_data_centers


def _groups(spec: JobSpec, cloud: str, offers: Sequence[Offer]) -> Iterator[list[Candidate]]:
    """Candidates of one GPU and tier, by bid, where the spec bids, and on demand, the cheapest first."""
    placeable = [it for it in offers if not keeps(cloud, it.tier) or it.has_network_volumes]
    candidates = [candidate_of(offer, spec, cloud) for offer in placeable]
    groups: dict[tuple[str, str, bool], list[Candidate]] = {}
    for candidate in [*bids(spec, candidates), *(it for it in candidates if it.stock != "NONE")]:
        groups.setdefault((candidate.gpu, candidate.tier, candidate.is_spot), []).append(candidate)
    for found in groups.values():
        yield sorted(found, key=lambda it: (hourly_usd(it, spec), it.data_center or ""))


def _row(spec: JobSpec, cloud: str, place: Place, boot_s: float | None) -> Row:
    return Row(
        cloud=cloud,
        title=TITLES[cloud],
        place=place,
        boot_s=boot_s,
        missing=(*_cut_off(place), *_taken(place), *missing(spec, cloud, place.gpu, place.tier)),
        goes_there=goes_there(spec, cloud, place.gpu, place.tier),
    )


def _rates(rows: Sequence[Row]) -> dict[str, str]:
    """By cloud who says how often its spot machines are taken away."""
    return {row.cloud: row.place.interruptions.rate.how for row in rows if row.place.interruptions}


def _taken(place: Place) -> tuple[str, ...]:
    found = place.interruptions
    return (f"{found.number.expected:.1f} interruptions expected",) if found else ()


def _cut_off(place: Place) -> tuple[str, ...]:
    if place.hours is None or place.deadline_hours is None or place.hours.total.expected <= place.deadline_hours:
        return ()
    return ("its budget ends it before",)
