"""The whole spec, put together from its parts: what every job has, and what each kind of job adds."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pushtrain.errors import SpecError
from pushtrain.rows import TASK_FORMS, Reading
from pushtrain.run import spec_digest
from pushtrain.spec.command import Command
from pushtrain.spec.compute import MOST_HOURS, Budget, Compute, Limits
from pushtrain.spec.inputs import Data, Model
from pushtrain.spec.names import Part
from pushtrain.spec.publish import Destination, Publish
from pushtrain.spec.recipe import Method, Train
from pushtrain.spec.tasks import LEARNING_RATES, Dpo, Seq2Seq

# Matched with fullmatch: `$` would let a newline through at the end.
NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,40}$")

# A commit of the Hub, which is git's.
_COMMIT = re.compile(r"[0-9a-f]{40}")


class JobSpec(Part):
    """A pushtrain job: desired state, run once per change. Always one of the kinds below; `job_spec` makes it."""

    version: Literal[1]
    """Version of this format."""
    name: Annotated[str, Field(json_schema_extra={"pattern": NAME.pattern})]
    """Equals the file name without .yaml."""
    task: str
    """What is done."""
    compute: Compute
    budget: Budget
    limits: Limits = Limits()
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

    @property
    def watched(self) -> dict[str, float]:
        """`limits` as they are held: what has no steps is held to none between them, and `max_attempts` may be 1."""
        return self.limits.model_dump(mode="json")

    @property
    def silence_s(self) -> float | None:
        """Seconds without a sign of life that count as a hang; None where the control plane's own setting counts."""
        return None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that its pod needs, beside the ledger's token."""
        return ("HF_TOKEN",)

    @property
    def extras(self) -> tuple[str, ...]:
        """What its pod installs beside the trainer's own libraries, as pyproject.toml names it."""
        return ()


# What opens a bucket; a pod gets those that are set where the control plane runs. Names of their own: AWS_… and
# GOOGLE_CREDENTIALS open Pulumi's state there, which no pod may have.
BUCKET_KEYS = {
    "s3": (
        "PUSHTRAIN_DATA_AWS_ACCESS_KEY_ID",
        "PUSHTRAIN_DATA_AWS_SECRET_ACCESS_KEY",
        "PUSHTRAIN_DATA_AWS_SESSION_TOKEN",
        "PUSHTRAIN_DATA_AWS_ENDPOINT_URL",
        "PUSHTRAIN_DATA_AWS_REGION",
    ),
    "gs": ("PUSHTRAIN_DATA_GOOGLE_CREDENTIALS",),
}


class TrainingSpec(JobSpec):
    """A job that trains a model of the Hub."""

    task: Literal["sft", "dpo", "seq2seq"] = "sft"
    """sft: supervised fine-tuning; dpo: preferences between two answers; seq2seq: an encoder-decoder that rewrites."""
    model: Model
    data: Data
    method: Method = Method()
    train: Train = Train()
    dpo: Dpo = Dpo()
    seq2seq: Seq2Seq = Seq2Seq()
    publish: Publish
    track: list[Literal["tensorboard", "wandb", "trackio"]] = []
    """Where figures go besides the ledger. All write beside the checkpoints; wandb with WANDB_API_KEY also online."""
    strict: bool = False
    """True refuses what can mean something else tomorrow: a branch or tag for a revision, an image without digest."""

    @field_validator("strict")
    @classmethod
    def _nothing_floats(cls, strict: bool, info: ValidationInfo) -> bool:
        if strict and (floating := _floating(info.data)):
            raise ValueError(f"is true, but {'; '.join(floating)}")
        return strict

    @model_validator(mode="after")
    def _parallel_suits_the_method(self) -> "TrainingSpec":
        parallel, method = self.train.parallel, self.method
        if parallel is not None and self.compute.count == 1:
            raise ValueError(f"train.parallel {parallel} would do nothing on one GPU: compute.count is 1")
        if parallel in (None, "ddp"):
            return self
        if self.task != "sft" or self.publish.merge:
            raise ValueError(f"train.parallel {parallel} is for task sft without publish.merge: use ddp")
        if method.kind == "qlora":
            raise ValueError(
                f"train.parallel {parallel} divides weights, which 4-bit ones do not bear: ddp, or kind lora"
            )
        if method.takes_from_base:
            raise ValueError(f"train.parallel {parallel} with init_lora_weights {method.init_lora_weights}: use ddp")
        return self

    @model_validator(mode="after")
    def _form_suits_the_task(self) -> "TrainingSpec":
        form, forms = self.data.form, TASK_FORMS[self.task]
        if form is not None and form not in forms:
            raise ValueError(f"data.form: task {self.task} takes {' or '.join(forms)}, not {form}")
        for key in ("completion_only_loss", "assistant_only_loss", "packing", "padding_free"):
            if self.task != "sft" and key in self.train.model_fields_set:
                raise ValueError(f"train.{key} is for task sft, this is {self.task}")
        return self

    @model_validator(mode="after")
    def _no_key_of_another_task(self) -> "TrainingSpec":
        for part in {"dpo", "seq2seq"} - {self.task}:
            if part in self.model_fields_set:
                raise ValueError(f"{part} is for task {part}, this is {self.task}")
        return self

    @model_validator(mode="after")
    def _result_can_be(self) -> "TrainingSpec":
        publish, kind = self.publish, self.method.kind
        if publish.merge and kind == "full":
            raise ValueError("publish.merge: method full has no adapter to merge")
        if "merge_base" in publish.model_fields_set and not (publish.merge and kind == "qlora"):
            raise ValueError("publish.merge_base is for method qlora with publish.merge: true")
        gates = publish.promote.model_dump(exclude_none=True) if publish.promote else {}
        for gate, task in {"rouge_l_above": "seq2seq", "reward_accuracy_above": "dpo"}.items():
            if gate in gates and self.task != task:
                raise ValueError(f"publish.promote.{gate} is for task {task}, this is {self.task}")
        if gates and self.data.eval_fraction == 0 and self.data.eval_split is None:
            raise ValueError("publish.promote needs held-out rows, data.eval_fraction is 0: no gate could hold")
        return self

    @property
    def floating(self) -> list[str]:
        """What of the spec can mean something else tomorrow, in words; the run's lock has what it meant."""
        return _floating({"model": self.model, "data": self.data, "compute": self.compute})

    @property
    def secrets(self) -> tuple[str, ...]:
        tracking = ("WANDB_API_KEY",) if "wandb" in self.track else ()
        return ("HF_TOKEN", *(BUCKET_KEYS[self.data.bucket] if self.data.bucket else ()), *tracking)

    @property
    def extras(self) -> tuple[str, ...]:
        bucket = (self.data.bucket,) if self.data.bucket else ()
        divides = ("deepspeed",) if self.train.parallel == "deepspeed_zero3" else ()
        return (*bucket, *(name for name in self.track if name != "tensorboard"), *divides)

    @model_validator(mode="after")
    def _streams_one_way(self) -> "TrainingSpec":
        if self.data.streaming and self.train.max_steps is None:
            raise ValueError("data.streaming: a stream has no known end, so that train.max_steps is needed")
        if self.data.streaming and (self.task != "sft" or self.compute.count > 1):
            raise ValueError("data.streaming is for task sft on one GPU")
        return self

    @property
    def reading(self) -> Reading:
        """What the spec says about the rows of its dataset."""
        columns = {str(field): column for field, column in self.data.columns.items()}
        passed_over = _pass_over if self.data.bad_rows == "skip" else None
        return Reading(task=self.task, form=self.data.form, columns=columns, skipped=passed_over)

    @property
    def learning_rate(self) -> float:
        """`train.learning_rate`, or the one that suits method and task."""
        return self.train.learning_rate or LEARNING_RATES[self.task, self.method.kind == "full"]

    @model_validator(mode="after")
    def _listens_to_nobody(self) -> "TrainingSpec":
        if self.compute.ports:
            raise ValueError("has compute.ports, but nothing in a training listens: they are for task 'command'")
        return self


