"""`method` and `train` of a spec: how the weights are changed."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pushtrain.spec.names import Part, Positive

ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,200}$")]


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
