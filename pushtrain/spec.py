"""The job spec: the YAML file in jobs/ that says what to train, on what, for at most how much.

Strict: unknown keys, NaN and wrong types are refused. Training keys carry the names of TRL, PEFT and transformers.
Reading a file, with file:line:column in every error, is `pushtrain.spec_file`. The texts under the fields are what
an editor shows (jobs/schema.json) and what an error gives as its hint.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from pushtrain.cloud import Tier
from pushtrain.gpus import USABLE_GPU_NAMES
from pushtrain.run import spec_digest

# Matched with fullmatch: `$` would let a newline through at the end.
NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,40}$")
# Hub ids, revisions and image references reach URLs and git: only characters that mean nothing to a shell, and no "..".
_HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
HubId = Annotated[str, StringConstraints(pattern=rf"^{_HUB_NAME}(/{_HUB_NAME})?$")]
DatasetUrl = Annotated[str, StringConstraints(pattern=rf"^hf://datasets/{_HUB_NAME}(/{_HUB_NAME})?$")]
HubRepo = Annotated[str, StringConstraints(pattern=rf"^{_HUB_NAME}/{_HUB_NAME}$")]
Revision = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$", max_length=100)
]
ImageRef = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9_./:@-]{0,254}$")]
DataCenter = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2,3}-[A-Z]{2,4}-\d+$")]
GpuName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}$"),
    Field(json_schema_extra={"examples": list(USABLE_GPU_NAMES)}),
]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
Positive = Annotated[int, Field(gt=0)]

# RunPod's PyTorch image of August 2026 (their REST v2 OpenAPI example); CUDA 12.8, Ubuntu 24.04, Python and git inside.
DEFAULT_IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"


class Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Model(Part):
    """The base model."""

    id: HubId
    """Hub id of the base model, ORG/NAME."""
    revision: Revision = "main"
    """Branch, tag or commit on the Hub; resolved to a commit when the run starts and recorded."""
    trust_remote_code: bool = False
    """True lets the model's repository run its own Python code on the pod."""


