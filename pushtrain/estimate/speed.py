"""Tokens per second of a recipe on a card: operations per token, the card's peak, and what share of it is reached.

A matrix product of P weights is 2 P operations a token (arXiv 2001.08361): forward 2 P, backward to the activations 2
P, to the weights another 2 P where they are trained, and 2 P once more where activations are recomputed. So LoRA 4 or
6 P, full fine-tuning 6 or 8 P.
"""

from dataclasses import dataclass

from pushtrain.estimate.cards import card
from pushtrain.estimate.recipe import Recipe
from pushtrain.estimate.shape import ModelShape, Stack

# Share of a card's peak that is reached. By kind: planning values, 35 % of 16-bit LoRA and 1.4 × slower in 4 bits (the
# ratio is 1.28 at torchtune, 1.35 at Qwen, 1.62 at LitGPT). By card where somebody published tokens/s: the median of
# what their rows come to by this formula (benchmarks/published.json, benchmarks/time_error.py).
SHARE = {"lora": 0.35, "qlora": 0.25, "full": 0.40}
MEASURED_SHARE = {
    ("NVIDIA A100-SXM4-80GB", "lora"): 0.47,
    ("NVIDIA A100-SXM4-80GB", "qlora"): 0.34,
    ("NVIDIA H100 80GB HBM3", "lora"): 0.42,
}
# A layer's kernels of one pass forward and back take this long to be started, however small they are: an assumption,
# nobody published it. It counts for small models and short rows only.
LAUNCH_S = 0.004
# A mixture's experts get few tokens each; another half of the speed is lost. An assumption, too.
MIXTURE_SHARE = 0.5
# A narrow model keeps fewer of a card's units busy: the square root of its width over this one. An assumption; the
# published rows are all wider.
FULL_WIDTH = 2048
# What DDP keeps of each further card, sharded training less: an assumption.
PARALLEL_SHARE, SHARDED_SHARE = 0.92, 0.80


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """`tokens_per_s` of all cards together, padding included; `basis` says where the share of the peak is from."""

    tokens_per_s: float
    flops_per_token: float
    share: float
    basis: str


def speed(shape: ModelShape, recipe: Recipe, gpu: str, count: int = 1) -> Speed | None:
    """None for a card whose peak is not known."""
    known = card(gpu)
    if known is None:
        return None
    kind = kind_of(recipe)
    measured = MEASURED_SHARE.get((gpu, kind))
    share = measured or SHARE[kind]
    if shape.expert_parameters:
        share *= MIXTURE_SHARE
    share *= min(1.0, shape.hidden / FULL_WIDTH) ** 0.5
    flops = flops_per_token(shape, recipe)
    tokens = recipe.micro_batch * recipe.length * (2 if recipe.task == "dpo" else 1)
    busy_s = tokens * flops / (known.bf16_tflops * 1e12 * share)
    launch_s = LAUNCH_S * sum(stack.layers for stack in shape.stacks)
    kept = 1 if count == 1 else (SHARDED_SHARE if recipe.shards > 1 else PARALLEL_SHARE)
    basis = (
        "published tokens/s on this card" if measured else "a planning value, for nobody published this card's tokens/s"
    )
    return Speed(
        tokens_per_s=count * kept * tokens / max(busy_s, launch_s), flops_per_token=flops, share=share, basis=basis
    )


def kind_of(recipe: Recipe) -> str:
    """lora, qlora or full."""
    return "full" if recipe.is_full else "qlora" if recipe.bits < 16 else "lora"


def passes(recipe: Recipe) -> float:
    """How often a token's 2 P operations are done; DPO's reference model adds a forward pass."""
    count = 3.0 if recipe.is_full else 2.0
    count += 1.0 if recipe.checkpointing else 0.0
    return count + (1.0 if recipe.task == "dpo" and not recipe.precomputes_reference else 0.0)


def flops_per_token(shape: ModelShape, recipe: Recipe) -> float:
    """Operations for one token of training.

    Of an encoder-decoder, a token is one of the encoder's, and its share of the decoder's is counted with it.
    """
    return 2.0 * passes(recipe) * forward_weights(shape, recipe)


def forward_weights(shape: ModelShape, recipe: Recipe) -> float:
    """Weights one token meets; attention's products count as if they were weights, 2 × width × tokens looked at."""
    answer = (recipe.target_length or recipe.length) / recipe.length
    total = 0.0
    for stack in shape.stacks:
        share = answer if shape.is_encoder_decoder and not stack.is_encoder else 1.0
        total += share * (_layer_weights(stack) + stack.layers * _attention(stack, recipe))
    head = shape.vocabulary * shape.hidden
    return total + head * (answer if shape.is_encoder_decoder else 1.0)


def _layer_weights(stack: Stack) -> float:
    experts = stack.experts.parameters_active if stack.experts else 0
    return stack.linear_parameters + stack.layers * experts


def _attention(stack: Stack, recipe: Recipe) -> float:
    """Scores and their use of one token in one layer, over 2: causal attention looks at half the row, packed at all."""
    seen = recipe.length if stack.is_encoder or recipe.is_packed else recipe.length / 2
    return 2.0 * stack.q_width * seen
