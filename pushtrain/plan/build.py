"""One spec and its facts to a Plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pushtrain.capabilities import CLOUDS
from pushtrain.errors import NoCapacity, PushtrainError
from pushtrain.estimate.cards import usable_gb
from pushtrain.estimate.correction import correction, memory_correction
from pushtrain.estimate.hours import Band, Hours, hours
from pushtrain.estimate.interruptions import Interruptions, interrupted
from pushtrain.estimate.memory import GIB, MemoryEstimate, Verdict, memory
from pushtrain.estimate.recipe import Recipe, recipe_of, trained_parameters
from pushtrain.estimate.shape import ModelShape
from pushtrain.estimate.speed import kind_of, speed
from pushtrain.estimate.tokens import Dataset, Work, bounded_work, work
from pushtrain.gpus import memory_gb
from pushtrain.placement import Candidate, candidate_of, cap, hourly_usd, ladder_over, on_demand_hourly_usd
from pushtrain.plan.market import Offers
from pushtrain.plan.model import Money, Place, Plan, Resource
from pushtrain.plan.sources import Kept, Sources
from pushtrain.prices import HIGH_PERFORMANCE_NOTE
from pushtrain.spec import JobSpec, TrainingSpec
from pushtrain.traffic import attempt_usd

__all__ = ["Training", "bare_plan", "candidate_of", "expectation", "money", "place_of", "resources"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What is known of a training before it is placed anywhere; `work` is None where nobody knows the dataset."""

    shape: ModelShape
    recipe: Recipe
    memory: MemoryEstimate
    work: Work | None
    stored_bytes: float

    @classmethod
    def of(
        cls, spec: TrainingSpec, shape: ModelShape, dataset: Dataset | None, stored_bytes: float | None
    ) -> "Training":
        recipe = recipe_of(spec)
        return cls(
            shape=shape,
            recipe=recipe,
            memory=memory(shape, recipe),
            work=work(dataset, spec) if dataset else bounded_work(spec),
            stored_bytes=stored_bytes or shape.parameters * shape.stored_bits / 8,
        )


def bare_plan(spec: JobSpec, path: str, sources: Sources, training: Training | None) -> Plan:
    """Places, memory, work and resources; what the plan is compared with and warned about comes after."""
    offered = sources.offers(spec)
    kept = sources.kept(spec) if spec.compute.volume.keep else None
    candidates, notes = _candidates(spec, offered, kept)
    notes += [kept.note] if kept else []
    places = tuple(_places(spec, candidates, training, sources))
    if any(candidate.volume_kind == "HIGH_PERFORMANCE" for candidate in candidates):
        notes.append(HIGH_PERFORMANCE_NOTE)
    return Plan(
        spec=spec,
        path=path,
        places=places,
        memory=training.memory if training else None,
        parameters=training.shape.parameters if training else None,
        trained_parameters=trained_parameters(training.shape, training.recipe) if training else None,
        work=training.work if training else None,
        resources=resources(spec, candidates[0] if candidates else None),
        notes=tuple(notes),
    )


def resources(spec: JobSpec, candidate: Candidate | None) -> tuple[Resource, ...]:
    """What a Pulumi preview of the first attempt shows: the stack is new, so everything is created."""
    compute = spec.compute
    where = f"in {candidate.data_center}" if candidate and candidate.data_center not in (None, "ANY") else ""
    where = f"{where} at {CLOUDS[candidate.cloud].title}" if candidate and len(compute.clouds) > 1 else where
    cloud = candidate.cloud if candidate else compute.clouds[0]
    is_local = not CLOUDS[cloud].keeps(candidate.tier if candidate else compute.tiers[0])
    gpu = candidate.gpu if candidate else compute.gpus[0]
    own = f", {compute.volume.size_gb} GB of its own disk" if is_local else ""
    ports = f", open to the internet: {', '.join(compute.ports)}" if compute.ports else ""
    image, made_gb = compute.at(cloud).image_in_words, max(compute.volume.size_gb, CLOUDS[cloud].volume_gb[0])
    pod = f"{compute.count} × {gpu} {where}, {image}, {compute.disk_gb} GB disk{own}{ports}"
    kind = f" {candidate.volume_kind.lower().replace('_', '-')}" if candidate and candidate.volume_kind else ""
    volume = Resource(
        action="create",
        kind="NetworkVolume",
        name="volume",
        detail=f"{made_gb} GB{kind} {where}".strip(),
    )
    created = Resource(action="create", kind="Pod", name="pod", detail=" ".join(pod.split()).replace(" ,", ","))
    return (created,) if is_local or compute.volume.keep else (volume, created)


