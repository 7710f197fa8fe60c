"""config.json to a ModelShape: the families that are fine-tuned, by the keys transformers writes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pushtrain.estimate.shape import Experts, Linear, ModelShape, ShapeUnknown, Stack

# Families whose classes tie the embeddings when config.json does not say so (transformers 5.23, configuration_*.py).
_TIED = {"bart", "bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "mbart"}
_TIED |= {"mt5", "opt", "pegasus", "smollm3", "starcoder2", "t5"}
# Without a gate in the feed-forward, with the names of its two layers and of the attention's.
_PLAIN: dict[str, tuple[tuple[str, ...], tuple[str, str]]] = {
    "bloom": (("query_key_value", "dense"), ("dense_h_to_4h", "dense_4h_to_h")),
    "falcon": (("query_key_value", "dense"), ("dense_h_to_4h", "dense_4h_to_h")),
    "gpt2": (("c_attn", "c_proj"), ("c_fc", "c_proj")),
    "gpt_neox": (("query_key_value", "dense"), ("dense_h_to_4h", "dense_4h_to_h")),
    "opt": (("q_proj", "k_proj", "v_proj", "out_proj"), ("fc1", "fc2")),
    "phi": (("q_proj", "k_proj", "v_proj", "dense"), ("fc1", "fc2")),
    "starcoder2": (("q_proj", "k_proj", "v_proj", "o_proj"), ("c_fc", "c_proj")),
}
_FUSED = {"phi3": (("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj"))}
_KNOWN_LLAMAS = {"cohere", "cohere2", "gemma", "gemma2", "gemma3", "gemma3_text", "glm4", "granite", "llama", "mistral"}
_KNOWN_LLAMAS |= {"olmo", "olmo2", "olmo3", "qwen2", "qwen3", "smollm3", "stablelm", "mistral3", "ministral"}
# Mixtures whose experts PEFT 0.21 adapts (`_MOE_TARGET_MODULE_MAPPING`), and others.
_ADAPTED_MIXTURES = {"deepseek_v2", "deepseek_v3", "glm4_moe", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe"}
_KNOWN_MIXTURES = _ADAPTED_MIXTURES | {"gpt_oss", "granitemoe"}
_FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text", "glm4"}
_QK_NORM = {"gemma3", "gemma3_text", "olmo2", "olmo3", "olmoe", "qwen3", "qwen3_moe"}
_SEQ2SEQ = {"bart", "marian", "mbart", "mt5", "pegasus", "t5", "umt5"}
# Without `_supports_sdpa` in transformers 5.23.
_EAGER = {"bloom", "gemma2", "gpt_oss"}
# Activations that transformers writes as several operations, each of which keeps its own tensors.
_COMPOSED = ("gelu_new", "gelu_fast", "quick_gelu")
# Layers that are no attention: their memory is another formula.
_OTHER_LAYERS = ("linear_attention", "mamba", "recurrent", "conv")


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape a config.json describes; of a model of several modalities that of its text part, said in `note`.

    A family that is not known here and has a Llama's keys is taken for one, and `note` says so. Raises ShapeUnknown.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        outer = {key: config[key] for key in ("tie_word_embeddings", "quantization_config") if key in config}
        inner = {**text, **{key: value for key, value in outer.items() if key not in text}}
        return _noted(shape_of(inner), "text part of a model with other modalities")
    family = str(config.get("model_type", ""))
    kinds = config.get("layer_types") or config.get("layers_block_type") or ()
    if any(other in str(kind) for kind in kinds for other in _OTHER_LAYERS) or "hybrid_override_pattern" in config:
        raise ShapeUnknown(f"model_type {family!r}: layers that are neither attention nor feed-forward")
    if family in _SEQ2SEQ:
        return _t5(config) if "d_kv" in config else _bart(family, config)
    if config.get("is_encoder_decoder"):
        raise ShapeUnknown(f"model_type {family!r}: an encoder-decoder that is not known")
    return _decoder(family, config)


def _decoder(family: str, config: Mapping[str, Any]) -> ModelShape:
    hidden = _size(config, "hidden_size", "n_embd", "d_model")
    layers = _size(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _size(config, "num_attention_heads", "n_head")
    attention = _attention(family, config, hidden, heads)
    _, q_width, kv_width = attention
    stacks = _feed_forwards(family, config, hidden, layers, attention)
    vocabulary = _size(config, "vocab_size")
    positions = _maybe(config, "max_position_embeddings", "n_positions")
    learned = hidden * (positions or 0) if family in ("gpt2", "opt") else 0
    biases = layers * (q_width + 2 * kv_width) if family == "qwen2" or config.get("attention_bias") else 0
    known = family in _PLAIN or family in _FUSED or family in _KNOWN_LLAMAS or family in _KNOWN_MIXTURES
    return ModelShape(
        model_type=family,
        hidden=hidden,
        vocabulary=vocabulary,
        is_tied=bool(config.get("tie_word_embeddings", family in _TIED)),
        stacks=stacks,
        max_length=positions,
        stored_bits=stored_bits(config),
        has_eager_attention=family in _EAGER,
        extra_parameters=hidden + sum(stack.layers * stack.norms * hidden for stack in stacks) + biases + learned,
        heads=heads,
        note="" if known else f"model_type {family!r} is not known here and taken for a Llama by its keys",
    )


def _attention(family: str, config: Mapping[str, Any], hidden: int, heads: int) -> tuple[tuple[Linear, ...], int, int]:
    """The linear layers of one attention, and the widths of its queries, and of its keys or values."""
    if config.get("kv_lora_rank"):
        return _latent_attention(config, hidden, heads)
    head = _maybe(config, "head_dim") or (256 if family.startswith("gemma") else hidden // heads)
    kv_heads = _maybe(config, "num_key_value_heads", "num_kv_heads") or heads
    if family == "falcon" and config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1
    q_width, kv_width = heads * head, kv_heads * head
    names = _FUSED.get(family, _PLAIN.get(family, (("q_proj", "k_proj", "v_proj", "o_proj"), ("", ""))))[0]
    if len(names) == 2:
        qkv, out = names
        return (
            (Linear(name=qkv, inputs=hidden, outputs=q_width + 2 * kv_width), _linear(out, q_width, hidden)),
            q_width,
            kv_width,
        )
    q, k, v, out = names
    linears = (_linear(q, hidden, q_width), _linear(k, hidden, kv_width), _linear(v, hidden, kv_width))
    return (*linears, _linear(out, q_width, hidden)), q_width, kv_width


def _latent_attention(config: Mapping[str, Any], hidden: int, heads: int) -> tuple[tuple[Linear, ...], int, int]:
    """DeepSeek's multi-head latent attention (`DeepseekV3Attention`): keys and values are unfolded to full width."""
    nope, rope = _size(config, "qk_nope_head_dim"), _size(config, "qk_rope_head_dim")
    value, rank = _size(config, "v_head_dim"), _size(config, "kv_lora_rank")
    q_width = heads * (nope + rope)
    q_rank = _maybe(config, "q_lora_rank")
    queries = (
        (_linear("q_a_proj", hidden, q_rank), _linear("q_b_proj", q_rank, q_width))
        if q_rank
        else (_linear("q_proj", hidden, q_width),)
    )
    linears = (
        *queries,
        _linear("kv_a_proj_with_mqa", hidden, rank + rope),
        _linear("kv_b_proj", rank, heads * (nope + value)),
        _linear("o_proj", heads * value, hidden),
    )
    return linears, q_width, heads * (nope + rope + value) // 2


