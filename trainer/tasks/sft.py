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

        from trainer.data.stream import KeepPosition, Stream

        stream = data.train if isinstance(data.train, Stream) else None
        arguments = SFTConfig(
            **common_arguments(job, has_held_out=data.held_out is not None),
            max_length=None,  # rows are cut, and packed, already
            padding_free=data.layout.padding_free,
            dataset_kwargs={"skip_prepare_dataset": True},
            accelerator_config={"dispatch_batches": False} if stream else None,
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=stream.stand_in() if stream else data.train,
            eval_dataset=data.held_out,
            processing_class=tokenizer,
            callbacks=[*([KeepPosition(stream)] if stream else []), callback],
        )
        trainer.train_dataset = data.train
        return trainer

    def longest(self, trainer: Any) -> Batch:
        from trainer.data.stream import Stream

        rows = trainer.train_dataset
        if isinstance(rows, Stream):
            return _filled(trainer)
        sizes = lengths(rows, ["input_ids"])
        longest = sizes.argsort(kind="stable")[-trainer.args.per_device_train_batch_size :]
        columns = [name for name in ("input_ids", "labels", "seq_lengths") if name in rows.column_names]
        inputs = collator_of(trainer)(list(rows.select_columns(columns).select(longest)))
        return Batch(inputs, int(sizes[longest].sum()))


def _filled(trainer: Any) -> Batch:
    """Of a stream nobody knows the longest rows: as long as `train.max_length` lets them be."""
    length, batch = trainer.train_dataset.max_length, trainer.args.per_device_train_batch_size
    row = [trainer.processing_class.eos_token_id] * length
    return Batch(collator_of(trainer)([{"input_ids": row, "labels": row}] * batch), length * batch)
