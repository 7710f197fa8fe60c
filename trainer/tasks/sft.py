"""sft: supervised fine-tuning with TRL's SFTTrainer, on rows that `trainer.data` has made into tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.arguments import common_arguments
from trainer.data import Prepared, Rows, lengths, prepare, texts
from trainer.data.batch import collator_of
from trainer.job import Job
from trainer.tasks import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback


class Sft:
    peft_type = "CAUSAL_LM"
    pipeline = "text-generation"
    figures: Mapping[str, str] = {}
    compares_in_training = False

    def model_class(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def prepare(self, job: Job, rows: Rows | None, tokenizer: "PreTrainedTokenizerBase") -> Prepared:
        return prepare(job, rows, texts(job, tokenizer))

    def build(
        self,
        job: Job,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        data: Prepared,
        callback: "TrainerCallback",
    ) -> Any:
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(
            **common_arguments(job, has_held_out=data.held_out is not None),
            max_length=None,  # rows are cut, and packed, already
            padding_free=data.layout.padding_free,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        return SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=data.train,
            eval_dataset=data.held_out,
            processing_class=tokenizer,
            callbacks=[callback],
        )

    def longest(self, trainer: Any) -> Batch:
        rows = trainer.train_dataset
        sizes = lengths(rows, ["input_ids"])
        longest = sizes.argsort(kind="stable")[-trainer.args.per_device_train_batch_size :]
        columns = [name for name in ("input_ids", "labels", "seq_lengths") if name in rows.column_names]
        inputs = collator_of(trainer)(list(rows.select_columns(columns).select(longest)))
        return Batch(inputs, int(sizes[longest].sum()))
