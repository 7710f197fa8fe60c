"""The batch that needs most memory, tried before the first step: out of memory shows now, not when chance brings it."""

import gc
import resource
from contextlib import ExitStack
from typing import Any

import torch

from trainer.failures import MEMORY_HINT, OutOfMemory, translate
from trainer.fit.batches import Batches
from trainer.job import Job
from trainer.report import say
from trainer.tasks import task_of

# Bytes that an optimizer keeps for a trained weight from its first step on; a paged one may leave the card.
_STATE_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 0, "paged_adamw_32bit": 0, "adafactor": 0}
_ADAM_STATE_BYTES = 8


class TooLarge(Exception):
    """The training has to start anew with `batches`; `why` is for people."""

    def __init__(self, batches: Batches, why: str) -> None:
        super().__init__(why)
        self.batches = batches


def try_longest(job: Job, trainer: Any) -> int:
    """Forward and backward over the longest rows, beside what the optimizer is going to keep.

    Returns the tokens that took, which TRL counts as trained. Raises TooLarge with what does fit, OutOfMemory where
    nothing does. Leaves no gradient, and the random numbers as they were. With DeepSpeed, whose backward pass is a step
    of its optimizer, nothing is tried.
    """
    batches, tokens = job.batches, 0
    if job.parallel == "deepspeed_zero3":
        return tokens
    while True:
        fault, tried = _try(job, trainer, batches)
        tokens += tried
        trainer.model.zero_grad(set_to_none=True)
        if not _anywhere(fault is not None, job):
            break
        _release()
        why = fault or "another process ran out of memory"
        batches = next_smaller(batches, why)
        say(f"memory: {why}; next is {batches}")
    if batches != job.batches:
        raise TooLarge(batches, f"{job.batches} does not fit")
    if torch.cuda.is_available():
        total_gb = torch.cuda.get_device_properties(trainer.args.device).total_memory / 1e9
        say(f"memory: the longest batch takes {torch.cuda.max_memory_reserved() / 1e9:.1f} of {total_gb:.1f} GB")
    return tokens


def next_smaller(batches: Batches, why: str) -> Batches:
    """Raises OutOfMemory with the numbers where nothing smaller is left."""
    smaller = batches.smaller()
    if smaller is None:
        raise OutOfMemory(f"{why}, also with {batches}; {memory_now()}", hint=MEMORY_HINT)
    return smaller


def memory_now() -> str:
    """What there is and what was taken at most, for people."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        most = torch.cuda.max_memory_reserved()
        return f"the card has {total / 1e9:.1f} GB, {free / 1e9:.1f} free now, this process took up to {most / 1e9:.1f}"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"this process took up to {most / 1e9:.1f} GB of the machine's memory"


def _try(job: Job, trainer: Any, batches: Batches) -> tuple[str | None, int]:
    """Why it does not fit, None when it does; and the tokens of the batch."""
    trainer.args.per_device_train_batch_size = batches.per_device_train_batch_size
    trainer.current_gradient_accumulation_steps = batches.gradient_accumulation_steps  # else the loop sets it
    if batches.gradient_checkpointing and not job.batches.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable()
    # A second pass meets the gradients of the first.
    passes = 2 if job.spec.method.kind == "full" and batches.gradient_accumulation_steps > 1 else 1
    tokens = 0
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
            state = torch.empty(_missing_state_bytes(job, trainer), dtype=torch.uint8, device=trainer.args.device)
            for _ in range(passes):
                batch = task_of(job.spec).longest(trainer)
                labels = (batch.inputs["labels"] != -100).sum() if "labels" in batch.inputs else None
                tokens += batch.tokens
                trainer.training_step(trainer.model, batch.inputs, num_items_in_batch=labels)
            del state
    except Exception as error:
        failure = translate(error)
        if not isinstance(failure, OutOfMemory):
            raise
        return f"{failure} with {batches}", tokens
    finally:
        trainer.args.per_device_train_batch_size = job.batches.per_device_train_batch_size
    return None, tokens


def _missing_state_bytes(job: Job, trainer: Any) -> int:
    """What the optimizer will allocate at its first step; nothing once a checkpoint has brought it. The CPU only lends
    memory that is written, so there it costs nothing."""
    if trainer.optimizer is None or any(trainer.optimizer.state.values()):
        return 0
    trained = sum(int(weight.numel()) for weight in trainer.model.parameters() if weight.requires_grad)
    return trained * _STATE_BYTES.get(job.spec.train.optim, _ADAM_STATE_BYTES)


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _anywhere(is_short: bool, job: Job) -> bool:
    """Whether any process ran out: all of them have to come down to the same size."""
    if job.processes == 1:
        return is_short
    flag = torch.tensor(int(is_short), device="cuda" if torch.cuda.is_available() else "cpu")
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
