"""Bytes of activations at the peak of a step: what the layers keep, what the head adds. Pure; see `memory.py`."""

from pushtrain.estimate.recipe import Recipe, adapted, adapted_experts
from pushtrain.estimate.shape import ModelShape, Stack

# What a layer's recomputation holds beside what it keeps, fitted to the dry run.
RECOMPUTED = 1.55
# Built logits of one token and word: bf16, fp32, and their fp32 gradient and softmax (transformers ≥ 5; older ones hold
# 16 to 18). TRL 1.16 computes the loss of sft and dpo without them, in one bf16 tile (`kernels/chunked_logprob.py`),
# and gathers the gradient of the head's input in fp32.
LOGIT_BYTES = 12.0
TILE_TOKENS, TILE_WORDS, TILE_BYTES = 4096, 32768, 2.0


def activations(shape: ModelShape, recipe: Recipe) -> tuple[float, float]:
    """Bytes of activations, and of what the head adds at the peak.

    With checkpointing each layer's input is kept, and one layer is recomputed when the head is over: the larger of
    the two counts. Without, every layer keeps what its backward pass reads.
    """
    residual = 4.0 if recipe.is_full else 2.0
    inputs = everything = largest = 0.0
    for stack in shape.stacks:
        tokens = _tokens(stack, recipe)
        kept = tokens * _kept_bytes(stack, shape, recipe)
        merged, recomputed = _merged_expert_bytes(stack, recipe)
        scores = _score_bytes(shape, recipe)
        kept, recomputed = kept + scores, recomputed - 0.3 * scores
        inputs += stack.layers * tokens * residual * shape.hidden
        everything += stack.layers * (kept + merged)
        largest = max(largest, RECOMPUTED * kept + recomputed if recipe.checkpointing else 0.5 * kept + recomputed)
    head, masks = _head_bytes(shape, recipe), _mask_bytes(shape, recipe)
    if recipe.checkpointing:
        return inputs + masks + max(largest - head, 0.0), head
    return everything + masks + largest, head


def _tokens(stack: Stack, recipe: Recipe) -> int:
    """In one forward pass: DPO's has the chosen and the rejected answer; an encoder and a decoder have their own."""
    if recipe.task == "seq2seq" and not stack.is_encoder:
        return recipe.micro_batch * (recipe.target_length or recipe.length)
    return recipe.micro_batch * recipe.length * (2 if recipe.task == "dpo" else 1)


def _kept_bytes(stack: Stack, shape: ModelShape, recipe: Recipe) -> float:
    """Bytes that one layer keeps of one token for its backward pass, by what keeps them.

    RMSNorm in fp32: its input, and where its weight is trained the normalised value, too. Attention: queries, keys,
    values, output in bf16. Feed-forward: gate, its activation, up and their product in bf16. An adapted layer: its
    input cast to bf16 once more, with dropout the dropped input in fp32 and its mask, with DoRA both its results.
    For a Llama with LoRA everywhere this is 10 I + 24 H + 4 kv.
    """
    norm = 8.0 if recipe.is_full else 4.0
    kept = norm * stack.norms * shape.hidden
    attentions = 2 if stack.has_cross_attention else 1
    kept += attentions * 4.0 * (stack.q_width + stack.kv_width)
    if stack.has_qk_norm:
        kept += norm * (stack.q_width + stack.kv_width)
    kept += (8.0 if stack.is_gated else 4.0) * stack.ffn_width
    if stack.has_composed_gelu:
        kept += 16.0 * stack.ffn_width
    if recipe.is_full:
        kept += sum(2.0 * linear.inputs for linear in stack.linears if linear.inputs == shape.hidden)
    if stack.experts is not None:
        # Grouped products know no autocast: they compute in the weights' type, which is fp32 in full fine-tuning.
        width = 2.0 if recipe.is_full else 1.0
        kept += width * stack.experts.chosen * (8.0 * stack.experts.width + 4.0 * shape.hidden)
    dropped, results = 5.0 if recipe.dropout else 0.0, 4.0 if recipe.is_dora else 0.0
    linears = adapted(stack, shape, recipe)
    return kept + sum((2.0 + dropped) * linear.inputs + results * linear.outputs for linear in linears)


def _merged_expert_bytes(stack: Stack, recipe: Recipe) -> tuple[float, float]:
    """Of one layer's adapted experts: the merged weights that stay until its backward pass, and what that adds.

    PEFT forms base + adapter whole; its gradient is as large again (3 bytes a weight together, measured).
    """
    experts = adapted_experts(stack, recipe)
    return (0.0, 0.0) if experts is None else (2.0 * experts.parameters, 3.0 * experts.parameters)


def _head_bytes(shape: ModelShape, recipe: Recipe) -> float:
    decoder = shape.stacks[-1]
    tokens = _tokens(decoder, recipe)
    weight_gradient = 4.0 * shape.vocabulary * shape.hidden if recipe.is_full else 0.0
    if recipe.builds_logits or recipe.task == "seq2seq":
        return LOGIT_BYTES * shape.vocabulary * tokens + weight_gradient
    tile = min(tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_WORDS) * TILE_BYTES
    return tile + 4.0 * tokens * shape.hidden + weight_gradient


def _score_bytes(shape: ModelShape, recipe: Recipe) -> float:
    """Scores of one layer without sdpa, for each pair of tokens and head: bf16, fp32 softmax, bf16 again (8 bytes kept
    and a quarter more while a layer is recomputed, measured)."""
    if not shape.has_eager_attention:
        return 0.0
    rows = recipe.micro_batch * (2 if recipe.task == "dpo" else 1)
    pairs = float(rows * recipe.length) ** 2 if recipe.is_packed else rows * float(recipe.length) ** 2
    return 8.0 * shape.heads * pairs


def _mask_bytes(shape: ModelShape, recipe: Recipe) -> float:
    """sdpa's mask where there is one: rows packed or padded; a boolean and what is added to the scores in bf16.

    Packed rows stand in one sequence (TRL's padding-free batches). T5 adds a bias for each head instead.
    """
    rows = recipe.micro_batch * (2 if recipe.task == "dpo" else 1)
    if shape.is_encoder_decoder and shape.model_type in ("t5", "mt5", "umt5"):
        return 6.0 * shape.heads * float(recipe.length) ** 2
    if recipe.is_packed:
        return 3.0 * (rows * float(recipe.length)) ** 2
    return 3.0 * rows * float(recipe.length) ** 2 if rows > 1 else 0.0
