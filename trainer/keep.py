"""What there is of a training that the watch has stopped: its last good checkpoint goes to the Hub, since the volume
goes with a failed run. To the revision run/RUN-ID alone, never to main, with the reason in its card and in the ledger.

Good: whole by its marker's hashes, every weight finite, and written while the loss was still on its course, or, where
the loss is why, near the best. Weights that came apart are never uploaded.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pushtrain.errors import PushtrainError, RunFailed
from trainer.checkpoint import Checkpoint, Stop, newest_whole
from trainer.failures import DiskFull, GpuIdle, LossExploded, LossNotFinite, StepGap, WorkerDied, translate
from trainer.job import Job, read_json
from trainer.report import Report, say

STOPPED = (LossNotFinite, LossExploded, GpuIdle, StepGap, DiskFull)


@contextmanager
def keeping(job: Job, report: Report, stop: Stop) -> Iterator[None]:
    """Around a training, or around the processes of one: what stops it passes on, once what there is has been kept."""
    try:
        yield
    except Exception as error:
        stopped = _stopped_by(translate(error), report)
        if stopped is not None and "RANK" not in os.environ:  # of several processes the one that started them does it
            with stop.deferred():
                keep_what_there_is(job, stopped, report)
        raise


def keep_what_there_is(job: Job, stopped: PushtrainError, report: Report) -> None:
    """Writes the failure first, then uploads, then says in it where the upload is. Raises nothing: the failure that is
    told is the training's."""
    report.failure(stopped)
    if not job.uploads:
        return
    try:
        kept = _kept(job, stopped, report)
    except Exception as error:  # noqa: BLE001 - an upload that fails must not hide why the training stopped
        say(f"publishing: what there is was not kept: {translate(error)}")
        return
    if kept is not None:
        report.explain(kept)


def _stopped_by(failure: PushtrainError, report: Report) -> PushtrainError | None:
    """The watch's own failure, or what a worker has written of its own; None for any other end."""
    if isinstance(failure, WorkerDied):
        told = read_json(report.folder / "failure.json")
        failure = RunFailed(str(told.get("message")), reason=str(told.get("reason")))
    return failure if failure.reason in {kind.reason for kind in STOPPED} else None


def last_good(job: Job, stopped: PushtrainError) -> Checkpoint | None:
    """The furthest checkpoint whose weights may be given to anybody; None where there is none."""
    by_loss = stopped.reason in (LossExploded.reason, LossNotFinite.reason)
    return newest_whole(job.checkpoints, job.recipe, is_good=lambda folder: _is_good(folder, by_loss))


def _is_good(folder: Path, by_loss: bool) -> bool:
    """`by_loss`: the losses are what the training was stopped for; those before have to be near the best then."""
    from trainer.watch.loss import LossCourse

    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    course = LossCourse(float(entry["loss"]) for entry in state["log_history"] if "loss" in entry)
    return (course.is_near if by_loss else course.is_on) and _is_finite(folder)


def _is_finite(folder: Path) -> bool:
    from trainer.evaluate import check_finite
    from trainer.failures import AdapterBroken

    try:
        check_finite(folder)
    except AdapterBroken as broken:
        say(f"checkpoint: {folder.name} is not kept: {broken}")
        return False
    return True


def _kept(job: Job, stopped: PushtrainError, report: Report) -> str | None:
    """Where it is, for people; None where no checkpoint is good."""
    from trainer.card import stopped_card
    from trainer.publish import keep

    found = last_good(job, stopped)
    if found is None or not list(found.path.glob("*.safetensors")):
        say("publishing: no checkpoint is whole and good, so nothing of this training is kept")
        return None
    what = f"the weights of step {found.step}"
    report.event("publishing", f"{what}, because the training was stopped: {stopped.reason}", step=found.step)
    with tempfile.TemporaryDirectory() as scratch:  # the volume may be full
        folder = _staged(job, found.path, Path(scratch))
        (folder / "README.md").write_text(stopped_card(job, stopped, found.step), encoding="utf-8")
        revision = keep(job, folder)
    where = f"{job.spec.publish.repo}, revision run/{job.run_id} ({revision[:8]})"
    report.event("publishing", f"{what} are kept at {where}; not promoted to main", step=found.step, revision=revision)
    return f"{what}, the last good ones, are at {where}"


def _staged(job: Job, checkpoint: Path, scratch: Path) -> Path:
    """A folder with what a user loads. Large files are linked to, as long as they need not be made anew."""
    from trainer.publish import is_published
    from trainer.save import for_the_plain_base, pin_config

    for path in filter(lambda path: is_published(path.name), sorted(checkpoint.iterdir())):
        if path.suffix == ".safetensors":
            (scratch / path.name).symlink_to(path)
        else:
            shutil.copyfile(path, scratch / path.name)
    if job.spec.method.takes_from_base:
        for_the_plain_base(job, scratch)
    if job.spec.method.kind != "full":
        pin_config(job, scratch)
    return scratch
