"""Checkpoints elsewhere, for a machine whose disk goes with it: on the Hub (`publish.hub_strategy: checkpoint`, hub.py)
or in a bucket (`publish.checkpoints: s3://…`, bucket.py).

They are written while the training goes on, one copy at a time, read by an attempt that finds no checkpoint on its
disk, and removed once the result is there.
"""

import tempfile
import threading
from pathlib import Path
from typing import Protocol

from trainer.checkpoint import MARKER
from trainer.copies import bucket, hub
from trainer.failures import translate
from trainer.job import Job, rank
from trainer.report import say

__all__ = ["PATIENCE_S", "STOPPED_PATIENCE_S", "Copies", "fetch", "forget"]

# Of the 20 s that a pod which is taken away has for saving.
STOPPED_PATIENCE_S = 12.0
# The last copy of a training that ended is worth little: the result follows.
PATIENCE_S = 60.0


class Elsewhere(Protocol):
    """One run's copies in one place. `words` says where, for people."""

    @property
    def words(self) -> str: ...
    def check(self) -> None:
        """Raises where nothing could be written: before the training, and not after it."""
        ...

    def fetch(self, scratch: Path) -> Path | None:
        """The newest whole copy of this recipe, below `scratch`; None where there is none."""
        ...

    def put(self, folder: Path) -> None: ...
    def forget(self) -> None:
        """Remove all of them; absent is success."""
        ...


def elsewhere(job: Job) -> Elsewhere | None:
    """Where this run's checkpoints are copied to; None where nobody asked for it. Raises CheckpointsRefused."""
    if hub.is_wanted(job):
        return hub.HubCopies(job)
    return bucket.BucketCopies(job) if bucket.is_wanted(job) else None


def fetch(job: Job) -> None:
    """Bring the run's last checkpoint to a disk that has none. What is there is verified by its marker; one of another
    recipe, or damaged, is left where it is, and the training starts from step 0.

    Raises HubUnreachable, HubForbidden or HubRejected; CheckpointsUnreachable or CheckpointsRefused.
    """
    place = elsewhere(job)
    if place is None:
        return
    place.check()
    if any(job.checkpoints.glob("checkpoint-*")):
        return
    job.run_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.run_dir, prefix="fetched-") as scratch:
        found = place.fetch(Path(scratch))
        if found is None:
            return
        job.checkpoints.mkdir(parents=True, exist_ok=True)
        found.rename(job.checkpoints / found.name)
    say(f"checkpoint: {found.name} of an earlier attempt came back from {place.words}")


def forget(job: Job) -> None:
    """Remove the copies: the result is published. A place that does not want to is told in the log, and no reason to
    fail."""
    try:
        place = elsewhere(job)
        if place is not None:
            place.forget()
    except Exception as error:  # noqa: BLE001 - what is left keeps nobody from the result
        say(f"publishing: the copies of checkpoints stay: {translate(error)}")


class Copies:
    """Copies whole checkpoints in a thread of its own; of those that come meanwhile the newest one. A copy that fails
    is told in the log and costs the training nothing: the next one goes all the same."""

    def __init__(self, job: Job) -> None:
        self._place = elsewhere(job) if rank() == 0 else None
        self._guard = threading.Lock()
        self._next: Path | None = None
        self._thread: threading.Thread | None = None

    def offer(self, folder: Path) -> None:
        """A checkpoint that is whole by now. Returns at once."""
        if self._place is None:
            return
        with self._guard:
            self._next = folder
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(self._place,), name="copies", daemon=True)
                self._thread.start()

    def close(self, patience_s: float) -> None:
        """Wait for what is under way."""
        thread = self._thread
        if thread is not None:
            thread.join(patience_s)

    def _run(self, place: Elsewhere) -> None:
        while True:
            with self._guard:
                folder, self._next = self._next, None
                if folder is None:
                    self._thread = None
                    return
            try:
                if (folder / MARKER).exists():  # else it made room for a newer one, which follows
                    place.put(folder)
                    say(f"checkpoint: {folder.name} is also in {place.words}")
            except Exception as error:  # noqa: BLE001 - a copy less is no reason to stop a training
                say(f"checkpoint: {folder.name} was not copied to {place.words}: {translate(error)}")
