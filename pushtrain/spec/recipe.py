"""`method` and `train` of a spec: how the weights are changed."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from pushtrain.spec.names import CommitPath, Part, Positive

TemplatePath = Annotated[CommitPath, StringConstraints(pattern=r"\.jinja$")]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
# `*` and `?` as in file names; brackets would need quotes in YAML.
ParameterPattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*?]{1,200}$")]
AdapterInit = Annotated[
    str, StringConstraints(pattern=r"^(default|gaussian|orthogonal|olora|pissa(_niter_[1-9][0-9]?)?)$")
]
INITS = "default, gaussian, orthogonal, olora, pissa or pissa_niter_N"
# What PEFT has besides, and why it is not here.
_OTHER_INITS = dict.fromkeys(("eva", "corda", "lora_ga"), "it passes over the data before the training")
_OTHER_INITS |= {"loftq": "it makes another base, which would have to be published with the adapter"}


Parallel = Literal["ddp", "fsdp2", "deepspeed_zero3"]


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
    exclude_modules: list[ModuleName] = []
    """Module names that get none, of those that target_modules names."""
    layers_to_transform: list[Annotated[int, Field(ge=0)]] = []
    """Numbers of the layers that get adapters, from 0; empty: all of them."""
    modules_to_save: list[ModuleName] = []
    """Modules trained whole beside the adapters and saved with them, e.g. embed_tokens."""
    use_rslora: bool = False
    """True: the adapter counts alpha / √rank, for high ranks (rsLoRA)."""
    use_dora: bool = False
    """True trains magnitude and direction of each weight apart (DoRA): better at low ranks, slower."""
    init_lora_weights: AdapterInit = "default"
    """How adapters begin: default, gaussian, orthogonal, olora, pissa or pissa_niter_N (a fast SVD in N rounds)."""
    trainable_parameters: list[ParameterPattern] = []
    """full only: names of the weights to train, with * and ?, e.g. model.layers.3?.*; empty: every weight."""

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _is_offered(cls, value: object) -> object:
        if (why := _OTHER_INITS.get(str(value))) is not None:
            raise ValueError(f"must be {INITS}: PEFT's {value} is not offered, {why}")
        return value

    @property
    def takes_from_base(self) -> bool:
        """Whether adapters begin as a part of the base, which is taken out of it: PiSSA and OLoRA."""
        return self.kind != "full" and self.init_lora_weights.startswith(("pissa", "olora"))

    @model_validator(mode="after")
    def _keys_that_count(self) -> "Method":
        given = self.model_fields_set - {"kind"}
        if self.kind == "full" and (idle := sorted(given - {"trainable_parameters"})):
            raise ValueError(f"kind full has no adapters: {', '.join(idle)} would do nothing")
        if self.kind != "full" and self.trainable_parameters:
            raise ValueError("trainable_parameters is for kind full; adapters go by target_modules")
        if self.kind == "qlora" and self.takes_from_base:
            raise ValueError(f"init_lora_weights {self.init_lora_weights} takes a part out of a 16-bit base: kind lora")
        if self.use_dora and self.takes_from_base:
            raise ValueError(f"use_dora with {self.init_lora_weights} makes an adapter no plain base could load")
        if self.init_lora_weights == "orthogonal" and self.rank % 2:
            raise ValueError("init_lora_weights orthogonal needs an even rank")
        return self


class Train(Part):
    """Training arguments, under the names of TRL's SFTConfig."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the data."""
    max_steps: Positive | None = None
    """Stops after so many optimizer steps, whatever `epochs` says."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate; left out: sft 2e-4, of full weights 2e-5."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate falls."""
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    """Below 1: a share of all steps; 1 and more: steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    optim: Literal[
        "adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor"
    ] = "adamw_torch_fused"
    """adamw_8bit keeps a quarter of AdamW's state; a paged one may leave the GPU while memory is short."""
    per_device_train_batch_size: Positive = 1
    """Rows in one forward pass on one GPU; halved, with twice the passes, while memory runs out."""
    gradient_accumulation_steps: Positive = 16
    """Forward passes per optimizer step."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 2048
    """Tokens per row; what is longer is cut."""
    packing: bool | None = None
    """True fills each sequence of `max_length` with several rows; left out: where rows are short and many."""
    padding_free: bool | None = None
    """True joins the rows of a batch without padding; left out: where that is right for the model, and fast."""
    chat_template_path: TemplatePath | None = None
    """A .jinja file in the commit that writes conversations, in place of the model's own chat template."""
    completion_only_loss: bool = True
    """True: of a row with a prompt the answer alone carries the loss; false: the prompt, too."""
    assistant_only_loss: bool = True
    """True: of messages the assistant's turns alone carry the loss; false: every token."""
    gradient_checkpointing: bool = True
    """True recomputes activations in the backward pass: less memory, about a third more time."""
    bf16: bool = True
    """True computes in bf16, on GPUs that have it; false in fp32, with twice the memory. A CPU computes in fp32."""
    check_memory: bool = True
    """False starts also where the estimate says that the job cannot fit its GPU."""
    logging_steps: Positive = 1
    """Writes a metrics line every so many steps."""
    save_steps: Positive = 50
    """Writes a checkpoint every so many steps; a lost pod costs at most these."""
    eval_steps: Positive | None = None
    """Evaluates every so many steps; only at the end when left out."""
    early_stopping_patience: Positive | None = None
    """Stops after so many evaluations in a row that were no better, and publishes the best one's weights."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """How much lower the held-out loss has to be to count as better."""
    parallel: Parallel | None = None
    """Several GPUs: ddp, the model whole on each; fsdp2 or deepspeed_zero3, its weights divided; left out: ddp."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 17
    """Seed of the held-out rows, the order of the data, and the adapter's weights."""
    determinism: Literal["seeded", "strict"] = "seeded"
    """strict: kernels that give the same bits each time, slower; seeded: the fast ones."""

    @model_validator(mode="after")
    def _patience_counts_evaluations(self) -> "Train":
        if self.early_stopping_patience is None and "early_stopping_threshold" in self.model_fields_set:
            raise ValueError("early_stopping_threshold is for early_stopping_patience")
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError("early_stopping_patience counts evaluations: it needs eval_steps, how often there is one")
        return self
