"""The training itself: the task's trainer with our recipe, watched step by step, stopped early, and resumed exactly."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, TrainerState

from trainer.checkpoint import Checkpoint, whole_at
from trainer.data import Prepared
from trainer.data.batch import say_first_batch
from trainer.failures import Preempted
from trainer.job import Job
from trainer.report import say
from trainer.sharding import put_back
from trainer.tasks import task_of
from trainer.watch import Watch
from trainer.watch.patience import Patience
from trainer.watch.tokens import trained_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """`train_loss` is the mean over all steps of the run, `tokens` their number, those before a resume included.
    `best_step` is the step of the weights, where they are an earlier one's: the best evaluation's."""

    train_loss: float | None
    steps: int
    resumed_from_step: int | None
    tokens: int | None = None
    best_step: int | None = None


def build_trainer(
    job: Job, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", data: Prepared, watch: Watch
) -> Any:
    """The task's trainer; it reports to `watch` alone, and to TensorBoard when the spec asks for it."""
    trainer = task_of(job.spec).build(job, model, tokenizer, data, watch)
    trainer.remove_callback(PrinterCallback)
    # TRL makes the adapters of a quantised model bf16, PEFT loads them as fp32: a resumed run would be another run.
    # ZeRO-3 takes one dtype for all weights (huggingface/trl#6089).
    for weight in trainer.model.parameters() if job.parallel != "deepspeed_zero3" else ():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if job.spec.method.kind != "full":
        _save_without_asking_the_hub(trainer.model)
    return trainer


def train(job: Job, trainer: Any, watch: Watch, checkpoint: Checkpoint | None) -> Trained:
    """Train to the end, from `checkpoint` where there is one.

    Raises LossNotFinite, and Preempted once a checkpoint holds everything so far.
    """
    if checkpoint is not None and checkpoint.is_final:
        _restore(job, trainer, checkpoint)
    else:
        watch.trainer = trainer
        say_first_batch(trainer)
        if checkpoint is not None and job.spec.data.streaming:
            trainer.train_dataset.resume(checkpoint.path)
        set_seed(job.spec.train.seed)
        with watch.stop.deferred(), watch.running():
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        if watch.stop.requested:
            raise Preempted(f"after step {trainer.state.global_step}")
    return Trained(
        train_loss=_mean_loss(trainer.state),
        tokens=trained_tokens(trainer.state.log_history),
        best_step=_take_best(job, trainer),
        steps=trainer.state.global_step,
        resumed_from_step=checkpoint.step if checkpoint else None,
    )


def _restore(job: Job, trainer: Any, checkpoint: Checkpoint) -> None:
    """Put the state of an ended training back; `train` would add a step to it.

    The weights of a full fine-tuning were loaded from the checkpoint with the model.
    """
    if job.is_divided:
        put_back(trainer, str(checkpoint.path))
    elif job.spec.method.kind != "full":
        trainer.model.load_adapter(str(checkpoint.path), "default", is_trainable=True)
    trainer.state = TrainerState.load_from_json(str(checkpoint.path / "trainer_state.json"))


def _take_best(job: Job, trainer: Any) -> int | None:
    """With early stopping, the weights of the best evaluation, and its step; the last ones where its checkpoint is not
    whole any more."""
    patience, last = Patience.of(job.spec.train, trainer.state.log_history), trainer.state.global_step
    if patience is None or patience.best_step in (None, last):
        return None if patience is None else last
    assert patience.best_step is not None
    folder = whole_at(job.checkpoints, patience.best_step)
    if folder is None:
        return int(last)
    trainer._load_from_checkpoint(str(folder))
    say(f"training: the weights are those of step {patience.best_step}, whose held-out loss was the lowest")
    return patience.best_step


def _mean_loss(state: TrainerState) -> float | None:
    """Over all steps: each logged loss is the mean of the steps since the one logged before it."""
    total, before = 0.0, 0
    for entry in state.log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - before)
            before = entry["step"]
    return total / before if before else None


def _save_without_asking_the_hub(model: Any) -> None:
    """At every save PEFT asks the Hub for the base's vocabulary, at no revision: training would depend on the Hub."""
    save = model.save_pretrained

    def save_pretrained(*args: Any, **options: Any) -> None:
        save(*args, **{"save_embedding_layers": False, **options})

    model.save_pretrained = save_pretrained
