"""The adapter to the Hub: one commit of listed files, verified against what the Hub then lists.

On a Hub that stays away the folder is untouched and the failure names it.
"""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.hf_api import RepoFile

from trainer.failures import AdapterBroken, HubRejected, HubUnreachable, hub_errors, retried
from trainer.job import Job, file_sha256
from trainer.report import say

# With the 23 s that huggingface_hub itself tries each time, about six minutes: less than training again costs.
RETRY_DELAYS_S = (10.0, 20.0, 40.0, 80.0, 120.0)

# Nothing else leaves the pod: a stray file in the folder may hold a log, a path or a token.
_ALLOWED = re.compile(
    r"""adapter_config\.json | adapter_model\.safetensors
      | config\.json | generation_config\.json
      | model(-\d{5}-of-\d{5})?\.safetensors | model\.safetensors\.index\.json
      | tokenizer\.json | tokenizer\.model | tokenizer_config\.json | special_tokens_map\.json | added_tokens\.json
      | vocab\.json | vocab\.txt | merges\.txt | spiece\.model | sentencepiece\.bpe\.model
      | chat_template\.jinja | README\.md""",
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """`revision` is the Hub's commit, `files` the SHA-256 of each file in it. `repo` and `revision` are None where the
    result stays on this machine."""

    repo: str | None
    revision: str | None
    files: dict[str, str]


def publish(job: Job) -> Published:
    """Upload the allowed files of `job.adapter`; what the Hub has already, byte for byte, is not committed again.

    Raises HubUnreachable, HubForbidden or HubRejected, and AdapterBroken when the Hub lists other bytes than were sent.
    """
    repo = job.spec.publish.repo
    paths = sorted(path for path in job.adapter.iterdir() if _ALLOWED.fullmatch(path.name))
    if not job.uploads:
        say(f"publishing: nothing is uploaded, the result is in {job.adapter}")
        return Published(repo=None, revision=None, files={path.name: file_sha256(path) for path in paths})
    try:
        revision = retried(lambda: _commit(job, paths), RETRY_DELAYS_S, time.sleep)
    except HubUnreachable as error:
        hint = f"the adapter is whole in {job.adapter} on the volume; run the job again, or upload the folder by hand"
        raise HubUnreachable(str(error), hint=hint) from error
    size_mb = sum(path.stat().st_size for path in paths) / 1e6
    say(f"publishing: {repo}@{revision[:8]}, {len(paths)} files, {size_mb:.1f} MB")
    return Published(repo=repo, revision=revision, files={path.name: file_sha256(path) for path in paths})


def _commit(job: Job, paths: Sequence[Path]) -> str:
    """The commit that holds the files. Looks first: an attempt before, or a request whose answer was lost, made it."""
    api, repo = HfApi(), job.spec.publish.repo
    with hub_errors(f"publish.repo {repo}", missing=HubRejected):
        head = str(api.model_info(repo).sha)
        if not _differing(api, repo, head, paths):
            return head
        made = api.create_commit(
            repo,
            operations=[CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in paths],
            commit_message=f"Run {job.run_id}",
            commit_description=f"Trained by pushtrain from commit {job.commit}." if job.commit else None,
        )
        if differing := _differing(api, repo, made.oid, paths):
            raise AdapterBroken(f"{repo}@{made.oid[:8]}: the Hub lists other bytes than were sent for {differing[0]}")
    return str(made.oid)


def _differing(api: HfApi, repo: str, revision: str, paths: Sequence[Path]) -> list[str]:
    """Names that the Hub does not list with the bytes we have: SHA-256 of LFS files, git's blob id of the others."""
    entries = api.get_paths_info(repo, [path.name for path in paths], revision=revision)
    listed = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    return [path.name for path in paths if path.name not in listed or not _agrees(listed[path.name], path)]


def _agrees(entry: RepoFile, path: Path) -> bool:
    if entry.lfs is not None:
        return entry.lfs.sha256 == file_sha256(path)
    content = path.read_bytes()
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
