"""The tasks of a spec, one module each: from a row of the data to the trainer that takes the steps.

    prepare    rows → tokens
    build      tokens → the trainer of TRL or transformers, whose `train` takes the optimizer steps
    longest    the batch that needs most memory, tried before the first step
    figures    what an evaluation says besides the loss

`trainer.run` carries them out, one after the other.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pushtrain.spec import TrainingSpec
from trainer.data import Rows
from trainer.job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from trainer.data import Prepared


class Batch(NamedTuple):
    """What a training step takes, and how many tokens that is."""

    inputs: dict[str, Any]
    tokens: int


class Task(Protocol):
    """`peft_type` is PEFT's task_type, `pipeline` the Hub's pipeline_tag, `figures` maps the names of an evaluation's
    figures to ours; `compares_in_training` is true where the base cannot be measured once training has begun."""

    peft_type: str
    pipeline: str
    figures: Mapping[str, str]
    compares_in_training: bool

    def model_class(self) -> Any:
        """The class of transformers that loads the base."""

    def prepare(self, job: Job, rows: Rows | None, tokenizer: "PreTrainedTokenizerBase") -> "Prepared":
        """Tokens of `rows`, or of the dataset on the Hub when there are none. Raises DatasetError."""

    def build(
        self,
        job: Job,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        data: "Prepared",
        callback: "TrainerCallback",
    ) -> Any:
        """The trainer, which reports to `callback`."""

    def longest(self, trainer: Any) -> Batch:
        """The batch of the longest rows, as many as one forward pass takes."""


def task_of(spec: TrainingSpec) -> Task:
    """Imports what this task needs, and no other."""
    if spec.task == "dpo":
        from trainer.tasks.dpo import Dpo

        return Dpo()
    if spec.task == "seq2seq":
        from trainer.tasks.seq2seq import SequenceToSequence

        return SequenceToSequence()
    from trainer.tasks.sft import Sft

    return Sft()
