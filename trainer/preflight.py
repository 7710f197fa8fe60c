"""What can be known before torch is imported: that data, Hub, revisions and disk are in order. Seconds, not minutes.

Also starts the download of the base model in a process of its own, so that it runs while torch is imported.
"""

import contextlib
import json
import multiprocessing
import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils._paths import filter_repo_objects

from pushtrain.errors import PushtrainError
from pushtrain.rows import data_file
from pushtrain.spec import TrainingSpec
from trainer.data import buckets
from trainer.failures import DatasetError, DiskFull, ModelNotFound, OutOfMemory, hub_errors, retried, translate
from trainer.job import Inputs, Job, file_sha256, read_json, replayed
from trainer.report import say, write_whole

# The base in 16 bits, and beside it what was in 4, or is read.
MERGE_FACTOR = 1.4

# A glitch of the Hub must not cost a rented machine's start; an outage must not cost an hour of it.
RETRY_DELAYS_S = (1.0, 3.0, 10.0, 30.0)

_MODEL_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py", "README.md"]
# Copies of the weights in other formats, which some repositories keep beside the ones transformers reads.
_OTHER_FORMATS = ["*/*", "consolidated*"]


def pin_inputs(spec: TrainingSpec, root: Path, run_dir: Path) -> Inputs:
    """Branches and tags to commits, once per run: a later attempt trains on what the first one found, and a replay on
    what the run found that it repeats.

    Raises ModelNotFound, DatasetError, RevisionNotFound, HubForbidden or HubUnreachable.
    """
    pins_file = run_dir / "inputs.json"
    pins = read_json(pins_file) or dict(replayed().get("pins") or {})
    model = _pinned(pins, f"models/{spec.model.id}@{spec.model.revision}")
    if spec.data.path is not None:
        data = f"sha256:{file_sha256(data_file(spec.data.path, root))}"
    elif spec.data.bucket is not None:
        data = _pinned_object(pins, spec.data.place)
    else:
        data = _pinned(pins, f"{str(spec.data.source).removeprefix('hf://')}@{spec.data.revision}")
    write_whole(pins_file, json.dumps(pins, indent=1) + "\n")
    path, template = spec.train.chat_template_path, None
    if path is not None:
        template = file_sha256(data_file(path, root, "train.chat_template_path"))
    return Inputs(model_sha=model, data_version=data, template_sha256=template)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def check_disk(job: Job, free: Callable[[Path], int] = free_bytes) -> None:
    """Raises DiskFull when the model, the checkpoints and the result cannot fit.

    A full fine-tuning keeps fp32 weights and two fp32 moments of Adam, 6 times the bf16 weights on the Hub, in the last
    whole checkpoint and the one being written; an adapter and its moments are taken as a tenth of the weights.
    """
    weights, missing = _weight_bytes(job)
    if job.spec.publish.merge:
        _check_merge_fits(weights, machine_memory_bytes())
    state = 2 * 6 * weights + weights if job.spec.method.kind == "full" else 3 * weights // 10
    state += weights if job.spec.publish.merge else 0
    needs = {Path(constants.HF_HUB_CACHE): missing, job.run_dir: state}
    devices: dict[int, int] = {}
    for folder, need in needs.items():
        folder.mkdir(parents=True, exist_ok=True)
        devices[folder.stat().st_dev] = devices.get(folder.stat().st_dev, 0) + need
    for folder in needs:
        need, left = devices[folder.stat().st_dev], free(folder)
        if left < need:
            needs_gb = f"{job.spec.model.id} and its checkpoints need {need / 1e9:.1f} GB"
            raise DiskFull(f"{needs_gb}, {folder} has {left / 1e9:.1f} free", hint="raise compute.volume.size_gb")


def machine_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int:
    """What this machine, or the container on it, may use; 0 where nothing says so."""
    limits = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int((cgroup / name).read_text()))
    with contextlib.suppress(OSError, ValueError, IndexError):
        limits.append(1024 * int(meminfo.read_text().split("MemTotal:")[1].split()[0]))
    return min(limits, default=0)


