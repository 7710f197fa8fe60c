"""Why a training run ends early: the reasons that reach failure.json, and how foreign exceptions become one of them.

exit 2, a person edits the spec, the data or what they name
    DatasetError · ModelNotFound · ModelUnsupported · OtherRecipe · ParallelUnavailable · RevisionNotFound ·
    CheckpointsRefused · CommandNotFound, and the SpecErrors of `pushtrain`
exit 1, the run itself
    OutOfMemory · DiskFull · GpuUnavailable · LossNotFinite · LossExploded · GpuIdle · StepGap · AdapterBroken ·
    HubUnreachable · HubForbidden · HubRejected · DataUnreachable · WorkerDied · CommandFailed ·
    ArtifactMissing · CheckpointsUnreachable, and TrainingFailed for everything nobody foresaw
exit 75, no failure: Preempted, the next attempt resumes
"""

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pushtrain.errors import HubError, PushtrainError, RunFailed, SpecError

PREEMPTED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h
SMALLER_EXIT_CODE = 76  # of a worker, to the process that started it: start all of us again, fit.json says how


class DatasetError(SpecError):
    reason = "DatasetError"


class ModelNotFound(SpecError):
    reason = "ModelNotFound"


class ModelUnsupported(SpecError):
    reason = "ModelUnsupported"


class RevisionNotFound(SpecError):
    reason = "RevisionNotFound"


class CheckpointsRefused(SpecError):
    """`publish.checkpoints` names what the keys may not write, or what is not there."""

    reason = "CheckpointsRefused"


class CheckpointsUnreachable(RunFailed):
    reason = "CheckpointsUnreachable"


class CommandNotFound(SpecError):
    reason = "CommandNotFound"


class CommandFailed(RunFailed):
    reason = "CommandFailed"


class ArtifactMissing(RunFailed):
    reason = "ArtifactMissing"


class OtherRecipe(SpecError):
    """The run's folder holds checkpoints of another spec, model or data."""

    reason = "OtherRecipe"


class ParallelUnavailable(SpecError):
    """`train.parallel` needs what this environment does not have."""

    reason = "ParallelUnavailable"


class OutOfMemory(RunFailed):
    reason = "OutOfMemory"


class OutOfMemoryInWorker(RunFailed):
    """One of several processes ran out of memory; all of them start again, with smaller batches."""

    reason = "OutOfMemory"


class DiskFull(RunFailed):
    reason = "DiskFull"


class GpuUnavailable(RunFailed):
    reason = "GpuUnavailable"


class LossNotFinite(RunFailed):
    reason = "LossNotFinite"


class LossExploded(RunFailed):
    reason = "LossExploded"


class GpuIdle(RunFailed):
    reason = "GpuIdle"


class StepGap(RunFailed):
    reason = "StepGap"


class AdapterBroken(RunFailed):
    reason = "AdapterBroken"


class DataUnreachable(RunFailed):
    reason = "DataUnreachable"


class WorkerDied(RunFailed):
    reason = "WorkerDied"


class TrainingFailed(RunFailed):
    reason = "TrainingFailed"


class HubUnreachable(HubError):
    reason = "HubUnreachable"


class HubForbidden(HubError):
    reason = "HubForbidden"


class HubRejected(HubError):
    reason = "HubRejected"


class Preempted(BaseException):
    """The process was told to stop; what a checkpoint holds is safe. No library's `except Exception` may swallow it."""


T = TypeVar("T")

_QUERY = re.compile(r"(\bhttps?://[^\s?'\"]+)\?[^\s'\"]*")
Sleep = Callable[[float], None]

MEMORY_HINT = (
    "train.gradient_checkpointing: true, a smaller train.per_device_train_batch_size or max_length, "
    "method.kind: qlora, or a GPU with more memory"
)


def exit_code(error: PushtrainError) -> int:
    """2 when a person has to edit the spec or the data, else 1."""
    return 2 if isinstance(error, SpecError) else 1


