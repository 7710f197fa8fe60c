"""What is looked at after every step: metrics and log lines, whole checkpoints, and the reasons to stop early."""

import contextlib
import math
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from trainer.checkpoint import Stop, make_room, mark_complete, rotate, size_bytes
from trainer.copies import PATIENCE_S, STOPPED_PATIENCE_S, Copies
from trainer.failures import LossExploded, LossNotFinite
from trainer.fit.trial import try_longest
from trainer.job import Job
from trainer.preflight import free_bytes
from trainer.report import Report, say, say_if_quiet
from trainer.watch.background import Background, Bounds
from trainer.watch.effort import effort_of
from trainer.watch.loss import LossCourse
from trainer.watch.patience import Patience
from trainer.watch.rates import Effort, Meter
from trainer.watch.tokens import KEY, TokenCount
from trainer.watch.trackers import Trackers

# Beside the checkpoint, so that the end can still be told: log, metrics, result.
_ROOM_BYTES = 256 * 1024


class Watch(TrainerCallback):  # type: ignore[misc]
    """Metrics and log lines, the marker of whole checkpoints, and the reasons to stop early."""

    def __init__(self, job: Job, report: Report, stop: Stop) -> None:
        self.stop = stop
        self.trainer: Any = None
        self._job = job
        self._report = report
        self._meter = Meter(Effort(samples_per_step=0))
        self._course = LossCourse()
        self._tokens = TokenCount()
        self._patience: Patience | None = None
        self._good: int | None = None  # the step of the last checkpoint that was saved near the best
        self._trackers = Trackers(job)
        self._copies = Copies(job)
        self._is_alone = "PUSHTRAIN_RUN_ID" not in os.environ
        limits = job.spec.limits
        bounds = Bounds(
            step_gap_s=limits.step_gap_minutes * 60,
            gpu_idle_s=limits.gpu_idle_minutes * 60,
            ends_process=self._is_alone,
        )
        self._background = Background(bounds, report)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around the training: looks also where no step comes, and lets trackers write what they have at the end."""
        try:
            with self._background.running():
                yield
        finally:
            self._copies.close(STOPPED_PATIENCE_S if self.stop.requested else PATIENCE_S)
            self._trackers.end()

    def on_train_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        tokens = try_longest(self._job, self.trainer) * self._job.processes
        self._meter = Meter(effort_of(self._job, self.trainer.model))
        self._course = LossCourse(entry["loss"] for entry in state.log_history if "loss" in entry)
        self._tokens = TokenCount(state.log_history, tokens)
        self._patience = Patience.of(self._job.spec.train, state.log_history)
        self._good = state.global_step if self._course.is_near else None
        if state.is_world_process_zero:
            self._trackers.start()
        # Seen by transformers: only where it counts, in seq2seq, and then those of earlier attempts.
        self._meter.start(time.monotonic(), state.global_step, tokens + state.num_input_tokens_seen)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._patience = None  # what is evaluated from here on is the result

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._report.step()
        if "first_step" not in self._report.phases.seconds:
            self._report.phases.ended("first_step")
        if self._is_stop_requested():
            say(f"training: told to stop, saving step {state.global_step}")
            control.should_save = control.should_training_stop = True
        if state.global_step >= state.max_steps:
            # What is published is evaluated after training; with patience it may be the model of an earlier step.
            control.should_evaluate = self._patience is not None
        # A loss that is not finite must be seen before the checkpoint that holds it is written.
        may_save = control.should_save or (control.should_evaluate and self._patience is not None)
        control.should_log = control.should_log or may_save
        self._background.step()
        if self._background.fault is not None:
            if self._job.processes > 1:
                raise self._background.fault  # the others have not seen it, and would wait at the checkpoint
            control.should_save = control.should_log = True
        if control.should_save and state.is_world_process_zero:
            self._check_room(Path(args.output_dir))

    def on_substep_end(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        say_if_quiet(f"training: in step {state.global_step + 1}")
        self._background.step()

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        if self._patience is None:
            return
        if self._patience.is_better(state.global_step, metrics["eval_loss"]):
            control.should_save = True  # it may be what is published
        elif self._patience.is_over:
            best = f"step {self._patience.best_step} had {self._patience.best_loss:.4f}"
            say(f"training: stopped early, {self._patience.waited} evaluations were no better: {best}")
            control.should_save = control.should_training_stop = True
        if control.should_save and state.is_world_process_zero:
            self._check_room(Path(args.output_dir))

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
            is_over = self._patience is not None and self._patience.is_over
            mark_complete(folder, self._job.recipe, is_final=is_over or state.global_step >= state.max_steps)
            self._good = state.global_step if self._course.is_near else self._good
            rotate(self._job.checkpoints, free_bytes, _names(self._best, self._good))
            self._copies.offer(folder)
        if self._background.fault is not None:
            raise self._background.fault

    @property
    def _best(self) -> int | None:
        return self._patience.best_step if self._patience is not None else None

    def _check_room(self, folder: Path) -> None:
        """The best will be published; the last good one goes where there is no room for it."""
        check_room(folder, self.trainer, _names(self._best))

    def _step(self, state: TrainerState, logs: dict[str, Any]) -> None:
        tokens = int(logs.get("num_tokens") or state.num_input_tokens_seen)
        total = self._tokens.total(logs, state.num_input_tokens_seen)
        state.log_history[-1][KEY] = total
        rates, step_s = self._meter.read(time.monotonic(), state.global_step, tokens)
        loss, grad_norm = float(logs["loss"]), logs.get("grad_norm")
        record = {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "epoch": logs.get("epoch"),
            "loss": loss,
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": grad_norm,
            KEY: total,
            **rates,
            "peak_memory_gb": _peak_memory_gb(),
        }
        if (utilization := self._background.gpu_utilization()) is not None:
            record["gpu_utilization"] = utilization
        self._report.metrics(record)
        self._trackers.log(record)
        left = _duration((state.max_steps - state.global_step) * step_s)
        say(
            f"step {state.global_step}/{state.max_steps} loss {loss:.4f} lr {logs.get('learning_rate', 0):.2e} "
            f"{rates['tokens_per_s']:.0f} tokens/s, {left} left"
        )
        self._judge(state.global_step, loss, grad_norm)

    def _judge(self, step: int, loss: float, grad_norm: float | None) -> None:
        hint = "a lower train.learning_rate, a longer train.warmup_steps, or a look at the rows of that step"
        if not math.isfinite(loss) or (grad_norm is not None and not math.isfinite(grad_norm)):
            what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {grad_norm}"
            raise LossNotFinite(f"{what} at step {step}", hint=hint)
        if (middle := self._course.explodes(loss)) is not None:
            best = self._course.best
            raise LossExploded(f"the loss went from {best:.3g} up to {middle:.3g} by step {step}", hint=hint)

    def _is_stop_requested(self) -> bool:
        """The same answer in every process: one that stops alone leaves the others waiting for its gradients."""
        if self._job.processes == 1:
            return self.stop.requested
        wish = torch.tensor(int(self.stop.requested), device="cuda" if torch.cuda.is_available() else "cpu")
        torch.distributed.all_reduce(wish, op=torch.distributed.ReduceOp.MAX)
        self.stop.requested = bool(wish.item())
        return self.stop.requested


def _names(*steps: int | None) -> frozenset[str]:
    return frozenset(f"checkpoint-{step}" for step in steps if step is not None)


def check_room(folder: Path, trainer: Any, kept: frozenset[str] = frozenset()) -> None:
    """Before a checkpoint is written. Raises DiskFull where it would not fit: the one before it stays whole, and those
    in `kept`.

    Its size is that of the last one, else what AdamW's fp32 weights and two moments of each trained weight take.
    """
    earlier = [size_bytes(path) for path in folder.glob("checkpoint-*")]
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    folder.mkdir(parents=True, exist_ok=True)
    make_room(folder, max(earlier, default=12 * trained) + _ROOM_BYTES, free_bytes, kept)


def _peak_memory_gb() -> float:
    """The most that was taken so far: of the GPU what torch has reserved, on the CPU what the process held."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_reserved() / 1e9, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
