"""What is looked at after every step: metrics and log lines, whole checkpoints, and the two reasons to stop early."""

import math
import time
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from trainer.checkpoint import Stop, mark_complete
from trainer.failures import LossNotFinite
from trainer.job import Job
from trainer.pieces import IGNORED
from trainer.report import Report, say, say_if_quiet
from trainer.tasks import task_of


class Watch(TrainerCallback):  # type: ignore[misc]
    """Metrics and log lines, the marker of whole checkpoints, and the two reasons to stop early."""

    def __init__(self, job: Job, report: Report, stop: Stop) -> None:
        self.stop = stop
        self.trainer: Any = None
        self._job = job
        self._report = report
        self._logged_at = time.monotonic()
        self._logged_tokens = 0
        self._logged_step = 0

    def on_train_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        if self.trainer is not None:
            self._logged_tokens = _try_longest_batch(self._job, self.trainer) * self._job.processes
        self._logged_at, self._logged_step = time.monotonic(), state.global_step

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._report.step()
        if "first_step" not in self._report.phases.seconds:
            self._report.phases.ended("first_step")
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


def _try_longest_batch(job: Job, trainer: Any) -> int:
    """Forward and backward over the longest rows: running out of memory shows now, not when chance brings them.

    Returns the tokens that took, which TRL counts as trained.
    """
    inputs, tokens = task_of(job.spec).longest(trainer)
    learned = (inputs["labels"] != IGNORED).sum() if "labels" in inputs else None
    trainer.training_step(trainer.model, inputs, num_items_in_batch=learned)
    trainer.model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        used_gb = torch.cuda.max_memory_reserved() / 1e9
        total_gb = torch.cuda.get_device_properties(trainer.args.device).total_memory / 1e9
        say(f"memory: the longest batch takes {used_gb:.1f} of {total_gb:.1f} GB")
    return tokens


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
