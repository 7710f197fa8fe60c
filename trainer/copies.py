"""Checkpoints on the Hub, for a machine whose disk goes with it: `publish.hub_strategy: checkpoint`.

The branch checkpoint/RUN-ID holds the newest whole checkpoint, marker and all. It is written while the training goes
on, one copy at a time, read by an attempt that finds no checkpoint on its disk, and removed once the result is there.
"""

import re
import tempfile
import threading
import time
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from trainer.checkpoint import MARKER, newest_whole
from trainer.failures import HubRejected, RevisionNotFound, hub_errors, retried, translate
from trainer.job import Job, rank
from trainer.report import say
from trainer.upload import QUICK_RETRY_DELAYS_S, Target, commit_files

_FILES = re.compile(r"checkpoint-\d+/.+")
# Of the 20 s that a pod which is taken away has for saving.
STOPPED_PATIENCE_S = 12.0
# The last copy of a training that ended is worth little: the result follows.
PATIENCE_S = 60.0


def are_wanted(job: Job) -> bool:
    return job.uploads and job.spec.publish.hub_strategy == "checkpoint"


def branch(job: Job) -> str:
    return f"checkpoint/{job.run_id}"


def fetch(job: Job) -> None:
    """Bring the run's last checkpoint to a disk that has none. What is there is verified by its marker; one of another
    recipe, or damaged, is left where it is, and the training starts from step 0.

    Raises HubUnreachable, HubForbidden or HubRejected.
    """
    if not are_wanted(job) or any(job.checkpoints.glob("checkpoint-*")):
        return
    with tempfile.TemporaryDirectory(dir=job.run_dir, prefix="fetched-") as scratch:
        try:
            retried(lambda: _download(job, scratch), QUICK_RETRY_DELAYS_S, time.sleep)
        except RevisionNotFound:
            return  # nothing was ever copied
        found = newest_whole(Path(scratch), job.recipe)
        if found is None:
            say(f"checkpoint: none in {branch(job)} on the Hub is whole and of this recipe: from step 0")
            return
        job.checkpoints.mkdir(parents=True, exist_ok=True)
        found.path.rename(job.checkpoints / found.path.name)
    say(f"checkpoint: {found.path.name} of an earlier attempt came back from the Hub")


def forget(job: Job) -> None:
    """Remove the copies: the result is published. A Hub that does not want to is told in the log, and no reason to
    fail."""
    if not are_wanted(job):
        return
    try:
        with hub_errors(f"publish.repo {job.spec.publish.repo}", missing=HubRejected):
            HfApi().delete_branch(job.spec.publish.repo, branch=branch(job))
    except RevisionNotFound:
        return  # the training was over before there was one
    except Exception as error:  # noqa: BLE001 - what is left costs nothing
        say(f"publishing: the branch {branch(job)} stays: {translate(error)}")


class Copies:
    """Copies whole checkpoints in a thread of its own; of those that come meanwhile the newest one. A copy that fails
    is told in the log and costs the training nothing: the next one goes all the same."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._is_wanted = are_wanted(job) and rank() == 0
        self._guard = threading.Lock()
        self._next: Path | None = None
        self._thread: threading.Thread | None = None

    def offer(self, folder: Path) -> None:
        """A checkpoint that is whole by now. Returns at once."""
        if not self._is_wanted:
            return
        with self._guard:
            self._next = folder
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="copies", daemon=True)
                self._thread.start()

    def close(self, patience_s: float) -> None:
        """Wait for what is under way."""
        thread = self._thread
        if thread is not None:
            thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._guard:
                folder, self._next = self._next, None
                if folder is None:
                    self._thread = None
                    return
            try:
                self._copy(folder)
            except Exception as error:  # noqa: BLE001 - a copy less is no reason to stop a training
                say(f"checkpoint: {folder.name} was not copied to the Hub: {translate(error)}")

    def _copy(self, folder: Path) -> None:
        if not (folder / MARKER).exists():
            return  # made room for a newer one, which follows
        files = {f"{folder.name}/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.is_file()}
        to = Target(
            repo=self._job.spec.publish.repo,
            title=f"{folder.name} of run {self._job.run_id}",
            branch=branch(self._job),
            replaces=_FILES,
        )
        commit_files(to, files)
        say(f"checkpoint: {folder.name} is also on the Hub, in {branch(self._job)}")


def _download(job: Job, scratch: str) -> None:
    repo = job.spec.publish.repo
    with hub_errors(f"publish.repo {repo}", missing=HubRejected):
        snapshot_download(repo, revision=branch(job), allow_patterns=["checkpoint-*/*"], local_dir=scratch)
