"""The adapter merged into its base: one model that loads without PEFT, compared with what was trained.

A QLoRA adapter learned beside a base in 4 bits. Merged onto that base, dequantized, it says what it said in training;
onto the 16-bit base it says something else, since it also learned what quantizing had taken away.
Merging and comparing are done on the CPU: a card that holds the base in 4 bits need not hold it in 16.
"""

import gc
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.data import Question
from trainer.evaluate import MAX_DIFFERENCE, largest_difference, next_logits
from trainer.failures import AdapterBroken
from trainer.job import Job
from trainer.model import load_to_merge
from trainer.report import say
from trainer.tasks import task_of

# Share of the largest logit. bf16 keeps 8 bits of each merged weight; the errors of the layers add up.
MAX_BF16_DIFFERENCE = 2**-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """`difference` is the largest between logits of the merged model, loaded again, and of its base with the adapter;
    `from_trained` that to the model as it was trained. Both as shares of the largest logit, over the sample prompts."""

    base: str
    dtype: str
    difference: float
    from_trained: float
    tolerance: float


def merge(job: Job, trainer: Any, questions: Sequence[Question]) -> Merged:
    """Write `job.merged` anew: the merged model in the base's dtype, and the tokenizer.

    Raises AdapterBroken when the merged model, loaded again, says something else than base and adapter.
    """
    from peft import PeftModel

    prompts = [question.prompt_ids for question in questions]
    trained = [next_logits(job, trainer.model, prompt) for prompt in prompts]
    base, name = load_to_merge(job)
    model: Any = PeftModel.from_pretrained(base, str(job.adapter))
    beside = [next_logits(job, model, prompt) for prompt in prompts]
    whole = model.merge_and_unload(safe_merge=True)
    dtype = whole.dtype
    shutil.rmtree(job.merged, ignore_errors=True)
    whole.save_pretrained(job.merged)
    trainer.processing_class.save_pretrained(job.merged)
    del base, model, whole
    gc.collect()
    again = task_of(job.spec).model_class().from_pretrained(job.merged)
    found = [next_logits(job, again, prompt) for prompt in prompts]
    largest = max((float(logits.abs().max()) for logits in trained), default=1.0)
    merged = Merged(
        base=name,
        dtype=str(dtype).removeprefix("torch."),
        difference=largest_difference(beside, found) / largest,
        from_trained=largest_difference(trained, found) / largest,
        tolerance=MAX_DIFFERENCE if dtype == torch.float32 else MAX_BF16_DIFFERENCE,
    )
    _check(job, merged)
    return merged


def _check(job: Job, merged: Merged) -> None:
    say(
        f"merging: onto the {merged.base} base, {merged.dtype}; loaded again, its logits are within "
        f"{merged.difference:.2%} of base and adapter, {merged.from_trained:.2%} of what was trained"
    )
    is_trained = job.spec.publish.merge_base == "trained"
    worst = max(merged.difference, merged.from_trained) if is_trained else merged.difference
    if not worst <= merged.tolerance:
        raise AdapterBroken(
            f"the merged model is not what was trained: logits differ by {worst:.2%} of the largest, "
            f"{merged.tolerance:.2%} are allowed",
            hint=f"the adapter is at revision run/{job.run_id}, in adapter/; publish.merge: false publishes it alone",
        )
