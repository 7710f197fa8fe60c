"""What single tasks add to a spec: `dpo` and `seq2seq`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from pushtrain.spec.names import Part

# Of DPOTrainer's losses those that need nothing but pairs.
DpoLoss = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard",
    "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft",
]  # fmt: skip


class Dpo(Part):
    """Direct preference optimization, under the names of TRL's DPOConfig."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How much it costs to move away from the base: higher stays nearer."""
    loss_type: Annotated[list[DpoLoss], Field(min_length=1)] = ["sigmoid"]
    """One loss or several that are added: [sigmoid], [ipo], [sigmoid, sft]…"""
    loss_weights: list[Annotated[float, Field(ge=0)]] = []
    """What each loss counts in the sum; empty: 1 each."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs that are taken for swapped; exo_pair needs one, e.g. 1e-3."""
    precompute_ref_log_probs: bool = False
    """True asks the reference once, before training: for full it need not stay in memory then."""

    @model_validator(mode="after")
    def _losses_fit(self) -> "Dpo":
        if self.loss_weights and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(f"loss_weights has {len(self.loss_weights)} numbers for {len(self.loss_type)} losses")
        smoothed = {"exo_pair", "robust", "aot", "aot_unpaired"} & set(self.loss_type)
        if self.label_smoothing and not smoothed:
            raise ValueError("label_smoothing does nothing but in exo_pair, robust, aot and aot_unpaired")
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            raise ValueError("loss_type exo_pair needs label_smoothing, e.g. 1e-3")
        return self


class Seq2Seq(Part):
    """Encoder and decoder: a text to read, a text to write. Names of transformers' summarization example."""

    source_prefix: Annotated[str, StringConstraints(max_length=200)] = ""
    """Put before each source; T5 wants "summarize: "."""
    max_target_length: Annotated[int, Field(ge=4, le=16_384)] = 128
    """Tokens of a target, and of what is generated; what is longer is cut. `train.max_length` is for sources."""
    num_beams: Annotated[int, Field(ge=1, le=16)] = 1
    """Beams when evaluating; more is slower and reads better."""


# By task, and whether it is full fine-tuning: from TRL's documentation and its dpo script, for encoder-decoders from
# the page on T5 of transformers and PEFT's example of LoRA on one.
LEARNING_RATES: dict[tuple[str, bool], float] = {
    ("sft", False): 2e-4,
    ("sft", True): 2e-5,
    ("dpo", False): 5e-6,
    ("dpo", True): 5e-7,
    ("seq2seq", False): 1e-3,
    ("seq2seq", True): 1e-4,
}
