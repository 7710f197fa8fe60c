"""dpo: direct preference optimization with TRL's DPOTrainer, on pairs that `trainer.data` has made into tokens.

The reference is the base: the model without its adapters, or where there is none, a second model at the same commit.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl import DPOConfig, DPOTrainer

from trainer.arguments import common_arguments
from trainer.data import Prepared, Rows, lengths, pairs, prepare
from trainer.data.batch import collator_of
from trainer.device import uses_bf16
from trainer.job import Job
from trainer.model import load_model
from trainer.tasks import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback


class Dpo:
    peft_type = "CAUSAL_LM"
    pipeline = "text-generation"
    figures: Mapping[str, str] = {"rewards/accuracies": "reward_accuracy", "rewards/margins": "reward_margin"}
    # TRL leaves the adapters on after asking the reference: the base's own loss would be the adapter's from then on.
    compares_in_training = True

    def model_class(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def prepare(self, job: Job, rows: Rows | None, tokenizer: "PreTrainedTokenizerBase") -> Prepared:
        return prepare(job, rows, pairs(job, tokenizer))

    def build(
        self,
        job: Job,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        data: Prepared,
        callback: "TrainerCallback",
    ) -> Any:
        part = job.spec.dpo
        arguments = DPOConfig(
            **common_arguments(job, has_held_out=data.held_out is not None),
            max_length=None,  # pairs are cut already
            beta=part.beta,
            loss_type=list(part.loss_type),
            loss_weights=list(part.loss_weights) or None,
            label_smoothing=part.label_smoothing,
            precompute_ref_log_probs=part.precompute_ref_log_probs,
        )
        trainer = _TokenTrainer(
            model=model,
            ref_model=_reference(job),
            args=arguments,
            train_dataset=data.train,
            eval_dataset=data.held_out,
            processing_class=tokenizer,
            callbacks=[callback],
        )
        if part.precompute_ref_log_probs:
            trainer.ref_model = None  # has said all it will be asked
        return trainer

    def longest(self, trainer: Any) -> Batch:
        """The prompt counts twice: it goes through the model with either answer."""
        rows = trainer.train_dataset
        sizes = lengths(rows, ["prompt_ids", "prompt_ids", "chosen_ids", "rejected_ids"])
        longest = sizes.argsort(kind="stable")[-trainer.args.per_device_train_batch_size :]
        return Batch(collator_of(trainer)(list(rows.select(longest))), int(sizes[longest].sum()))


class _TokenTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, given tokens: its own preparation would make them once more, by other rules than sft's."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def _reference(job: Job) -> Any:
    """A second model, where the first without its adapters is not the base. TRL would load it at no revision."""
    method = job.spec.method
    if method.kind != "full" and not method.takes_from_base:
        return None
    # As it is on the Hub where bf16 will do: it is never changed, and half of it is half the memory.
    return load_model(job, dtype="auto" if uses_bf16(job) else None)
