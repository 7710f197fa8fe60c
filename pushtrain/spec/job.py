"""The whole spec, put together from its parts: what every job has, and what each kind of job adds."""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import ValidationInfo, field_validator, model_validator

from pushtrain.errors import SpecError
from pushtrain.rows import TASK_FORMS, Reading
from pushtrain.spec.base import NO_STEPS, JobSpec
from pushtrain.spec.command import Command
from pushtrain.spec.inputs import Data, Model
from pushtrain.spec.publish import Destination, Publish
from pushtrain.spec.recipe import Method, Train
from pushtrain.spec.session import SessionSpec
from pushtrain.spec.tasks import LEARNING_RATES, Dpo, Seq2Seq

# A commit of the Hub, which is git's.
_COMMIT = re.compile(r"[0-9a-f]{40}")

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
# The same of the bucket that publish.checkpoints names: keys that may write, where those of data need not.
CHECKPOINT_KEYS = tuple(name.replace("PUSHTRAIN_DATA_", "PUSHTRAIN_CHECKPOINTS_") for name in BUCKET_KEYS["s3"])


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
    def _evaluations_have_rows(self) -> "TrainingSpec":
        patience = self.train.early_stopping_patience
        if self.train.eval_steps is not None and self.data.eval_fraction == 0 and self.data.eval_split is None:
            key = "eval_steps" if patience is None else "early_stopping_patience"
            raise ValueError(f"train.{key} needs held-out rows: data.eval_fraction is 0")
        if patience is not None and self.train.parallel not in (None, "ddp"):
            raise ValueError(f"train.early_stopping_patience is not for train.parallel {self.train.parallel}: use ddp")
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
        copies = CHECKPOINT_KEYS if self.publish.checkpoints else ()
        return ("HF_TOKEN", *(BUCKET_KEYS[self.data.bucket] if self.data.bucket else ()), *copies, *tracking)

    @property
    def copies_to(self) -> str:
        return self.publish.copies_to

    @property
    def computes_in_bf16(self) -> bool:
        return self.train.bf16

    @property
    def extras(self) -> tuple[str, ...]:
        bucket = (self.data.bucket,) if self.data.bucket else ()
        divides = ("deepspeed",) if self.train.parallel == "deepspeed_zero3" else ()
        copies = ("volumes",) if self.publish.checkpoints else ()
        return (*bucket, *copies, *(name for name in self.track if name != "tensorboard"), *divides)

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
            raise ValueError(
                "has compute.ports, but nothing in a training listens: they are for task 'command' and 'session'"
            )
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
        once = {} if self.command.restart else {"max_attempts": 1.0}
        return super().watched | (NO_STEPS if self.command.progress is None else {}) | once


# The kinds of jobs; where `task` is left out it is the first one's.
KINDS: tuple[type[JobSpec], ...] = (TrainingSpec, CommandSpec, SessionSpec)


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
    if compute is not None and compute.asked_image is None:
        if compute.template is None:
            found.append(f"compute.cloud {compute.cloud!r} brings {compute.image_in_words}, which has no digest")
        else:
            found.append(
                f"compute.template {compute.template!r} may name another image tomorrow: set compute.image, too"
            )
    elif compute is not None and "@sha256:" not in compute.image:
        found.append(f"compute.image {compute.image!r} has no digest, @sha256:…")
    return found
