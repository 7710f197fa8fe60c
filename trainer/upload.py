"""Files to a repository on the Hub: whether they may go there, and one commit, verified against what the Hub lists.

Needs huggingface_hub alone: it is also what a command uploads with.
"""

import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.hf_api import RepoFile

from pushtrain.spec.publish import Destination
from trainer.failures import AdapterBroken, HubRejected, hub_errors, retried
from trainer.job import file_sha256

# With the 23 s that huggingface_hub itself tries each time, about six minutes: less than the work again costs.
RETRY_DELAYS_S = (10.0, 20.0, 40.0, 80.0, 120.0)
# At the start nothing is lost yet: a glitch of the Hub must not cost it, an outage must not cost an hour.
QUICK_RETRY_DELAYS_S = (1.0, 3.0, 10.0, 30.0)


def uploads(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the result goes to the Hub: always for a run of the control plane, else where there is a token."""
    return "PUSHTRAIN_RUN_ID" in environ or get_token() is not None


def check_write_access(to: Destination) -> None:
    """Create the repository to publish to if it is missing, and ask whether HF_TOKEN may write to it.

    The Hub answers "exists" also to those who may not write: a token that only reads would be found out after training.
    """
    repo = to.repo
    api = HfApi()

    def check() -> None:
        with hub_errors(f"publish.repo {repo}", missing=HubRejected):
            api.create_repo(repo, private=to.private, exist_ok=True)
            api.auth_check(repo, write=True)

    retried(check, QUICK_RETRY_DELAYS_S, time.sleep)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a commit goes and what it says. `branch` is made when missing, from where main begins. Files whose path
    matches `replaces` and that are not sent are removed: what an earlier result left."""

    repo: str
    title: str
    description: str | None = None
    branch: str = "main"
    replaces: re.Pattern[str] | None = None


def commit_files(to: Target, files: Mapping[str, Path]) -> str:
    """The commit that holds `files` (by path in the repository). What the Hub has already, byte for byte, is not
    committed again: an attempt before, or a request whose answer was lost, made it.

    Raises HubUnreachable (to be tried again), HubForbidden or HubRejected, and AdapterBroken when the Hub lists other
    bytes than were sent.
    """
    api = HfApi()
    with hub_errors(f"publish.repo {to.repo}", missing=HubRejected):
        if to.branch != "main":
            api.create_branch(to.repo, branch=to.branch, exist_ok=True)
        head = str(api.model_info(to.repo, revision=to.branch).sha)
        stale = _stale(api, to, head, files)
        if not stale and not _differing(api, to.repo, head, files):
            return head
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        made = api.create_commit(
            to.repo,
            operations=[*added, *(CommitOperationDelete(path_in_repo=name) for name in stale)],
            commit_message=to.title,
            commit_description=to.description,
            revision=to.branch,
        )
        if differing := _differing(api, to.repo, made.oid, files):
            raise AdapterBroken(
                f"{to.repo}@{made.oid[:8]}: the Hub lists other bytes than were sent for {differing[0]}"
            )
    return str(made.oid)


def _stale(api: HfApi, to: Target, revision: str, files: Mapping[str, Path]) -> list[str]:
    if to.replaces is None:
        return []
    listed = api.list_repo_files(to.repo, revision=revision)
    return sorted(name for name in listed if name not in files and to.replaces.fullmatch(name))


def _differing(api: HfApi, repo: str, revision: str, files: Mapping[str, Path]) -> list[str]:
    """Names that the Hub does not list with the bytes we have: SHA-256 of LFS files, git's blob id of the others."""
    entries = api.get_paths_info(repo, list(files), revision=revision)
    listed = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    return [name for name, path in files.items() if name not in listed or not _agrees(listed[name], path)]


def _agrees(entry: RepoFile, path: Path) -> bool:
    if entry.lfs is not None:
        return entry.lfs.sha256 == file_sha256(path)
    content = path.read_bytes()
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
