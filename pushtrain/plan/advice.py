"""For a spec that fits on none of its cards: the smallest change of each kind that would fit, each with its price."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from pushtrain.estimate.cards import usable_gb
from pushtrain.estimate.memory import GIB
from pushtrain.estimate.tokens import Dataset
from pushtrain.gpus import unusable
from pushtrain.placement import hourly_usd
from pushtrain.plan.build import Training, candidate_of, expectation, money
from pushtrain.plan.hub import ModelFacts
from pushtrain.plan.model import Place, Plan, Suggestion
from pushtrain.plan.sources import Sources
from pushtrain.spec import TrainingSpec

# Tokens: a shorter row is another training, not a smaller one.
SHORTEST = 256

Edit = dict[str, Any]


def suggestions(plan: Plan, model: ModelFacts, dataset: Dataset | None, sources: Sources) -> tuple[Suggestion, ...]:
    """The smallest change of each kind that fits on the largest of the spec's own cards, alone or with a batch of one
    row; all of them together where no one is enough; and the cheapest larger card."""
    spec = plan.spec
    assert isinstance(spec, TrainingSpec) and model.shape is not None
    largest = max(plan.places, key=lambda place: place.usable_gb)
    found = [it for edits in _kinds(spec) if (it := _first(edits, spec, model, dataset, largest, sources)) is not None]
    batch_is_enough = any(line.startswith("train.per_device") for it in found for line in it.change)
    if found and spec.train.per_device_train_batch_size > 1 and not batch_is_enough:
        found += _with_one_row(spec, model, dataset, largest, sources)
    if not found:
        together: Edit = {key: value for edit in _last_of_each(spec) for key, value in edit.items()}
        last = _first(iter([together]), spec, model, dataset, largest, sources)
        found = [last] if last else []
    card = _larger_card(spec, plan, model, dataset, sources)
    return tuple([*found, *([card] if card else [])])


def _with_one_row(
    spec: TrainingSpec, model: ModelFacts, dataset: Dataset | None, largest: Place, sources: Sources
) -> list[Suggestion]:
    """The smallest batch and one change more, where the smallest batch alone is not enough: rows stay longer then."""
    *_, one_row = _smaller_batches(spec)
    pairs = (({**one_row, **edit} for edit in edits) for edits in list(_kinds(spec))[1:])
    return [it for edits in pairs if (it := _first(edits, spec, model, dataset, largest, sources)) is not None]


def edited(spec: TrainingSpec, edit: Mapping[str, Any]) -> TrainingSpec | None:
    """The spec with other values at dotted keys; None where it would be no spec."""
    document = spec.model_dump(mode="json", exclude_unset=True)
    for key, value in edit.items():
        *folders, last = key.split(".")
        at = document
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = value
    try:
        return TrainingSpec.model_validate(document)
    except ValidationError:
        return None


def _kinds(spec: TrainingSpec) -> Iterator[Iterator[Edit]]:
    """Edits of each kind, the smallest first."""
    train = spec.train
    yield _smaller_batches(spec)
    if not train.gradient_checkpointing:
        yield iter([{"train.gradient_checkpointing": True}])
    yield _shorter_rows(spec)
    if spec.method.kind == "full":
        yield iter([{"method": {"kind": "lora"}}, {"method": {"kind": "qlora"}}])
    elif spec.method.kind == "lora":
        yield iter([{"method.kind": "qlora"}])


def _smaller_batches(spec: TrainingSpec) -> Iterator[Edit]:
    """Halves, with as many more accumulated: the effective batch is kept."""
    batch, accumulated = spec.train.per_device_train_batch_size, spec.train.gradient_accumulation_steps
    for divisor in range(2, batch + 1):
        if batch % divisor == 0:
            yield {
                "train.per_device_train_batch_size": batch // divisor,
                "train.gradient_accumulation_steps": accumulated * divisor,
            }


def _shorter_rows(spec: TrainingSpec) -> Iterator[Edit]:
    length = spec.train.max_length // 2
    while length >= SHORTEST:
        yield {"train.max_length": length}
        length //= 2


def _last_of_each(spec: TrainingSpec) -> Iterator[Edit]:
    """Of each kind the change that saves most, but for the length, which is halved once."""
    for kind in _kinds(spec):
        edits = list(kind)
        if edits:
            yield edits[0] if "train.max_length" in edits[0] else edits[-1]


def _first(
    edits: Iterator[Edit],
    spec: TrainingSpec,
    model: ModelFacts,
    dataset: Dataset | None,
    place: Place,
    sources: Sources,
) -> Suggestion | None:
    for edit in edits:
        changed = edited(spec, edit)
        if changed is None or model.shape is None:
            continue
        training = Training.of(changed, model.shape, dataset, model.stored_bytes)
        if training.memory.need_gb <= place.usable_gb:
            hours, _, _, _ = expectation(changed, place.gpu, training, sources)
            usd = hours.total.expected * place.usd_per_hour if hours and place.usd_per_hour is not None else None
            return Suggestion(
                change=tuple(f"{key}: {_shown(value)}" for key, value in edit.items()),
                need_gb=training.memory.need_gb,
                gpu=place.gpu,
                hours=hours.total.expected if hours else None,
                usd=usd,
            )
    return None


def _larger_card(
    spec: TrainingSpec, plan: Plan, model: ModelFacts, dataset: Dataset | None, sources: Sources
) -> Suggestion | None:
    """The one on which the spec as it is would cost least, of those with a price in a tier the spec allows."""
    assert model.shape is not None
    training = Training.of(spec, model.shape, dataset, model.stored_bytes)
    found: dict[str, tuple[float, Suggestion]] = {}
    for cloud, offer in [(one.cloud, offer) for one in sources.offers(spec) for offer in one.offers]:
        fits = training.memory.verdict(usable_gb(offer.gpu, offer.gpu_memory_gb) * GIB) == "fits"
        if not fits or offer.tier not in spec.compute.tiers or unusable(offer.gpu, bf16=spec.computes_in_bf16):
            continue
        if offer.max_count < spec.compute.count:
            continue
        hourly = hourly_usd(candidate_of(offer, spec, cloud), spec)
        hours, _, _, _ = expectation(spec, offer.gpu, training, sources)
        usd = money(hours, hourly, spec.budget.max_usd).expected_usd if hours else None
        suggestion = Suggestion(
            change=(f"compute.gpus: [{offer.gpu}]",),
            need_gb=training.memory.need_gb,
            gpu=offer.gpu,
            hours=hours.total.expected if hours else None,
            usd=usd,
        )
        rank = usd if usd is not None else 1e6 + hourly
        if offer.gpu not in found or rank < found[offer.gpu][0]:
            found[offer.gpu] = (rank, suggestion)
    return min(found.values(), key=lambda it: it[0])[1] if found else None


def _shown(value: Any) -> str:
    """As YAML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
