"""Memory before anything is loaded: the estimate of `pushtrain.estimate` beside the card that is really there.

Three bands (docs/decisions.md): it fits; it is tight, and what would help is said; or it cannot fit, also with the
smallest batches, and the run is refused with the numbers. `train.check_memory: false` turns the refusal into a line.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.memory import GIB, MemoryEstimate, memory
from pushtrain.estimate.recipe import Recipe, recipe_of
from pushtrain.estimate.shape import ModelShape, ShapeUnknown
from trainer.failures import OutOfMemory
from trainer.fit.batches import Batches
from trainer.gpu import Card
from trainer.job import Job
from trainer.report import say


def check_memory(job: Job, config: Mapping[str, Any], cards: Sequence[Card]) -> None:
    """`config` is the model's config.json, `cards` are those the run uses. Says the verdict; without a card nothing.

    Raises OutOfMemory where even the smallest batches cannot fit the smallest card.
    """
    if not cards:
        return
    card = min(cards, key=lambda it: it.total_bytes - it.used_bytes)
    there = card.total_bytes - card.used_bytes
    try:
        shape = shape_of(config)
    except ShapeUnknown as unknown:
        say(f"memory: not estimated: {unknown}")
        return
    recipe = _with(recipe_of(job.spec), job.batches)
    asked = memory(shape, recipe)
    verdict = asked.verdict(there)
    text = f"{_told(asked)}; {card.name} has {there / GIB:.1f} GB free"
    if verdict == "fits":
        say(f"memory: {text}: fits")
        return
    advice = "; ".join(proposals(shape, recipe, there)) or "a GPU with more memory"
    if verdict == "tight" or _smallest_may_fit(job, shape, there):
        say(f"memory: {text}: tight, the longest batch is tried first; what would fit: {advice}")
        return
    if not job.spec.train.check_memory:
        say(f"memory: {text}: cannot fit by this estimate; tried anyway, as train.check_memory says")
        return
    refusal = f"{text}: the job cannot fit, with the smallest batches neither"
    raise OutOfMemory(refusal, hint=f"what would fit: {advice}; or train.check_memory: false")


def proposals(shape: ModelShape, recipe: Recipe, there: float) -> Iterator[str]:
    """Changes to the spec, one on top of the other, until one fits; only those that change something."""
    changes: list[tuple[str, dict[str, Any]]] = [
        ("train.gradient_checkpointing: true", {"checkpointing": True}),
        ("train.per_device_train_batch_size: 1", {"micro_batch": 1}),
        ("train.optim: paged_adamw_8bit", {"optimizer": "paged_adamw_8bit"}),
        ("method.kind: qlora", {"is_full": False, "bits": 4}),
        (f"train.max_length: {recipe.length // 2}", {"length": recipe.length // 2}),
    ]
    made: list[str] = []
    for text, change in changes:
        changed = replace(recipe, **change)
        if changed == recipe:
            continue
        recipe, made = changed, [*made, text]
        estimate = memory(shape, recipe)
        if estimate.verdict(there) == "fits":
            yield f"{', '.join(made)} (needs {estimate.need_gb:.1f} GB)"
            return


def _smallest_may_fit(job: Job, shape: ModelShape, there: float) -> bool:
    """What the trainer comes down to by itself when memory runs out."""
    batches = job.batches
    while (smaller := batches.smaller()) is not None:
        batches = smaller
    return memory(shape, _with(recipe_of(job.spec), batches)).verdict(there) != "too large"


def _with(recipe: Recipe, batches: Batches) -> Recipe:
    rows, checkpointing = batches.per_device_train_batch_size, batches.gradient_checkpointing
    return replace(recipe, micro_batch=rows, checkpointing=checkpointing)


def _told(estimate: MemoryEstimate) -> str:
    terms = ", ".join(f"{name} {size:.1f}" for name, size in estimate.terms_gb.items() if size >= 0.05)
    return f"the estimate needs {estimate.need_gb:.1f} GB ({terms}), at least {estimate.floor_gb:.1f}"
