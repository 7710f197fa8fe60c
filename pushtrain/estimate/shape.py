"""A model's shape: what its config.json says about sizes, as far as memory and time depend on it. Pure, no torch.

Layers are named as `method.target_modules` names them, and only what transformers 5.23 builds as a linear layer counts
as one: the experts of a mixture are one 3D parameter a layer there (`MixtralExperts` and its kin), which
bitsandbytes does not quantise.
"""

from dataclasses import dataclass, replace

from pushtrain.errors import PushtrainError


class ShapeUnknown(PushtrainError):
    """A config.json whose sizes this estimate cannot read. Nothing is wrong with the job."""

    reason = "ShapeUnknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """One linear layer of a stack's layer; `name` is the last part of its module name."""

    name: str
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """The experts of one layer: `count` gated feed-forwards of `width`, of which a token meets `chosen`, and a router.

    `takes_adapters`: PEFT 0.21 puts `all-linear` and the old names of their projections on them, as one adapter for
    all experts whose weights it forms anew in every forward pass (`ParamWrapper`).
    """

    count: int
    width: int
    chosen: int
    hidden: int
    takes_adapters: bool

    @property
    def parameters(self) -> int:
        return self.count * (3 * self.hidden * self.width + self.hidden)

    @property
    def parameters_active(self) -> int:
        return self.chosen * 3 * self.hidden * self.width + self.count * self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Router, gate and up fused at twice the rank, down."""
        fused = 2 * rank * self.count * (self.hidden + 2 * self.width)
        down = rank * self.count * (self.width + self.hidden)
        return rank * (self.hidden + self.count) + fused + down


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Equal layers one after another.

    `q_width` and `kv_width` are heads × head size; `ffn_width` is that of the feed-forward every token meets (of a
    mixture its shared expert's; 0 without one), `is_gated` whether it has a gate; `norms` are the normalisations over
    the hidden width in one layer. `has_composed_gelu`: the activation is written as several operations.
    """

    layers: int
    linears: tuple[Linear, ...]
    q_width: int
    kv_width: int
    ffn_width: int
    is_gated: bool = True
    norms: int = 2
    has_qk_norm: bool = False
    has_composed_gelu: bool = False
    experts: Experts | None = None
    is_encoder: bool = False
    has_cross_attention: bool = False

    @property
    def linear_parameters(self) -> int:
        return self.layers * sum(linear.parameters for linear in self.linears)

    @property
    def expert_parameters(self) -> int:
        return self.layers * self.experts.parameters if self.experts else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """Sizes of a decoder, or of an encoder and a decoder (`stacks` in the order a token meets them).

    `stored_bits` are those of a linear weight in the checkpoint on the Hub: 16, or less where it is quantised already.
    `has_eager_attention`: the family's attention holds the scores of every pair of tokens (no sdpa in transformers
    5.23). `extra_parameters` lie in no layer named here (norms, biases, positions, a vision tower). `note` says what
    was assumed.
    """

    model_type: str
    hidden: int
    vocabulary: int
    is_tied: bool
    stacks: tuple[Stack, ...]
    heads: int
    max_length: int | None = None
    stored_bits: int = 16
    has_eager_attention: bool = False
    extra_parameters: int = 0
    note: str = ""

    @property
    def is_encoder_decoder(self) -> bool:
        return any(stack.is_encoder for stack in self.stacks)

    @property
    def adapts_experts(self) -> bool:
        """Whether PEFT treats this model as a mixture: `all-linear` then means attention, router and experts."""
        return any(stack.experts is not None and stack.experts.takes_adapters for stack in self.stacks)

    @property
    def linear_parameters(self) -> int:
        return sum(stack.linear_parameters for stack in self.stacks)

    @property
    def expert_parameters(self) -> int:
        return sum(stack.expert_parameters for stack in self.stacks)

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.is_tied else 2)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.expert_parameters + self.embedding_parameters + self.extra_parameters

    @property
    def active_parameters(self) -> int:
        """Those a token is multiplied with: every linear layer, its experts, the head; not the embedding's lookup."""
        experts = sum(stack.layers * stack.experts.parameters_active for stack in self.stacks if stack.experts)
        return self.linear_parameters + experts + self.vocabulary * self.hidden

    @property
    def largest_linear(self) -> int:
        """Parameters of the largest linear layer."""
        return max((linear.parameters for stack in self.stacks for linear in stack.linears), default=0)

    def with_total(self, parameters: int) -> "ModelShape":
        """The shape with what the Hub counts beyond it as `extra_parameters`: a vision tower, say.

        A count that is lower says nothing: a quantised checkpoint packs several weights into one.
        """
        missing = parameters - self.parameters
        return replace(self, extra_parameters=self.extra_parameters + missing) if missing > 0 else self
