"""`publish` of a spec: where the result goes."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from pushtrain.spec.names import CopiesUrl, HubRepo, Part


class Destination(Part):
    """A repository on the Hub."""

    repo: HubRepo
    """Hub repository ORG/NAME; created when missing."""
    private: bool = True
    """Whether a repository that is created is private."""


class Promote(Part):
    """Gates: a result becomes the repository's main revision only when all of them hold."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    eval_loss_below: Annotated[float, Field(gt=0)] | None = None
    """Loss on the held-out rows."""
    rouge_l_above: Annotated[float, Field(ge=0, lt=1)] | None = None
    """seq2seq: ROUGE-L of what is generated for the held-out rows, 0 to 1."""
    reward_accuracy_above: Annotated[float, Field(ge=0, lt=1)] | None = None
    """dpo: share of held-out pairs whose chosen answer gained more than the rejected one."""

    @model_validator(mode="after")
    def _has_a_gate(self) -> "Promote":
        if not self.model_dump(exclude_none=True):
            raise ValueError("needs a gate, e.g. eval_loss_below; without promote every result is promoted")
        return self


class Publish(Destination):
    """Where the adapter goes: to the revision run/RUN-ID, and to main when the gates hold."""

    merge: bool = False
    """True also merges the adapter into the base: the repository then holds a whole model, the adapter in adapter/."""
    merge_base: Literal["trained", "original"] = "trained"
    """qlora: merges onto the 4-bit base it was trained beside, dequantized (trained), or the 16-bit one (original)."""
    hub_strategy: Literal["end", "checkpoint"] = "end"
    """checkpoint: the last one is also kept in branch checkpoint/RUN-ID, for the next attempt on an empty disk."""
    checkpoints: CopiesUrl | None = None
    """s3://BUCKET/PREFIX: the last two are kept there instead; keys PUSHTRAIN_CHECKPOINTS_AWS_…, docs/training.md."""
    promote: Promote | None = None
    """Gates that must hold before the result becomes the main revision; left out: it always does."""

    @model_validator(mode="after")
    def _copies_go_to_one_place(self) -> "Publish":
        if self.checkpoints is not None and self.hub_strategy == "checkpoint":
            raise ValueError("has checkpoints and hub_strategy: checkpoint: copies go to one place, leave one out")
        return self

    @property
    def copies_to(self) -> str:
        """Where checkpoints are copied to while a training goes on, for people; empty: nowhere."""
        if self.checkpoints:
            return f"in {self.checkpoints}"
        return "on the Hub" if self.hub_strategy == "checkpoint" else ""
