"""Checkpoints on the Hub: the branch checkpoint/RUN-ID of `publish.repo` holds the newest whole one, marker and all."""

import re
import time
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from trainer.checkpoint import newest_whole
from trainer.failures import HubRejected, RevisionNotFound, hub_errors, retried
from trainer.job import Job
from trainer.report import say
from trainer.upload import QUICK_RETRY_DELAYS_S, Target, commit_files

_FILES = re.compile(r"checkpoint-\d+/.+")


def is_wanted(job: Job) -> bool:
    return job.uploads and job.spec.publish.hub_strategy == "checkpoint"


class HubCopies:
    """The copies of one run. Methods raise HubUnreachable, HubForbidden or HubRejected."""

    def __init__(self, job: Job) -> None:
        self._job, self._repo, self._branch = job, job.spec.publish.repo, f"checkpoint/{job.run_id}"

    @property
    def words(self) -> str:
        return f"{self._branch} on the Hub"

    def check(self) -> None:
        """Nothing more: that results may be written there is asked before any training."""

    def fetch(self, scratch: Path) -> Path | None:
        try:
            retried(lambda: self._download(scratch), QUICK_RETRY_DELAYS_S, time.sleep)
        except RevisionNotFound:
            return None  # nothing was ever copied
        found = newest_whole(scratch, self._job.recipe)
        if found is None:
            say(f"checkpoint: none in {self.words} is whole and of this recipe: from step 0")
        return None if found is None else found.path

    def put(self, folder: Path) -> None:
        files = {f"{folder.name}/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.is_file()}
        title = f"{folder.name} of run {self._job.run_id}"
        commit_files(Target(repo=self._repo, title=title, branch=self._branch, replaces=_FILES), files)

    def forget(self) -> None:
        try:
            with hub_errors(f"publish.repo {self._repo}", missing=HubRejected):
                HfApi().delete_branch(self._repo, branch=self._branch)
        except RevisionNotFound:
            return  # the training was over before there was one

    def _download(self, scratch: Path) -> None:
        with hub_errors(f"publish.repo {self._repo}", missing=HubRejected):
            snapshot_download(
                self._repo, revision=self._branch, allow_patterns=["checkpoint-*/*"], local_dir=str(scratch)
            )