class CommandSpec(JobSpec):
    """A job that runs a program of the commit."""

    task: Literal["command"]
    """command: any program of the commit, with the same pod, volume, log and budget."""
    command: Command
    publish: Destination | None = None
    """Where `command.artifacts` go; without it they are hashed, and lost with the volume."""

    @model_validator(mode="after")
    def _no_key_without_effect(self) -> "CommandSpec":
        steps = self.limits.model_fields_set & {"first_step_minutes", "step_gap_minutes"}
        if steps and self.command.progress is None:
            raise ValueError(f"has limits.{min(steps)}, but nothing tells of steps: command.progress.step does")
        if self.publish is not None and not self.command.artifacts:
            raise ValueError("has publish, but command.artifacts names no file to publish")
        return self

    @property
    def silence_s(self) -> float | None:
        return self.command.silence_minutes * 60

    @property
    def secrets(self) -> tuple[str, ...]:
        """To publish needs the Hub's token on the pod; the command itself gets what it names, and nothing else."""
        return tuple(dict.fromkeys([*self.command.secrets, *(["HF_TOKEN"] if self.publish else [])]))

    @property
    def watched(self) -> dict[str, float]:
        # Longer than any deadline, also one that `extend` moved: the deadline alone ends it.
        whole = {name: MOST_HOURS * 60.0 for name in ("first_step_minutes", "step_gap_minutes")}
        once = {} if self.command.restart else {"max_attempts": 1.0}
        return super().watched | (whole if self.command.progress is None else {}) | once


# The kinds of jobs; where `task` is left out it is the first one's.
KINDS: tuple[type[JobSpec], ...] = (TrainingSpec, CommandSpec)


def tasks_of(kind: type[JobSpec]) -> tuple[str, ...]:
    """What `task` may be in a job of this kind."""
    return get_args(kind.model_fields["task"].annotation)


def _pass_over(_bad: SpecError) -> None:
    """Who counts the rows that are skipped puts a counter in its place."""


def kind_of(document: Mapping[str, Any]) -> type[JobSpec]:
    """The kind that `task` names; the first one where it names none."""
    task = document.get("task")
    return next((kind for kind in KINDS if task in tasks_of(kind)), KINDS[0])


def job_spec(document: Mapping[str, Any]) -> JobSpec:
    """Raises pydantic's ValidationError."""
    return kind_of(document).model_validate(document)


def _floating(parts: Mapping[str, Any]) -> list[str]:
    """Of the parts that are valid; each text begins with its key."""
    found = []
    model, data, compute = parts.get("model"), parts.get("data"), parts.get("compute")
    if model is not None and not _COMMIT.fullmatch(model.revision):
        found.append(f"model.revision {model.revision!r} is no commit of 40 digits")
    if data is not None and data.bucket is not None:
        found.append(f"data.source {data.source!r} may hold other bytes tomorrow: only a dataset of the Hub is pinned")
    if data is not None and data.is_on_hub and not _COMMIT.fullmatch(data.revision):
        found.append(f"data.revision {data.revision!r} is no commit of 40 digits")
    if compute is not None and "@sha256:" not in compute.image:
        found.append(f"compute.image {compute.image!r} has no digest, @sha256:…")
    return found