def _check_merge_fits(weights: int, memory: int) -> None:
    """The merged model is made in the machine's memory; known before the training, not after it."""
    need = int(MERGE_FACTOR * weights)
    if 0 < memory < need:
        what = f"publish.merge needs {need / 1e9:.0f} GB of the machine's memory, it has {memory / 1e9:.0f}"
        raise OutOfMemory(what, hint="publish.merge: false; or a GPU whose machines have more memory")


def start_download(job: Job) -> BaseProcess | None:
    """Fetch the model into the cache, beside this process; the caller joins it. What fails, fails again on loading.

    None where the volume has every file already. A fork, as long as this process has no second thread: a new
    interpreter would import for a second what is here already.
    """
    wanted = filter_repo_objects(
        _model_files(job.spec.model.id, job.inputs.model_sha),
        allow_patterns=_MODEL_FILES,
        ignore_patterns=_OTHER_FORMATS,
    )
    if all(_is_cached(job, name) for name in wanted):
        return None
    way = "fork" if threading.active_count() == 1 else "spawn"
    process: BaseProcess = multiprocessing.get_context(way).Process(  # type: ignore[attr-defined]
        target=_download, args=(job.spec.model.id, job.inputs.model_sha), daemon=True
    )
    process.start()
    return process


def _is_cached(job: Job, name: str) -> bool:
    return isinstance(try_to_load_from_cache(job.spec.model.id, name, revision=job.inputs.model_sha), str)


@cache
def _model_files(model: str, sha: str) -> dict[str, int]:
    """Files of the commit and their bytes, asked of the Hub once."""
    with hub_errors(f"model {model}", missing=ModelNotFound):
        siblings = HfApi().model_info(model, revision=sha, files_metadata=True).siblings or []
    return {file.rfilename: file.size or 0 for file in siblings}


def _download(model_id: str, sha: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # a request to stop is the trainer's; this one just ends
    try:
        snapshot_download(model_id, revision=sha, allow_patterns=_MODEL_FILES, ignore_patterns=_OTHER_FORMATS)
    except (OSError, HTTPError) as error:
        # Not the end: loading the model asks the Hub again, and says what is wrong.
        say(f"download: {translate(error)}")


def _pinned(pins: dict[str, object], key: str) -> str:
    """The commit `kind/repo@revision` meant the first time it was asked for."""
    if key not in pins:
        pins[key] = _resolve(key)
    return str(pins[key])


def _pinned_object(pins: dict[str, object], url: str) -> str:
    """The bytes `url` held the first time it was asked for, copied to the volume; fetched again where the copy is gone.

    Raises DatasetError where it holds others by now: the run would go on with other rows than it began with.
    """
    known = pins.get(url)
    if known is not None and buckets.copy_of(url, str(known)).is_file():
        return str(known)
    found = buckets.fetch(url)
    if known not in (None, found):
        text = f"data.source {url} has changed since this run began: it was {known}, it is {found}"
        raise DatasetError(text, hint="put the first one back, or start a new run")
    pins[url] = found
    return found


def _resolve(key: str) -> str:
    kind, _, rest = key.partition("/")
    repo, _, revision = rest.partition("@")
    api = HfApi()
    missing: type[PushtrainError] = ModelNotFound if kind == "models" else DatasetError

    def ask() -> str:
        with hub_errors(f"{kind[:-1]} {repo} at {revision}", missing=missing):
            info = (api.model_info if kind == "models" else api.dataset_info)(repo, revision=revision)
        return str(info.sha)

    return retried(ask, RETRY_DELAYS_S, time.sleep)


def _weight_bytes(job: Job) -> tuple[int, int]:
    """Bytes of the model's safetensors on the Hub, and of those among them that the cache does not hold."""
    files = _model_files(job.spec.model.id, job.inputs.model_sha)
    weights = {name: size for name, size in files.items() if name.endswith(".safetensors") and "/" not in name}
    return sum(weights.values()), sum(size for name, size in weights.items() if not _is_cached(job, name))
