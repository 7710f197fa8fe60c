"""The result to the Hub: one commit of listed files to the run's own revision, and to main when the gates hold.

On a Hub that stays away the folders are untouched and the failure names them.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.failures import HubUnreachable, retried
from trainer.gates import Gate
from trainer.job import Job, file_sha256, replayed
from trainer.report import say
from trainer.upload import RETRY_DELAYS_S, Target, commit_files

# What is kept of a failed run is worth less than a result: about two minutes with what huggingface_hub tries itself.
KEEP_RETRY_DELAYS_S = (5.0, 15.0)

# Nothing else leaves the pod: a stray file in the folder may hold a log, a path or a token.
_ALLOWED = re.compile(
    r"""README\.md | (adapter/)?
      ( adapter_config\.json | adapter_model\.safetensors
      | config\.json | generation_config\.json
      | model(-\d{5}-of-\d{5})?\.safetensors | model\.safetensors\.index\.json
      | tokenizer\.json | tokenizer\.model | tokenizer_config\.json | special_tokens_map\.json | added_tokens\.json
      | vocab\.json | vocab\.txt | merges\.txt | spiece\.model | sentencepiece\.bpe\.model
      | chat_template\.jinja )""",
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """`revision` is the Hub's commit on the run's own branch, `files` the SHA-256 of each file in it, `promoted` the
    commit on main. `repo` and `revision` are None where the result stays on this machine, `promoted` also where a gate
    did not hold, or the run is a replay: that is evidence, and what people download stays the first one's."""

    repo: str | None
    revision: str | None
    files: dict[str, str]
    promoted: str | None = None


def publish(job: Job, gates: Sequence[Gate]) -> Published:
    """Upload the allowed files; what the Hub has already, byte for byte, is not committed again.

    Raises HubUnreachable, HubForbidden or HubRejected, and AdapterBroken when the Hub lists other bytes than were sent.
    """
    repo, files = job.spec.publish.repo, _files(job)
    hashes = {name: file_sha256(path) for name, path in sorted(files.items())}
    if not job.uploads:
        say(
            f"publishing: nothing is uploaded, the result is in {job.merged if job.spec.publish.merge else job.adapter}"
        )
        return Published(repo=None, revision=None, files=hashes)
    try:
        revision = _commit(job, files, f"run/{job.run_id}")
        size_mb = sum(path.stat().st_size for path in files.values()) / 1e6
        say(f"publishing: {repo}@{revision[:8]}, {len(files)} files, {size_mb:.1f} MB, revision run/{job.run_id}")
        promoted = _commit(job, files, "main") if _may_promote(gates) else None
    except HubUnreachable as error:
        hint = f"the adapter is whole in {job.adapter} on the volume; run the job again, or upload the folder by hand"
        raise HubUnreachable(str(error), hint=hint) from error
    return Published(repo=repo, revision=revision, files=hashes, promoted=promoted)


def keep_adapter(job: Job) -> None:
    """The adapter alone to the run's revision, where the model it was to become cannot be made. Raises as `publish`."""
    if not job.uploads:
        return
    revision = keep(job, job.adapter, "adapter/")
    say(f"publishing: only the adapter, {job.spec.publish.repo}@{revision[:8]}, revision run/{job.run_id}")


def keep(job: Job, folder: Path, below: str = "") -> str:
    """What may be published of `folder` to the run's own revision alone; the commit. Raises as `publish` does."""
    files = {f"{below}{path.name}": path for path in sorted(folder.iterdir())}
    allowed = {name: path for name, path in files.items() if is_published(name)}
    return _commit(job, allowed, f"run/{job.run_id}", KEEP_RETRY_DELAYS_S)


def is_published(name: str) -> bool:
    """Whether a file of this path in the repository may leave the pod."""
    return _ALLOWED.fullmatch(name) is not None


def _may_promote(gates: Sequence[Gate]) -> bool:
    for gate in gates:
        say(f"gate: {gate}")
    if replayed():
        say("publishing: a replay is not promoted")
        return False
    if missed := [gate.name for gate in gates if not gate.holds]:
        say(f"publishing: not promoted to main: {', '.join(missed)}")
        return False
    say("publishing: promoted to main")
    return True


def _commit(job: Job, files: Mapping[str, Path], branch: str, delays_s: Sequence[float] | None = None) -> str:
    to = Target(
        repo=job.spec.publish.repo,
        title=f"Run {job.run_id}",
        branch=branch,
        description=f"Trained by pushtrain from commit {job.commit}." if job.commit else None,
        replaces=_ALLOWED,
    )
    return retried(lambda: commit_files(to, files), RETRY_DELAYS_S if delays_s is None else delays_s, time.sleep)


def _files(job: Job) -> dict[str, Path]:
    """What is uploaded, by its path in the repository: the adapter, or the merged model with the adapter below it."""
    folders = {"": _root(job)} | ({"adapter/": job.adapter} if job.spec.publish.merge else {})
    found = {f"{prefix}{path.name}": path for prefix, folder in folders.items() for path in sorted(folder.iterdir())}
    return {name: path for name, path in found.items() if is_published(name)}


def _root(job: Job) -> Path:
    return job.merged if job.spec.publish.merge else job.adapter
