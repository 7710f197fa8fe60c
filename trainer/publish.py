"""The adapter to the Hub: one commit of listed files, verified against what the Hub then lists.

On a Hub that stays away the folder is untouched and the failure names it.
"""

import re
import time
from dataclasses import dataclass

from trainer.failures import HubUnreachable, retried
from trainer.job import Job, file_sha256, replayed
from trainer.report import say
from trainer.upload import RETRY_DELAYS_S, Target, commit_files

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
        to = Target(
            repo=repo,
            title=f"Run {job.run_id}",
            # What a replay makes is evidence; the first run's result stays what people download.
            branch=f"run/{job.run_id}" if replayed() else "main",
            description=f"Trained by pushtrain from commit {job.commit}." if job.commit else None,
        )
        revision = retried(lambda: commit_files(to, {path.name: path for path in paths}), RETRY_DELAYS_S, time.sleep)
    except HubUnreachable as error:
        hint = f"the adapter is whole in {job.adapter} on the volume; run the job again, or upload the folder by hand"
        raise HubUnreachable(str(error), hint=hint) from error
    size_mb = sum(path.stat().st_size for path in paths) / 1e6
    say(f"publishing: {repo}@{revision[:8]}, {len(paths)} files, {size_mb:.1f} MB")
    return Published(repo=repo, revision=revision, files={path.name: file_sha256(path) for path in paths})
