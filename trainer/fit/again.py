"""Out of memory is no end: the training starts anew from its last checkpoint, with the same samples in smaller pieces.

fit.json    in the run's folder: what an attempt came down to, so that the next one begins with it
"""

import gc
import json
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from pushtrain.errors import PushtrainError
from trainer.checkpoint import Stop
from trainer.failures import OutOfMemory, OutOfMemoryInWorker, translate
from trainer.fit.batches import Batches
from trainer.job import Job, read_json
from trainer.report import Report, write_whole

if TYPE_CHECKING:
    from trainer.data import Rows

FILE = "fit.json"


def carry_out_as_it_fits(
    job: Job, rows: "Rows | None", report: Report, stop: Stop, download: BaseProcess | None
) -> None:
    """`trainer.run.carry_out`, again with smaller batches where memory runs out once the model is on the card.

    Raises what that raises, and OutOfMemory when nothing is left to make smaller. A worker of several raises
    OutOfMemoryInWorker: only all of them can start again.
    """
    while (smaller := _one_try(job, rows, report, stop, download)) is not None:
        gc.collect()  # the failed try's tensors hang on the frames of its exception
        job, download = replace(job, lowered=smaller), None


def remembered(job: Job) -> Job:
    """The job as an earlier attempt came to fit it; as it is where none had to."""
    known = read_json(job.run_dir / FILE)
    if known.pop("digest", None) != job.digest:
        return job
    try:
        return replace(job, lowered=Batches(**known))  # type: ignore[arg-type]
    except TypeError:
        return job  # of another version of ours


def _one_try(job: Job, rows: "Rows | None", report: Report, stop: Stop, download: BaseProcess | None) -> Batches | None:
    """None when it is done; else the batches to try next, which the run's folder and the ledger know by then."""
    from trainer.fit.trial import TooLarge, next_smaller
    from trainer.run import carry_out

    try:
        carry_out(job, rows, report, stop, download)
        return None
    except TooLarge as found:
        smaller, why = found.batches, str(found)
    except Exception as error:
        failure = translate(error)
        if isinstance(error, PushtrainError) or not isinstance(failure, OutOfMemory) or not _is_loaded(report):
            raise
        smaller, why = next_smaller(job.batches, str(failure)), f"{job.batches} does not fit"
    _remember(job.run_dir, job.digest, smaller)
    effective = smaller.per_device_train_batch_size * smaller.gradient_accumulation_steps * job.processes
    message = f"out of memory: {why}; goes on with {smaller}, the same {effective} rows a step"
    report.event("preparing", message, **asdict(smaller))
    if job.processes > 1:
        raise OutOfMemoryInWorker(message)
    return smaller


def _remember(run_dir: Path, digest: str, batches: Batches) -> None:
    write_whole(run_dir / FILE, json.dumps({"digest": digest, **asdict(batches)}) + "\n")


def _is_loaded(report: Report) -> bool:
    """Before that, smaller batches change nothing."""
    return "trainer" in report.phases.seconds
