"""The run lock: everything a run would have to have again to be the same run, as one attempt found it.

`pushtrain replay` starts a run again from it, and compares two of them field by field (`pushtrain.replay`).
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from pushtrain.pod.tool import tool_folder
from trainer.determinism import CUBLAS_SETTING
from trainer.gpu import Card, cards
from trainer.job import Job, file_sha256, read_json
from trainer.report import write_whole

# What computes, and what decides on the order or the bytes of its input.
LIBRARIES = (
    *("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "deepspeed", "datasets", "pyarrow"),
    *("tokenizers", "safetensors", "numpy", "huggingface-hub", "pushtrain"),
)


def run_lock(job: Job) -> dict[str, Any]:
    """Plain values, two levels deep at most. Needs torch, for what it was built with."""
    spec, on_pod = job.spec, "PUSHTRAIN_RUN_ID" in os.environ
    image = spec.compute.image_in_words if on_pod else None
    return {
        "commit": job.commit,
        "spec": spec.digest,
        "recipe": job.digest,
        "model": {"id": spec.model.id, "revision": spec.model.revision, "commit": job.inputs.model_sha},
        "data": {
            "name": job.dataset_name,
            "revision": spec.data.revision if spec.data.is_on_hub else None,
            "version": job.inputs.data_version,
        },
        "pins": read_json(job.run_dir / "inputs.json"),
        "floating": [text for text in spec.floating if on_pod or not text.startswith("compute.")],
        "uv_lock": _sha256(tool_folder(job.root) / "uv.lock"),
        "image": {"name": image, "digest": image.partition("@")[2] or None if image else None},
        "machine": machine(cards()),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
        "processes": job.processes,
        "parallel": job.parallel,
        "batches": asdict(job.batches),
        "seeds": {"train.seed": spec.train.seed, "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED")},
        "determinism": determinism(spec.train.determinism),
    }


def write_lock(folder: Path, lock: Mapping[str, Any]) -> None:
    write_whole(folder / "lock.json", json.dumps(lock, indent=1) + "\n")


def machine(found: Sequence[Card]) -> dict[str, Any]:
    """Of the GPUs what decides on the kernels that run; of the CPU, too, where there is no GPU."""
    import torch

    here = {
        "gpus": [card.name for card in found],
        "driver": found[0].driver if found else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if found else None,  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    return here if found else {**here, "cpu": _cpu(), "threads": torch.get_num_threads()}


def determinism(asked: str) -> dict[str, Any]:
    """What was asked for, and what torch says of itself."""
    import torch

    return {
        "asked": asked,
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        CUBLAS_SETTING: os.environ.get(CUBLAS_SETTING),
    }


def _sha256(path: Path) -> str | None:
    return file_sha256(path) if path.exists() else None


def _version(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    if not cpuinfo.exists():
        return None
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
