"""seq2seq: encoder-decoders (T5, BART, PEGASUS) with transformers' Seq2SeqTrainer; evaluation generates and is scored.

The encoder reads a source, the decoder learns to write its target.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer.arguments import common_arguments
from trainer.data import Prepared, Rows, Seq2Seq, lengths, prepare
from trainer.data.batch import collator_of
from trainer.data.tokens import IGNORED
from trainer.job import Job
from trainer.tasks import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

# Google's names to ours.
_ROUGE = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}


class SequenceToSequence:
    peft_type = "SEQ_2_SEQ_LM"
    pipeline = "summarization"
    figures: Mapping[str, str] = {name: name for name in _ROUGE.values()}
    compares_in_training = False

    def model_class(self) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    def prepare(self, job: Job, rows: Rows | None, tokenizer: "PreTrainedTokenizerBase") -> Prepared:
        part = job.spec.seq2seq
        encoder = Seq2Seq(tokenizer, job.spec.train.max_length, part.max_target_length, part.source_prefix)
        return prepare(job, rows, encoder)

    def build(
        self,
        job: Job,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        data: Prepared,
        callback: "TrainerCallback",
    ) -> Any:
        from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

        part = job.spec.seq2seq
        arguments = Seq2SeqTrainingArguments(
            **common_arguments(job, has_held_out=data.held_out is not None) | {"prediction_loss_only": False},
            predict_with_generate=True,
            generation_max_length=part.max_target_length,
            generation_num_beams=part.num_beams,
            include_num_input_tokens_seen="non_padding",
        )
        return Seq2SeqTrainer(
            model=model,
            args=arguments,
            train_dataset=data.train,
            eval_dataset=data.held_out,
            processing_class=tokenizer,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=IGNORED),
            compute_metrics=_scorer(tokenizer),
            callbacks=[callback],
        )

    def longest(self, trainer: Any) -> Batch:
        """No tokens are counted: transformers counts those of its own loop alone."""
        rows = trainer.train_dataset
        longest = lengths(rows, ["input_ids", "labels"]).argsort(kind="stable")
        chosen = longest[-trainer.args.per_device_train_batch_size :]
        return Batch(collator_of(trainer)(list(rows.select(chosen))), 0)


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, -2 and -L, 0 to 1, with Porter's stemmer; Google's rouge_score counts."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_ROUGE), use_stemmer=True)
    scores = [scorer.score(wanted, found) for found, wanted in zip(predictions, references, strict=True)]
    return {ours: sum(it[name].fmeasure for it in scores) / max(len(scores), 1) for name, ours in _ROUGE.items()}


def _scorer(tokenizer: "PreTrainedTokenizerBase") -> Callable[[Any], dict[str, float]]:
    def score(predicted: Any) -> dict[str, float]:
        import numpy

        texts = []
        for ids in (predicted.predictions, predicted.label_ids):
            known = numpy.where(ids < 0, tokenizer.pad_token_id, ids)
            texts.append([text.strip() for text in tokenizer.batch_decode(known, skip_special_tokens=True)])
        return rouge(*texts)

    return score
