"""The training itself: TRL's SFTTrainer with our recipe, watched step by step, stopped early, and resumed exactly."""

import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from trainer.checkpoint import Checkpoint, Stop, mark_complete
from trainer.data import Prepared
from trainer.failures import LossNotFinite, Preempted
from trainer.job import Job
from trainer.model import uses_bf16
from trainer.pieces import IGNORED
from trainer.report import Report, say, say_if_quiet

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
    job: Job, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", data: Prepared, watch: "Watch"
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


def train(job: Job, trainer: SFTTrainer, watch: "Watch", checkpoint: Checkpoint | None) -> Trained:
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


class Watch(TrainerCallback):  # type: ignore[misc]
    """Metrics and log lines, the marker of whole checkpoints, and the two reasons to stop early."""

    def __init__(self, job: Job, report: Report, stop: Stop) -> None:
        self.stop = stop
        self.trainer: SFTTrainer | None = None
        self._job = job
        self._report = report
        self._logged_at = time.monotonic()
        self._logged_tokens = 0
        self._logged_step = 0

    def on_train_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        if self.trainer is not None:
            self._logged_tokens = _try_longest_batch(self.trainer) * self._job.processes
        self._logged_at, self._logged_step = time.monotonic(), state.global_step

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._report.step()
        if self._is_stop_requested():
            say(f"training: told to stop, saving step {state.global_step}")
            control.should_save = control.should_training_stop = True
        if state.global_step >= state.max_steps:
            control.should_evaluate = False  # what is published is evaluated after training
        # A loss that is not finite must be seen before the checkpoint that holds it is written.
        control.should_log = control.should_log or control.should_save

    def on_substep_end(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        say_if_quiet(f"training: in step {state.global_step + 1}")

    def on_prediction_step(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        self._report.step()
        say_if_quiet(f"evaluation at step {state.global_step} goes on")

    def on_log(self, _args: Any, state: TrainerState, _control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        if "eval_loss" in logs:
            self._report.metrics({"step": state.global_step, "eval_loss": logs["eval_loss"]})
            say(f"evaluation at step {state.global_step}: eval_loss {logs['eval_loss']:.4f}")
        elif "loss" in logs:
            self._step(state, logs)

    def on_save(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        if self._job.processes > 1:
            torch.distributed.barrier()  # every process writes its own random state
        if state.is_world_process_zero:
            folder = self._job.checkpoints / f"checkpoint-{state.global_step}"
            mark_complete(folder, self._job.digest, is_final=state.global_step >= state.max_steps)

    def _step(self, state: TrainerState, logs: dict[str, Any]) -> None:
        now, tokens = time.monotonic(), logs.get("num_tokens", 0)
        seconds = max(now - self._logged_at, 1e-9)
        tokens_per_s = (tokens - self._logged_tokens) / seconds
        left_s = (state.max_steps - state.global_step) * seconds / max(state.global_step - self._logged_step, 1)
        self._logged_at, self._logged_tokens, self._logged_step = now, tokens, state.global_step
        loss, grad_norm = float(logs["loss"]), logs.get("grad_norm")
        self._report.metrics(
            {
                "step": state.global_step,
                "total_steps": state.max_steps,
                "epoch": logs.get("epoch"),
                "loss": loss,
                "learning_rate": logs.get("learning_rate"),
                "grad_norm": grad_norm,
                "tokens_per_s": round(tokens_per_s, 1),
            }
        )
        say(
            f"step {state.global_step}/{state.max_steps} loss {loss:.4f} lr {logs.get('learning_rate', 0):.2e} "
            f"{tokens_per_s:.0f} tokens/s, {_duration(left_s)} left"
        )
        if not math.isfinite(loss) or (grad_norm is not None and not math.isfinite(grad_norm)):
            what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {grad_norm}"
            hint = "a lower train.learning_rate, a longer train.warmup_steps, or a look at the rows of that step"
            raise LossNotFinite(f"{what} at step {state.global_step}", hint=hint)

    def _is_stop_requested(self) -> bool:
        """The same answer in every process: one that stops alone leaves the others waiting for its gradients."""
        if self._job.processes == 1:
            return self.stop.requested
        wish = torch.tensor(int(self.stop.requested), device="cuda" if torch.cuda.is_available() else "cpu")
        torch.distributed.all_reduce(wish, op=torch.distributed.ReduceOp.MAX)
        self.stop.requested = bool(wish.item())
        return self.stop.requested


def _try_longest_batch(trainer: SFTTrainer) -> int:
    """Forward and backward over the longest rows: running out of memory shows now, not when chance brings them.

    Returns the tokens that took, which TRL counts as trained.
    """
    rows = trainer.train_dataset
    lengths = [len(ids) for ids in rows["input_ids"]]
    longest = sorted(range(len(lengths)), key=lengths.__getitem__)[-trainer.args.per_device_train_batch_size :]
    columns = [name for name in ("input_ids", "labels", "seq_lengths") if name in rows.column_names]
    inputs = trainer.data_collator(list(rows.select_columns(columns).select(longest)))
    trainer.training_step(trainer.model, inputs, num_items_in_batch=(inputs["labels"] != IGNORED).sum())
    trainer.model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        used_gb = torch.cuda.max_memory_reserved() / 1e9
        total_gb = torch.cuda.get_device_properties(trainer.args.device).total_memory / 1e9
        say(f"memory: the longest batch takes {used_gb:.1f} of {total_gb:.1f} GB")
    return sum(lengths[index] for index in longest)


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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