def _candidates(spec: JobSpec, offered: Sequence[Offers], kept: Kept | None) -> tuple[list[Candidate], list[str]]:
    """A kept volume that is there pins the run to its data center."""
    said = [why for one in offered if (why := one.failure or one.trouble)]
    asked = [one for one in offered if not one.failure]
    if (kept is not None and kept.misfits) or not asked:
        return [], said
    pinned = kept.data_center if kept else None
    try:
        return ladder_over(spec, [one.offered for one in asked], volume_data_center=pinned), said
    except NoCapacity as nothing:
        without = [one.cloud for one in asked if not one.is_live and not one.trouble]
        keys = " and ".join(CLOUDS[cloud].key_name for cloud in without)
        why = f"the snapshot has no price for any of its GPUs: with {keys} set they are asked live"
        return [], [*said, f"{nothing.reason}: {nothing}" if not without else why]
    except PushtrainError as problem:
        return [], [*said, f"{problem.reason}: {problem}"]


def _places(spec: JobSpec, candidates: Sequence[Candidate], training: Training | None, sources: Sources) -> list[Place]:
    """The first candidate of each cloud, GPU and tier, by bid and on demand, then the GPUs of the spec that nobody has
    a price for."""
    groups: dict[tuple[str, str, str, bool], list[Candidate]] = {}
    for candidate in candidates:
        key = (candidate.gpu, candidate.tier, candidate.cloud, candidate.is_spot)
        groups.setdefault(key, []).append(candidate)
    found = [place_of(spec, group, training, sources) for group in groups.values()]
    priced = {candidate.gpu for candidate in candidates}
    return found + [_unpriced(spec, gpu, training, sources) for gpu in spec.compute.gpus if gpu not in priced]


def place_of(spec: JobSpec, group: Sequence[Candidate], training: Training | None, sources: Sources) -> Place:
    """What a spec would take and cost on candidates of one cloud, GPU and tier: on the first of them."""
    first = group[0]
    limits, hourly = cap(spec, first), hourly_usd(first, spec)
    expected, tokens_per_s, corrected, basis = expectation(spec, first.gpu, training, sources)
    taken, usd = None, None
    if expected is not None and training is not None:
        expected, taken = with_interruptions(spec, first, expected, training, sources)
    if expected is not None:
        usd = with_traffic(spot_money(expected, spec, first, taken), first.cloud, training, taken)
    return Place(
        cloud=first.cloud,
        gpu=first.gpu,
        count=spec.compute.count,
        tier=first.tier,
        data_centers=tuple(it.data_center for it in group if it.data_center and it.data_center != "ANY"),
        stock=sources.market.stock(first.stock, first.cloud, first.gpu, first.tier),
        sold_as_gb=first.gpu_memory_gb,
        usable_gb=usable_gb(first.gpu, first.gpu_memory_gb),
        verdict=_verdict(first.gpu, first.gpu_memory_gb, training, sources),
        tokens_per_s=tokens_per_s,
        hours=expected,
        money=usd,
        usd_per_hour=hourly,
        deadline_hours=limits.deadline_hours,
        cap_usd=limits.cap_usd,
        correction=corrected,
        basis=basis,
        is_spot=first.is_spot,
        interruptions=taken,
    )