class Data(Part):
    """The dataset: exactly one of `source` (on the Hub) and `path` (in the commit)."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["source"]}]})

    source: DatasetUrl | None = None
    """A dataset on the Hub, hf://datasets/ORG/NAME."""
    path: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"\.jsonl$")] | None = None
    """A .jsonl file in the commit, relative to the repository's root."""
    revision: Revision = "main"
    """Branch, tag or commit of `source`; resolved to a commit when the run starts and recorded."""
    split: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$")] = "train"
    """The split of `source` to train on."""
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the rows held out, chosen by `train.seed`."""

    @field_validator("path")
    @classmethod
    def _stays_in_the_repository(cls, path: str | None) -> str | None:
        if path is not None:
            parts = path.replace("\\", "/").split("/")
            if path.startswith(("/", "~")) or ".." in parts or ":" in parts[0] or not path.isprintable():
                raise ValueError("must be a relative path inside the repository")
        return path

    @model_validator(mode="after")
    def _one_place(self) -> "Data":
        if (self.source is None) == (self.path is None):
            raise ValueError("needs exactly one of 'path' (a file in the commit) and 'source' (hf://datasets/…)")
        return self


class Method(Part):
    """How the weights are changed."""

    kind: Literal["lora", "qlora", "full"] = "lora"
    """lora: adapters on the 16-bit base; qlora: on the 4-bit base; full: every weight."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """LoRA rank (PEFT's `r`)."""
    alpha: Positive = 32
    """LoRA scale: the adapter counts alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """0 by default: dropout keeps one more activation per adapted layer."""
    target_modules: Literal["all-linear"] | Annotated[list[ModuleName], Field(min_length=1)] = "all-linear"
    """Layers that get an adapter: all-linear, or a list of module names."""


class Train(Part):
    """Training arguments, under the names of TRL's SFTConfig."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the data."""
    max_steps: Positive | None = None
    """Stops after so many optimizer steps, whatever `epochs` says."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2.0e-4
    """Peak learning rate; 1e-4 to 2e-4 suits LoRA."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate falls."""
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    """Below 1: a share of all steps; 1 and more: steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    per_device_train_batch_size: Positive = 1
    """Rows in one forward pass on one GPU."""
    gradient_accumulation_steps: Positive = 16
    """Forward passes per optimizer step."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 2048
    """Tokens per row; what is longer is cut."""
    packing: bool = False
    """True fills each sequence of `max_length` with several rows."""
    gradient_checkpointing: bool = True
    """True recomputes activations in the backward pass: less memory, about a third more time."""
    logging_steps: Positive = 1
    """Writes a metrics line every so many steps."""
    save_steps: Positive = 50
    """Writes a checkpoint every so many steps; a lost pod costs at most these."""
    eval_steps: Positive | None = None
    """Evaluates every so many steps; only at the end when left out."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 17
    """Seed of the held-out rows, the order of the data, and the adapter's weights."""


class NetworkVolume(Part):
    """The volume all attempts of a run share; it is deleted with the run. On COMMUNITY, the pod's own disk."""

    size_gb: Annotated[int, Field(ge=10, le=4096)] = 50
    """RunPod takes 10 to 4096. Holds the base model, checkpoints and caches."""


class Compute(Part):
    """What is rented."""

    cloud: Literal["runpod"] = "runpod"
    """Who rents it out."""
    gpus: Annotated[list[GpuName], Field(min_length=1)]
    """GPU type ids in order of preference, e.g. NVIDIA A40."""
    count: Annotated[int, Field(ge=1, le=8)] = 1
    """GPUs in the pod."""
    tiers: Annotated[list[Tier], Field(min_length=1, max_length=2)] = ["SECURE"]
    """In order of preference. COMMUNITY is cheaper and keeps nothing: a lost pod starts again from step 0."""
    data_centers: list[DataCenter] = []
    """Empty: any data center that has network volumes and the GPU. Community machines are in none."""
    image: ImageRef = DEFAULT_IMAGE
    """Container image of the pod."""
    disk_gb: Annotated[int, Field(ge=5, le=2000)] = 40
    """Container disk; holds the environment."""
    volume: NetworkVolume = NetworkVolume()

    @field_validator("tiers")
    @classmethod
    def _each_once(cls, tiers: list[Tier]) -> list[Tier]:
        if len(set(tiers)) < len(tiers):
            raise ValueError("names a tier twice")
        return tiers


class Budget(Part):
    """Hard limits over all attempts of a run; the pod and the control plane each enforce them alone."""

    max_hours: Annotated[float, Field(gt=0, le=720)]
    """Hours a pod may run, all attempts together."""
    max_usd: Annotated[float, Field(gt=0, le=100_000)]
    """US dollars, storage included."""


class Limits(Part):
    """How long the run may stand still; the other limits are the control plane's."""

    placement_hours: Annotated[float, Field(gt=0, le=720)] = 24
    """Hours it may wait for a GPU; a quarter of it once a pod was lost, since the volume is billed meanwhile."""
    first_step_minutes: Annotated[float, Field(gt=0, le=1440)] = 60
    """Minutes from the installed environment to the first step: model, data, compilation."""
    step_gap_minutes: Annotated[float, Field(gt=0, le=1440)] = 30
    """Minutes between two steps."""


class Publish(Part):
    """Where the adapter goes."""

    repo: HubRepo
    """Hub repository ORG/NAME; created when missing."""
    private: bool = True
    """Whether a repository that is created is private."""
    merge: Literal[False] = False
    """Merging the adapter into the base is not offered yet; the key is reserved."""


class JobSpec(Part):
    """A pushtrain job: desired state, run once per change."""

    version: Literal[1]
    """Version of this format."""
    name: Annotated[str, Field(json_schema_extra={"pattern": NAME.pattern})]
    """Equals the file name without .yaml."""
    task: Literal["sft"] = "sft"
    """sft: supervised fine-tuning."""
    model: Model
    data: Data
    method: Method = Method()
    train: Train = Train()
    compute: Compute
    budget: Budget
    limits: Limits = Limits()
    publish: Publish
    track: list[Literal["tensorboard"]] = []
    """Besides the ledger: tensorboard writes event files beside the checkpoints."""
    suspend: bool = False
    """True: no new run, and an active one is cancelled."""

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("must match ^[a-z0-9][a-z0-9-]{0,40}$: it becomes part of refs, pod names and URLs")
        return name

    @property
    def digest(self) -> str:
        """SHA-256 of what the user wrote, without defaults: a new default in pushtrain never starts a run again.

        `suspend` is left out: suspending and resuming is the same run.
        """
        return spec_digest(self.model_dump(mode="json", exclude_unset=True, exclude={"suspend"}))
