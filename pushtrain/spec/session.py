"""`session` of a spec: a pod to work on by hand, when it ends by itself, and where its work goes."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from pushtrain.capabilities import CLOUDS
from pushtrain.spec.base import NO_STEPS, JobSpec
from pushtrain.spec.command import Secret, Word
from pushtrain.spec.names import Part


def _a_branch(name: str) -> str:
    """What git takes for a part of a ref (git-check-ref-format), beyond the characters."""
    if ".." in name or name.endswith(".lock"):
        raise ValueError("is no name of a branch: no '..' in it, and no '.lock' at its end")
    return name


# What a session that is cancelled has to push its branch back before its pod is taken away.
CLOSING_MINUTES = 3.0

# Pushed as session/NAME: the token of a pod writes nothing but claims/, runs/ and session/.
BranchName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?$"), AfterValidator(_a_branch)
]


class Session(Part):
    """A pod for development: tmux, TensorBoard and nvitop on it, the commit on a branch that is pushed back."""

    idle_minutes: Annotated[float, Field(gt=0, le=1440)] = 30
    """It ends after so many minutes without an ssh connection, GPU use or a running command in its tmux."""
    branch: BranchName | None = None
    """Its work is pushed to session/NAME of the ledger's repository; left out, to session/RUN-ID."""
    start: Annotated[list[Word], Field(min_length=1, max_length=200)] | None = None
    """Program and arguments for its first tmux window. The session stays open when it ends."""
    autosave_minutes: Annotated[float, Field(gt=0, le=1440)] = 10
    """Every so often commits and uncommitted work are pushed to that branch, too."""
    tensorboard: bool = True
    """TensorBoard on port 6006 of the pod, over the folder PUSHTRAIN_RUN_DIR."""
    secrets: list[Secret] = []
    """Secrets of the control plane that its shells get as variables, by name: HF_TOKEN, WANDB_API_KEY."""


class SessionSpec(JobSpec):
    """A job that is a person at work on the pod."""

    task: Literal["session"]
    """session: a pod to work on by hand, with the same volume, budget and receipt; it ends when it is idle."""
    session: Session = Session()

    @model_validator(mode="after")
    def _no_key_without_effect(self) -> "SessionSpec":
        if steps := self.limits.model_fields_set - {"placement_hours"}:
            raise ValueError(f"has limits.{min(steps)}, but a session has no steps: session.idle_minutes ends it")
        if shut := [CLOUDS[name].title for name in self.compute.clouds if not CLOUDS[name].has_tcp_ports]:
            raise ValueError(f"is a session, and nobody can log in at {' and '.join(shut)}: name other clouds")
        return self

    @property
    def silence_s(self) -> float | None:
        """It gives a sign every five minutes while nothing happens on it; without one whoever looks after it hangs."""
        return 1800.0

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(self.session.secrets)

    @property
    def extras(self) -> tuple[str, ...]:
        return ("session",)

    @property
    def watched(self) -> dict[str, float]:
        return super().watched | NO_STEPS | {"closing_minutes": CLOSING_MINUTES}
