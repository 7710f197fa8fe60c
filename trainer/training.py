"""The training itself: TRL's SFTTrainer with our recipe, watched step by step, stopped early, and resumed exactly."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, TrainerState
from trl import SFTConfig, SFTTrainer

from trainer.checkpoint import Checkpoint
from trainer.data import Prepared
from trainer.failures import Preempted
from trainer.job import Job
from trainer.model import uses_bf16
from trainer.watch import Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The one being written and the last whole one: a checkpoint counts only once its marker is written.
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """`train_loss` is the mean over all steps of the run, those before a resume included."""

    train_loss: float | None
    steps: int
    resumed_from_step: int | None


def build_trainer(
    job: Job, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", data: Prepared, watch: Watch
) -> SFTTrainer:
    """A trainer that reports to `watch` alone, and to TensorBoard when the spec asks for it."""
    trainer = SFTTrainer(
        model=model,
        args=training_arguments(job, has_held_out=data.held_out is not None),
        train_dataset=data.train,
        eval_dataset=data.held_out,
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    # TRL makes the adapters of a quantised model bf16, PEFT loads them as fp32: a resumed run would be another run.
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if job.spec.method.kind != "full":
        _save_without_asking_the_hub(trainer.model)
    return trainer


def training_arguments(job: Job, *, has_held_out: bool) -> SFTConfig:
    """The spec's `train`, and what we decide: NaN is seen, nothing is sent anywhere, evaluation builds no logits."""
    train = job.spec.train
    evaluates = has_held_out and train.eval_steps is not None
    if "tensorboard" in job.spec.track:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.run_dir / "tensorboard")
    return SFTConfig(
        output_dir=str(job.checkpoints),
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        per_device_train_batch_size=train.per_device_train_batch_size,
        per_device_eval_batch_size=train.per_device_train_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        max_length=train.max_length if train.packing else None,  # rows are cut already
        packing=train.packing,
        packing_strategy="bfd",
        eval_packing=False,
        activation_checkpointing=train.gradient_checkpointing,
        bf16=uses_bf16(),
        fp16=False,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=train.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=train.save_steps,
        save_total_limit=KEPT_CHECKPOINTS,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=train.eval_steps if evaluates else None,
        prediction_loss_only=True,
        seed=train.seed,
        data_seed=train.seed,
        report_to=list(job.spec.track) or "none",
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        push_to_hub=False,
    )


def train(job: Job, trainer: SFTTrainer, watch: Watch, checkpoint: Checkpoint | None) -> Trained:
    """Train to the end, from `checkpoint` where there is one.

    Raises LossNotFinite, and Preempted once a checkpoint holds everything so far.
    """
    if checkpoint is not None and checkpoint.is_final:
        _restore(job, trainer, checkpoint)
    else:
        watch.trainer = trainer
        set_seed(job.spec.train.seed)
        with watch.stop.deferred():
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        if watch.stop.requested:
            raise Preempted(f"after step {trainer.state.global_step}")
    return Trained(
        train_loss=_mean_loss(trainer.state),
        steps=trainer.state.global_step,
        resumed_from_step=checkpoint.step if checkpoint else None,
    )


def _restore(job: Job, trainer: SFTTrainer, checkpoint: Checkpoint) -> None:
    """Put the state of an ended training back; `train` would add a step to it.

    The weights of a full fine-tuning were loaded from the checkpoint with the model.
    """
    if job.spec.method.kind != "full":
        trainer.model.load_adapter(str(checkpoint.path), "default", is_trainable=True)
    trainer.state = TrainerState.load_from_json(str(checkpoint.path / "trainer_state.json"))


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
