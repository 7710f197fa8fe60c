"""What every kind of job has."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pushtrain.capabilities import CLOUDS, losing
from pushtrain.run import spec_digest
from pushtrain.spec.compute import MOST_HOURS, Budget, Compute, Limits
from pushtrain.spec.names import Part, WrongAt

# Matched with fullmatch: `$` would let a newline through at the end.
NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,40}$")

# What has no steps has limits longer than any deadline, also one that `extend` moved: the deadline alone ends it.
NO_STEPS = {name: MOST_HOURS * 60.0 for name in ("first_step_minutes", "step_gap_minutes")}


class JobSpec(Part):
    """A pushtrain job: desired state, run once per change. Always one of the kinds below `pushtrain.spec`; `job_spec`
    makes it."""

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
            wrong = "must match ^[a-z0-9][a-z0-9-]{0,40}$: it becomes part of refs, pod names and URLs"
            meant = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:41]
            hint = "small letters, digits and hyphens, at most 41" + (f": {meant}" if meant and name.isascii() else "")
            raise WrongAt(wrong, (), hint)
        return name

    @model_validator(mode="after")
    def _goes_on_after_an_interruption(self) -> "JobSpec":
        """A machine that is taken away takes its disk with it."""
        if self.compute.spot is None:
            return self
        clouds, path = self.compute.clouds, ("compute", "spot")
        where = [name for name in clouds if CLOUDS[name].has_spot]
        if not where:
            titles = " or ".join(CLOUDS[name].title for name in clouds)
            some = " or ".join(name for name, can in CLOUDS.items() if can.has_spot)
            hint = f"compute.cloud: {some}, or no compute.spot"
            raise WrongAt(f"is not to be had: no interruptible machines of {titles} are rented", path, hint)
        if losing(where, self.compute.tiers) and not self.copies_to:
            hint = "publish.hub_strategy: checkpoint keeps the last one on the Hub, publish.checkpoints in a bucket"
            raise WrongAt("needs checkpoints that survive the machine, which takes its disk with it", path, hint)
        return self

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
    def copies_to(self) -> str:
        """Where the next attempt finds what it goes on from, though nothing of its machine is left; empty: nowhere."""
        return ""

    @property
    def silence_s(self) -> float | None:
        """Seconds without a sign of life that count as a hang; None where the control plane's own setting counts."""
        return None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that its pod needs, beside the ledger's token."""
        return ("HF_TOKEN",)

    @property
    def computes_in_bf16(self) -> bool:
        """Whether it needs GPUs that have bf16; what a command or a person computes in nobody knows."""
        return False

    @property
    def extras(self) -> tuple[str, ...]:
        """What its pod installs beside the trainer's own libraries, as pyproject.toml names it."""
        return ()
