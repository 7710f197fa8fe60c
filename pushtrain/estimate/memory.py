"""Peak GPU memory of a training step, by term, from a model's shape and a recipe. Pure, microseconds, no torch.

The closed form is that of a decoder in bf16 autocast under PyTorch's sdpa, held to a dry run of the real step (20 cases
from 3B to 14B: 0 to 4 % above it), to published peaks, and to the tensors of small models on a CPU;
`benchmarks/memory_error.py` prints each error. An encoder-decoder is estimated roughly: what dropout and T5's bias keep
on a GPU was not measured.
Sizes: L layers, H hidden, q and kv the widths of queries and of keys or values, I the feed-forward, V the vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

from pushtrain.estimate.activations import activations
from pushtrain.estimate.recipe import Recipe, trained_parameters
from pushtrain.estimate.shape import ModelShape

GIB = 2**30
# Bytes of one weight: bf16; LLM.int8; NF4 in blocks of 64 with an fp32 scale each, and with that scale quantised to 8
# bits in blocks of 256, too (QLoRA, arXiv 2305.14314, section 3; measured on bitsandbytes 0.50: 0.5625 and 0.5159).
BF16_BYTES, INT8_BYTES, NF4_BYTES, NF4_DOUBLE_BYTES = 2.0, 1.0, 0.5625, 0.5159
# Adam's two moments for one weight: fp32 (EleutherAI, Transformer Math 101: 12 bytes with the fp32 weight), or 8 bits
# each (arXiv 2110.02861).
# Adafactor keeps a row and a column for each matrix (arXiv 1804.04235).
ADAM_BYTES, ADAM_8BIT_BYTES, ADAFACTOR_BYTES = 8.0, 2.0, 0.01
# From the closed form to a card: context of CUDA and cuBLAS, and what the allocator cannot use again. 1.2 × and 1.5 GiB
# cover all 15 of Qwen's published peaks read as GB; 1.05 × and 0.8 GiB are below all of them read as GiB, and up to 6 %
# above nine of them read as GB.
NEED_FACTOR, NEED_CONTEXT = 1.2, 1.5 * GIB
FLOOR_FACTOR, FLOOR_CONTEXT = 1.05, 0.8 * GIB

Verdict = Literal["fits", "tight", "too large"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes on one GPU at the peak of a step, without context: the closed form is their sum.

    `need_gb` is what a card should have, `floor_gb` what it must; GB as cards are sold, 2^30 bytes. `paged` of the
    optimizer's bytes can go to the host's memory, so the floor is without them.
    """

    weights: float
    adapter: float
    optimizer: float
    gradients: float
    activations: float
    logits: float
    reference: float = 0.0
    paged: float = 0.0

    @property
    def closed_bytes(self) -> float:
        named = (self.weights, self.adapter, self.optimizer, self.gradients, self.activations, self.logits)
        return sum(named) + self.reference

    @property
    def need_bytes(self) -> float:
        return NEED_FACTOR * self.closed_bytes + NEED_CONTEXT

    @property
    def floor_bytes(self) -> float:
        return FLOOR_FACTOR * (self.closed_bytes - self.paged) + FLOOR_CONTEXT

    @property
    def need_gb(self) -> float:
        return self.need_bytes / GIB

    @property
    def floor_gb(self) -> float:
        return self.floor_bytes / GIB

    @property
    def terms_gb(self) -> dict[str, float]:
        """For people: every term, and as `context` what `need_gb` has beyond them."""
        terms = {
            "weights": self.weights,
            "reference": self.reference,
            "adapter": self.adapter,
            "optimizer": self.optimizer,
            "gradients": self.gradients,
            "activations": self.activations,
            "logits": self.logits,
            "context": self.need_bytes - self.closed_bytes,
        }
        return {name: size / GIB for name, size in terms.items() if size or name != "reference"}

    def verdict(self, memory_bytes: float) -> Verdict:
        """`tight` may run and may not: the estimate cannot tell."""
        if self.need_bytes <= memory_bytes:
            return "fits"
        return "tight" if self.floor_bytes <= memory_bytes else "too large"


def memory(shape: ModelShape, recipe: Recipe) -> MemoryEstimate:
    """The estimate for one GPU. `length` is cut at nothing: rows that are shorter need less."""
    trained = trained_parameters(shape, recipe)
    state_bytes = 4.0 if recipe.is_full else 0.0
    weights = (state_bytes * shape.parameters if recipe.is_full else _frozen_bytes(shape, recipe)) / recipe.shards
    optimizer = trained * _moment_bytes(recipe.optimizer) / recipe.shards
    # Of activations in bf16 at most twice as much; some are fp32 in either case.
    kept, logits = ((1 + recipe.is_fp32) * size for size in activations(shape, recipe))
    return MemoryEstimate(
        weights=weights + (0.0 if recipe.is_full else _scratch_bytes(shape, recipe)),
        adapter=0.0 if recipe.is_full else 4.0 * trained / recipe.shards,
        optimizer=optimizer,
        gradients=4.0 * trained / recipe.shards,
        activations=kept + (_autocast_bytes(shape, recipe) if recipe.is_full else 0.0),
        logits=logits,
        reference=_reference_bytes(shape, recipe),
        paged=optimizer if recipe.optimizer.startswith("paged") else 0.0,
    )


def _moment_bytes(optimizer: str) -> float:
    if optimizer == "adafactor":
        return ADAFACTOR_BYTES
    return ADAM_8BIT_BYTES if "8bit" in optimizer else ADAM_BYTES


def _frozen_bytes(shape: ModelShape, recipe: Recipe) -> float:
    """The base as it is loaded: linear layers in `bits`, everything else in bf16, a mixture's experts included."""
    bits = min(recipe.bits, shape.stored_bits)
    linear = whole = _whole_bytes(recipe)
    if bits <= 4:
        linear = NF4_DOUBLE_BYTES if recipe.is_double_quantised else NF4_BYTES
    elif bits <= 8:
        linear = INT8_BYTES
    others = shape.parameters - shape.linear_parameters
    return linear * shape.linear_parameters + whole * others


def _whole_bytes(recipe: Recipe) -> float:
    """Of a weight that is not quantised."""
    return (1 + recipe.is_fp32) * BF16_BYTES


def _scratch_bytes(shape: ModelShape, recipe: Recipe) -> float:
    """A quantised layer is unpacked to bf16 while it is used; DoRA forms a layer's weight to measure its columns."""
    is_packed = min(recipe.bits, shape.stored_bits) < 16
    return _whole_bytes(recipe) * shape.largest_linear * (is_packed + 4 * recipe.is_dora)


def _autocast_bytes(shape: ModelShape, recipe: Recipe) -> float:
    """bf16 copies of the fp32 weights of linear layers, which autocast keeps for the length of a forward pass."""
    if recipe.is_fp32:
        return 0.0
    return BF16_BYTES * (shape.linear_parameters + shape.vocabulary * shape.hidden) / recipe.shards


def _reference_bytes(shape: ModelShape, recipe: Recipe) -> float:
    """DPO's reference model: with adapters the same weights without them, otherwise a second copy in bf16."""
    if recipe.task != "dpo" or not recipe.is_full or recipe.precomputes_reference:
        return 0.0
    return _whole_bytes(recipe) * shape.parameters / recipe.shards