def _feed_forwards(
    family: str, config: Mapping[str, Any], hidden: int, layers: int, attention: tuple[tuple[Linear, ...], int, int]
) -> tuple[Stack, ...]:
    """The layers, those with a dense feed-forward before those with experts."""
    linears, q_width, kv_width = attention
    count = _maybe(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    ffn = _maybe(config, "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size") or 4 * hidden
    dense = Stack(
        layers=layers - (_sparse_layers(config, layers) if count else 0),
        linears=(*linears, *_dense_linears(family, hidden, ffn)),
        q_width=q_width,
        kv_width=kv_width,
        ffn_width=ffn,
        is_gated=family not in _PLAIN,
        norms=4 if family in _FOUR_NORMS else 2,
        has_qk_norm=family in _QK_NORM,
        has_composed_gelu=_activation(config) in _COMPOSED,
    )
    if not count:
        return (dense,)
    width = _maybe(config, "moe_intermediate_size") or ffn
    shared = _maybe(config, "shared_expert_intermediate_size") or (_maybe(config, "n_shared_experts") or 0) * width
    experts = Experts(
        count=count,
        width=width,
        chosen=_size(config, "num_experts_per_tok", "num_experts_per_token", "moe_k"),
        hidden=hidden,
        takes_adapters=family in _ADAPTED_MIXTURES,
    )
    mixture = replace(
        dense,
        layers=layers - dense.layers,
        linears=(*linears, *(_gated(hidden, shared) if shared else ())),
        ffn_width=shared,
        experts=experts,
    )
    return (dense, mixture) if dense.layers else (mixture,)


def _sparse_layers(config: Mapping[str, Any], layers: int) -> int:
    first = _maybe(config, "first_k_dense_replace") or 0
    step = _maybe(config, "decoder_sparse_step") or 1
    dense = set(config.get("mlp_only_layers") or ())
    return sum(index >= first and (index + 1) % step == 0 and index not in dense for index in range(layers))


def _dense_linears(family: str, hidden: int, ffn: int) -> tuple[Linear, ...]:
    if family in _PLAIN:
        into, out = _PLAIN[family][1]
        return _linear(into, hidden, ffn), _linear(out, ffn, hidden)
    if family in _FUSED:
        return _linear("gate_up_proj", hidden, 2 * ffn), _linear("down_proj", ffn, hidden)
    return _gated(hidden, ffn)


def _gated(hidden: int, ffn: int) -> tuple[Linear, ...]:
    return _linear("gate_proj", hidden, ffn), _linear("up_proj", hidden, ffn), _linear("down_proj", ffn, hidden)


def _t5(config: Mapping[str, Any]) -> ModelShape:
    """T5 and its kin (`T5Stack`): no biases, one table of embeddings, a relative bias in the first layers."""
    hidden, heads, ffn = _size(config, "d_model"), _size(config, "num_heads"), _size(config, "d_ff")
    width = heads * _size(config, "d_kv")
    attention = (*(_linear(name, hidden, width) for name in "qkv"), _linear("o", width, hidden))
    is_gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    into = ("wi_0", "wi_1") if is_gated else ("wi",)
    forward = (*(_linear(name, hidden, ffn) for name in into), _linear("wo", ffn, hidden))
    encoder = _size(config, "num_layers")
    sending = Stack(
        layers=encoder,
        linears=(*attention, *forward),
        q_width=width,
        kv_width=width,
        ffn_width=ffn,
        is_gated=is_gated,
        has_composed_gelu=is_gated,  # `gated-gelu` is `gelu_new` there
        is_encoder=True,
    )
    receiving = replace(
        sending,
        layers=_maybe(config, "num_decoder_layers") or encoder,
        linears=(*attention, *attention, *forward),
        norms=3,
        is_encoder=False,
        has_cross_attention=True,
    )
    return _encoder_decoder(config, hidden, heads, (sending, receiving), learned=0)


def _bart(family: str, config: Mapping[str, Any]) -> ModelShape:
    """BART, mBART, PEGASUS, Marian (`BartEncoderLayer`); BART's positions are learned, PEGASUS' are not."""
    hidden, heads = _size(config, "d_model"), _size(config, "encoder_attention_heads")
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    attention = tuple(_linear(name, hidden, hidden) for name in names)
    stacks = []
    for side in ("encoder", "decoder"):
        ffn = _size(config, f"{side}_ffn_dim")
        crossing = attention if side == "decoder" else ()
        stacks.append(
            Stack(
                layers=_size(config, f"{side}_layers"),
                linears=(*attention, *crossing, _linear("fc1", hidden, ffn), _linear("fc2", ffn, hidden)),
                q_width=hidden,
                kv_width=hidden,
                ffn_width=ffn,
                is_gated=False,
                norms=3 if crossing else 2,
                is_encoder=not crossing,
                has_cross_attention=bool(crossing),
            )
        )
    positions = _maybe(config, "max_position_embeddings") or 0
    learned = 2 * (positions + 2) * hidden if family in ("bart", "mbart") else 0
    return _encoder_decoder(config, hidden, heads, tuple(stacks), learned)


def _encoder_decoder(
    config: Mapping[str, Any], hidden: int, heads: int, stacks: tuple[Stack, ...], learned: int
) -> ModelShape:
    return ModelShape(
        model_type=str(config.get("model_type", "")),
        hidden=hidden,
        vocabulary=_size(config, "vocab_size"),
        is_tied=bool(config.get("tie_word_embeddings", True)),
        stacks=stacks,
        max_length=_maybe(config, "max_position_embeddings"),
        stored_bits=stored_bits(config),
        extra_parameters=2 * hidden + sum(stack.layers * stack.norms * hidden for stack in stacks) + learned,
        heads=heads,
    )


def stored_bits(config: Mapping[str, Any]) -> int:
    """Bits of a stored linear weight, by `quantization_config`. gpt-oss' MXFP4 is unpacked to 16 bits for training."""
    quantised = config.get("quantization_config")
    if not isinstance(quantised, Mapping) or quantised.get("quant_method") == "mxfp4":
        return 16
    if quantised.get("load_in_4bit"):
        return 4
    if quantised.get("load_in_8bit") or quantised.get("quant_method") == "fp8":
        return 8
    bits = quantised.get("bits")
    return bits if isinstance(bits, int) and 1 <= bits <= 16 else 16


def _activation(config: Mapping[str, Any]) -> str:
    names = ("hidden_activation", "hidden_act", "activation_function")
    return next((str(config[name]) for name in names if config.get(name)), "")


def _linear(name: str, inputs: int, outputs: int) -> Linear:
    return Linear(name=name, inputs=inputs, outputs=outputs)


def _size(config: Mapping[str, Any], *names: str) -> int:
    found = _maybe(config, *names)
    if found is None:
        raise ShapeUnknown(f"config.json has no {' or '.join(names)}")
    return found


def _maybe(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these keys that holds a size; config.json is somebody else's, so a size is bounded."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 100_000_000:
            return value
    return None


def _noted(shape: ModelShape, note: str) -> ModelShape:
    return replace(shape, note="; ".join(part for part in (note, shape.note) if part))