def with_interruptions(
    spec: JobSpec, candidate: Candidate, expected: Hours, training: Training, sources: Sources
) -> tuple[Hours, Interruptions | None]:
    """The hours of a run that begins there, with those that lost machines cost; on demand nothing is lost."""
    spot = spec.compute.spot
    if spot is None or not candidate.is_spot or training.work is None or not isinstance(spec, TrainingSpec):
        return expected, None
    share = min(1.0, spec.train.save_steps / max(1, training.work.steps))
    save_hours = expected.training.times(expected.correction * share)
    return interrupted(expected, save_hours, sources.interruptions(candidate.cloud), spot.interruptions)


def spot_money(expected: Hours, spec: JobSpec, candidate: Candidate, taken: Interruptions | None) -> Money:
    """What those hours cost: as spot, and on demand after the last machine that is taken away."""
    limits, hourly = cap(spec, candidate), hourly_usd(candidate, spec)
    if taken is None:
        return money(expected, hourly, limits.cap_usd)
    total, share = expected.total, taken.on_demand_share
    dearer = on_demand_hourly_usd(candidate, spec) - hourly
    return Money(
        low_usd=total.low * (hourly + share.low * dearer),
        expected_usd=total.expected * (hourly + share.expected * dearer),
        high_usd=total.high * (hourly + share.high * dearer),
        cap_usd=limits.cap_usd,
    )


def with_traffic(found: Money, cloud: str, training: Training | None, taken: Interruptions | None = None) -> Money:
    """With what each attempt brings over the internet: environment and model, at a cloud that bills each GB."""
    usd = attempt_usd(cloud, training.stored_bytes / 1e9 if training else 0.0)
    again = taken.number if taken else Band(low=0.0, expected=0.0, high=0.0)
    return replace(
        found,
        low_usd=found.low_usd + usd * (1 + again.low),
        expected_usd=found.expected_usd + usd * (1 + again.expected),
        high_usd=found.high_usd + usd * (1 + again.high),
    )


def money(expected: Hours, hourly_usd: float, cap_usd: float) -> Money:
    total = expected.total
    return Money(
        low_usd=total.low * hourly_usd,
        expected_usd=total.expected * hourly_usd,
        high_usd=total.high * hourly_usd,
        cap_usd=cap_usd,
    )


def _unpriced(spec: JobSpec, gpu: str, training: Training | None, sources: Sources) -> Place:
    sold = memory_gb(gpu) or 0
    return Place(
        cloud=spec.compute.clouds[0],
        gpu=gpu,
        count=spec.compute.count,
        tier=spec.compute.tiers[0],
        data_centers=(),
        stock="no price known, or none to be had",
        sold_as_gb=sold,
        usable_gb=usable_gb(gpu, sold),
        verdict=_verdict(gpu, sold, training, sources) if sold else None,
        tokens_per_s=None,
        hours=None,
        money=None,
        usd_per_hour=None,
        deadline_hours=None,
        cap_usd=None,
    )


def _verdict(gpu: str, sold_as_gb: int, training: Training | None, sources: Sources) -> Verdict | None:
    """Where finished runs took more than was estimated, a card counts as that much smaller."""
    if training is None:
        return None
    factor = memory_correction(sources.past(), kind_of(training.recipe)).factor
    return training.memory.verdict(usable_gb(gpu, sold_as_gb) * GIB / factor)


def expectation(
    spec: JobSpec, gpu: str, training: Training | None, sources: Sources
) -> tuple[Hours | None, float | None, str, str]:
    """Hours, tokens/s, and in words what corrected them and what they rest on."""
    found = speed(training.shape, training.recipe, gpu, spec.compute.count) if training else None
    if training is None or found is None:
        return None, None, "", ""
    corrected = correction(sources.past(), gpu, kind_of(training.recipe))
    rate = found.tokens_per_s / corrected.factor
    if training.work is None:
        return None, rate, corrected.how, found.basis
    expected = hours(training.shape, training.recipe, training.work, found, training.stored_bytes, corrected.factor)
    return expected, rate, corrected.how, found.basis
