"""The job spec: the YAML file in jobs/ that says what to train, on what, for at most how much.

Strict: unknown keys, NaN and wrong types are refused. Training keys carry the names of TRL, PEFT and transformers.
Reading a file, with file:line:column in every error, is `pushtrain.spec_file`.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from pushtrain.run import spec_digest

NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,40}$")
# Hub ids, revisions and image references reach URLs and git: only characters that mean nothing to a shell.
HubId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,95})?$")]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,99}$")]
ImageRef = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9_./:@-]{0,254}$")]
DataCenter = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2,3}-[A-Z]{2,4}-\d+$")]
Positive = Annotated[int, Field(gt=0)]

# RunPod's PyTorch image of August 2026 (their REST v2 OpenAPI example); CUDA 12.8, Ubuntu 24.04, Python and git inside.
DEFAULT_IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Model(Part):
    id: HubId
    """Hub id of the base model."""
    revision: Revision = "main"
    """Branch, tag or commit on the Hub; resolved to a commit when the run starts and recorded."""
    trust_remote_code: bool = False


class Data(Part):
    source: Annotated[str, StringConstraints(pattern=r"^hf://datasets/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?$")] | None = None
    """`hf://datasets/ORG/NAME`; exactly one of source and path."""
    path: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None
    """A .jsonl file in the commit, relative to the repository's root."""
    revision: Revision = "main"
    split: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,60}$")] = "train"
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the rows held out, chosen by `train.seed`."""

    @field_validator("path")
    @classmethod
    def _stays_in_the_repository(cls, path: str | None) -> str | None:
        if path is not None:
            parts = path.replace("\\", "/").split("/")
            if path.startswith(("/", "~")) or ".." in parts or ":" in parts[0] or "\x00" in path:
                raise ValueError("must be a relative path inside the repository")
        return path

    @model_validator(mode="after")
    def _one_place(self) -> "Data":
        if (self.source is None) == (self.path is None):
            raise ValueError("needs exactly one of 'path' (a file in the commit) and 'source' (hf://datasets/…)")
        return self


class Method(Part):
    kind: Literal["lora", "qlora", "full"] = "lora"
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """0 by default: dropout keeps one more activation per adapted layer."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"


class Train(Part):
    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: Positive | None = None
    """Stops after so many optimizer steps, whatever `epochs` says."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2.0e-4
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    """Below 1: a share of all steps; 1 and more: steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    per_device_train_batch_size: Positive = 1
    gradient_accumulation_steps: Positive = 16
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 2048
    packing: bool = False
    gradient_checkpointing: bool = True
    logging_steps: Positive = 1
    save_steps: Positive = 50
    eval_steps: Positive | None = None
    """Evaluates every so many steps; only at the end when left out."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 17


class NetworkVolume(Part):
    size_gb: Annotated[int, Field(ge=10, le=4096)] = 50
    """RunPod takes 10 to 4096."""


class Compute(Part):
    cloud: Literal["runpod"] = "runpod"
    gpus: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=80)]], Field(min_length=1)]
    """GPU type ids in order of preference, e.g. `NVIDIA A40`."""
    count: Annotated[int, Field(ge=1, le=8)] = 1
    data_centers: list[DataCenter] = []
    """Empty: any data center that has network volumes and the GPU."""
    image: ImageRef = DEFAULT_IMAGE
    disk_gb: Annotated[int, Field(ge=5, le=2000)] = 40
    """Container disk; holds the environment."""
    volume: NetworkVolume = NetworkVolume()


class Budget(Part):
    max_hours: Annotated[float, Field(gt=0, le=720)]
    max_usd: Annotated[float, Field(gt=0, le=100_000)]


class Publish(Part):
    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$")]
    """Hub repository ORG/NAME; created when missing."""
    private: bool = True
    merge: Literal[False] = False
    """Merging the adapter into the base is not offered yet; the key is reserved."""


class JobSpec(Part):
    version: Literal[1]
    name: str
    """Equals the file name without .yaml."""
    task: Literal["sft"] = "sft"
    model: Model
    data: Data
    method: Method = Method()
    train: Train = Train()
    compute: Compute
    budget: Budget
    publish: Publish
    track: list[Literal["tensorboard"]] = []
    suspend: bool = False
    """True: no new run, and an active one is cancelled."""

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME.match(name):
            raise ValueError("must match ^[a-z0-9][a-z0-9-]{0,40}$: it becomes part of refs, pod names and URLs")
        return name

    @property
    def digest(self) -> str:
        """SHA-256 of what the user wrote, without defaults: a new default in pushtrain never starts a run again.

        `suspend` is left out: suspending and resuming is the same run.
        """
        return spec_digest(self.model_dump(mode="json", exclude_unset=True, exclude={"suspend"}))
