"""One attempt: what was asked, where its files are, and exactly which inputs it trains on."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushtrain.run import spec_digest
from pushtrain.spec import TrainingSpec
from trainer.fit.batches import Batches

# Keys of `train` that may change between two attempts: how often something is written.
_NO_INFLUENCE = ("logging_steps", "save_steps", "check_memory")
_RECIPE = {"task", "model", "data", "method", "train"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`model_sha` is a Hub commit; `data_version` is the dataset's Hub commit, or `sha256:…` of the file in git or in a
    bucket; `template_sha256` of the chat template in git, where the spec names one."""

    model_sha: str
    data_version: str
    template_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """`root` is the checkout, `run_dir` the run's folder on the volume, `processes` one a GPU; `commit` is None where
    nobody says from which commit the run is. Without `uploads` the result stays in `run_dir`. `lowered` is what memory
    left of the spec's batches."""

    spec: TrainingSpec
    root: Path
    run_dir: Path
    processes: int
    run_id: str
    commit: str | None
    inputs: Inputs
    uploads: bool = True
    lowered: Batches | None = None

    @property
    def batches(self) -> Batches:
        """How a step is cut into forward passes; no part of the digest, since the samples of a step stay the same."""
        return self.lowered or Batches.of(self.spec.train)

    @property
    def parallel(self) -> str | None:
        """How several processes share the work; None for one alone."""
        return (self.spec.train.parallel or "ddp") if self.processes > 1 else None

    @property
    def is_divided(self) -> bool:
        """Whether no process has the whole model: then what computes with it is everybody's."""
        return self.parallel not in (None, "ddp")

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.run_dir / "adapter"

    @property
    def merged(self) -> Path:
        return self.run_dir / "merged"

    @property
    def start(self) -> Path:
        """The adapter before the first step, kept where it is a part of the base."""
        return self.run_dir / f"start-{self.digest[:12]}.safetensors"

    @property
    def dataset_name(self) -> str:
        """ORG/NAME of a Hub dataset, else the path in git."""
        data = self.spec.data
        return data.place.removeprefix("hf://datasets/")

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything the weights depend on; a checkpoint of another recipe is never resumed."""
        part = {self.spec.task} & {"dpo", "seq2seq"}
        parts = self.spec.model_dump(mode="json", include=_RECIPE | part)
        parts["train"] = {key: value for key, value in parts["train"].items() if key not in _NO_INFLUENCE}
        parts["train"]["learning_rate"] = self.spec.learning_rate
        versions = {"model": self.inputs.model_sha, "data": self.inputs.data_version, "processes": self.processes}
        if self.inputs.template_sha256 is not None:
            versions["template"] = self.inputs.template_sha256
        return {**parts, "inputs": versions}

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe."""
        return spec_digest(self.recipe)


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """This process among those of one training, from 0; 0 when it is alone."""
    return int(environ.get("RANK", "0"))


def replayed(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Of the run that this one repeats: `of`, its id, and `pins`, the revisions it found. Empty for any other run."""
    value = json.loads(environ.get("PUSHTRAIN_REPLAY") or "{}")
    return value if isinstance(value, dict) else {}


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, object]:
    """The object in a file of ours; empty when the file is not there."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return value if isinstance(value, dict) else {}
