"""What of a job decides its memory and time, and which weights it trains. Pure."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pushtrain.estimate.shape import Experts, Linear, ModelShape, Stack
from pushtrain.spec import TrainingSpec
from pushtrain.spec.recipe import Train

_VOCABULARY_LAYERS = {"embed_tokens", "lm_head", "wte", "shared", "embed_in", "embed_out"}
FORWARDS = {"gate_proj", "up_proj", "down_proj"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What of a job decides its memory on one GPU.

    `bits` are those of a frozen linear weight (16, 8, 4); with `is_fp32` what would be bf16 is fp32. `length` is
    `max_length`; `target_length` that of a seq2seq answer. `target_modules` is None for all-linear; empty
    `layers_to_transform` and `trainable_parameters` mean all of them. `shards` divides weights and training state
    (FSDP, ZeRO-3); 1 where every GPU holds all of it.
    """

    task: Literal["sft", "dpo", "seq2seq"] = "sft"
    is_full: bool = False
    bits: int = 16
    is_double_quantised: bool = True
    is_fp32: bool = False
    rank: int = 16
    target_modules: tuple[str, ...] | None = None
    exclude_modules: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    trainable_parameters: tuple[str, ...] = ()
    is_dora: bool = False
    dropout: float = 0.0
    micro_batch: int = 1
    length: int = 2048
    target_length: int | None = None
    checkpointing: bool = True
    is_packed: bool = False
    builds_logits: bool = False
    optimizer: str = "adamw_torch_fused"
    precomputes_reference: bool = False
    shards: int = 1


def recipe_of(spec: TrainingSpec) -> Recipe:
    """What the spec says about memory."""
    method, train = spec.method, spec.train
    modules = method.target_modules
    return Recipe(
        task=spec.task,
        is_full=method.kind == "full",
        bits=4 if method.kind == "qlora" else 16,
        is_fp32=not train.bf16,
        rank=method.rank,
        target_modules=None if isinstance(modules, str) else tuple(modules),
        exclude_modules=tuple(method.exclude_modules),
        layers_to_transform=tuple(method.layers_to_transform),
        modules_to_save=tuple(method.modules_to_save),
        trainable_parameters=tuple(method.trainable_parameters),
        is_dora=method.use_dora,
        dropout=method.dropout,
        micro_batch=train.per_device_train_batch_size,
        length=train.max_length,
        checkpointing=train.gradient_checkpointing,
        is_packed=_may_be_joined(train),
        optimizer=train.optim,
        target_length=spec.seq2seq.max_target_length if spec.task == "seq2seq" else None,
        precomputes_reference=spec.dpo.precompute_ref_log_probs,
        shards=spec.compute.count if train.parallel in ("fsdp2", "deepspeed_zero3") else 1,
    )


def _may_be_joined(train: Train) -> bool:
    """Whether the rows of a batch may stand in one sequence: left out, the trainer decides when it knows the rows
    (trainer/data/layout.py): it packs at one row a batch, and joins a batch of up to 8192 tokens without padding."""
    if train.packing is not None or train.padding_free is not None:
        return bool(train.packing or train.padding_free)
    tokens = train.per_device_train_batch_size * train.max_length
    return train.per_device_train_batch_size == 1 or tokens <= 8192


def trained_parameters(shape: ModelShape, recipe: Recipe) -> int:
    """Weights that get a gradient: all of them or those that are named, or LoRA's two matrices at each adapted layer.

    LoRA (arXiv 2106.09685): rank × (inputs + outputs) a layer; DoRA (arXiv 2402.09353) one more for each output.
    """
    if recipe.is_full:
        return (
            _named_parameters(shape, recipe.trainable_parameters) if recipe.trainable_parameters else shape.parameters
        )
    saved = _last(recipe.modules_to_save)
    total = len(saved & _VOCABULARY_LAYERS) * shape.vocabulary * shape.hidden
    first = 0
    for stack in shape.stacks:
        linears = adapted(stack, shape, recipe)
        layer = sum(recipe.rank * (it.inputs + it.outputs) + recipe.is_dora * it.outputs for it in linears)
        if (experts := adapted_experts(stack, recipe)) is not None:
            layer += experts.adapter_parameters(recipe.rank)
        whole = sum(linear.parameters for linear in stack.linears if linear.name in saved)
        total += stack.layers * whole + layer * _transformed(stack, first, recipe)
        # The layers of a decoder's stacks are numbered through, an encoder and a decoder count for themselves.
        first += 0 if shape.is_encoder_decoder else stack.layers
    return total


def adapted(stack: Stack, shape: ModelShape, recipe: Recipe) -> list[Linear]:
    """The linear layers LoRA is put on: PEFT takes a name that ends a module's full name.

    In a mixture whose experts PEFT adapts, the names of the feed-forward mean the experts alone.
    """
    if recipe.is_full:
        return []
    excluded = _last(recipe.exclude_modules) | (FORWARDS if shape.adapts_experts else set())
    linears = [linear for linear in stack.linears if linear.name not in excluded]
    if recipe.target_modules is None:
        return linears
    wanted = _last(recipe.target_modules)
    return [linear for linear in linears if linear.name in wanted]


def adapted_experts(stack: Stack, recipe: Recipe) -> Experts | None:
    """A layer's experts where LoRA is put on them."""
    if recipe.is_full or stack.experts is None or not stack.experts.takes_adapters:
        return None
    named = recipe.target_modules is None or _last(recipe.target_modules) & (FORWARDS | {"w1", "w2", "w3"})
    return stack.experts if named else None


def _transformed(stack: Stack, first: int, recipe: Recipe) -> int:
    """How many of the stack's layers, the first of which has number `first`, get adapters."""
    if not recipe.layers_to_transform:
        return stack.layers
    return sum(first <= number < first + stack.layers for number in set(recipe.layers_to_transform))


def _named_parameters(shape: ModelShape, patterns: tuple[str, ...]) -> int:
    """Weights whose names match: a Llama's names are assumed, norms are left out."""

    def is_trained(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    vocabulary = shape.vocabulary * shape.hidden
    total = vocabulary * (
        is_trained("model.embed_tokens.weight") + (is_trained("lm_head.weight") and not shape.is_tied)
    )
    number = 0
    for stack in shape.stacks:
        for _ in range(stack.layers):
            for linear in stack.linears:
                part = "mlp" if linear.name in FORWARDS else "self_attn"
                total += linear.parameters * is_trained(f"model.layers.{number}.{part}.{linear.name}.weight")
            if stack.experts is not None:
                total += stack.experts.parameters * is_trained(f"model.layers.{number}.mlp.experts.gate_up_proj")
            number += 1
    return total


def _last(names: tuple[str, ...]) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name in names}
