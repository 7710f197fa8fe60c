"""The whole spec, put together from its parts."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pushtrain.run import spec_digest
from pushtrain.spec.compute import Budget, Compute, Limits
from pushtrain.spec.inputs import Data, Model
from pushtrain.spec.names import Part
from pushtrain.spec.publish import Publish
from pushtrain.spec.recipe import Method, Train

# Matched with fullmatch: `$` would let a newline through at the end.
NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,40}$")


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