def translate(error: BaseException) -> PushtrainError:
    """`error` as a failure with a reason: the first of its causes that is known, else TrainingFailed.

    Works by errno, class name and text, so that it needs none of the libraries that raise.
    """
    for cause in _causes(error):
        if isinstance(cause, PushtrainError):
            return cause
        text = str(cause)
        if _says_disk_full(cause, text):
            return DiskFull(f"the disk is full: {_first_line(text)}", hint="raise compute.volume.size_gb")
        if _is_out_of_memory(cause, text):
            return OutOfMemory(f"out of memory: {_first_line(text)}", hint=MEMORY_HINT)
        if _is_unreachable(cause):
            return HubUnreachable(f"the Hub cannot be reached: {_first_line(text)}")
        if "no kernel image is available" in text or "CUDA driver version is insufficient" in text:
            return GpuUnavailable(f"this torch build cannot use the GPU: {_first_line(text)}")
        if "bitsandbytes" in text and any(word in text for word in ("not available", "not found", "requires")):
            hint = "method.kind: lora needs none of them; or another of compute.gpus"
            return GpuUnavailable(f"bitsandbytes has no kernels here: {_first_line(text)}", hint=hint)
    return TrainingFailed(f"{type(error).__name__}: {_first_line(str(error))}")


def is_disk_full(error: BaseException) -> bool:
    """Whether this error, or one it came from, is a full disk."""
    return isinstance(translate(error), DiskFull)


@contextmanager
def hub_errors(subject: str, missing: type[PushtrainError]) -> Iterator[None]:
    """Turn what huggingface_hub raises about `subject` into `missing`, RevisionNotFound or one of the Hub failures.

    Also where another library raises its own error from it; every other error passes as it is.
    """
    try:
        yield
    except PushtrainError:
        raise
    except Exception as error:
        failure = next(filter(None, (_hub_failure(cause, subject, missing) for cause in _causes(error))), None)
        if failure is None:
            raise
        raise failure from error


def retried(action: Callable[[], T], delays_s: Sequence[float], sleep: Sleep) -> T:
    """`action()`, again after each delay while it raises HubUnreachable. Every other error comes at once."""
    for delay_s in delays_s:
        try:
            return action()
        except HubUnreachable:
            sleep(delay_s)
    return action()


def _hub_failure(error: BaseException, subject: str, missing: type[PushtrainError]) -> PushtrainError | None:
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        hint = "accept its conditions on the Hub with the account HF_TOKEN belongs to, and set HF_TOKEN where it is not"
        return HubForbidden(f"{subject} is gated", hint=hint)
    if isinstance(error, hub.RevisionNotFoundError):
        hint = "a branch, a tag or a commit that it has; its page on the Hub lists them"
        return RevisionNotFound(f"{subject}: the Hub has no such revision", hint=hint)
    if isinstance(error, hub.RepositoryNotFoundError):
        hint = "the name as its page on the Hub has it; for a private one a token that may read it"
        return missing(f"{subject}: not on the Hub, or HF_TOKEN may not see it", hint=hint)
    if isinstance(error, hub.HfHubHTTPError):
        return _refused(subject, error.response.status_code, error.server_message or str(error))
    if _is_unreachable(error):
        return HubUnreachable(f"{subject}: the Hub cannot be reached: {_first_line(str(error))}")
    return None


def _refused(subject: str, status: int, message: str) -> HubError:
    said = f"the Hub answers {status}: {_first_line(message)}"
    if status in (401, 403):
        hint = "HF_TOKEN must be a valid token that may do this: write to publish.repo, read everything else"
        return HubForbidden(f"{subject}: {said}", hint=hint)
    if status == 429 or status >= 500:
        return HubUnreachable(f"{subject}: {said}")
    return HubRejected(f"{subject}: {said}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it came from, nearest first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _says_disk_full(error: BaseException, text: str) -> bool:
    # A network volume at its quota answers EDQUOT; safetensors and torch only keep the text.
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in text for words in ("No space left on device", "Disk quota exceeded"))


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or "can't allocate memory" in text or "Cannot allocate memory" in text


def _is_unreachable(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "LocalEntryNotFoundError", "OfflineModeIsEnabled"})


def _first_line(text: str) -> str:
    """What people need of a library's message. The query of a signed upload URL is a password for an hour."""
    line = (text.strip().splitlines() or ["no message"])[0]
    return _QUERY.sub(r"\1", line)[:500]
