"""The memory of the real step, without weights and without a GPU: transformers' own model on tensors that have no data.

Every operator runs as it would, forward, backward and AdamW, and each storage is counted from its making to its end.
So any architecture is covered that a config.json can build; the closed form of `pushtrain.estimate` knows families.
What a GPU adds (context, workspaces, fragmentation) is in neither.

An 8B model takes some ten seconds. Two things are put in by size: the head of sft and dpo, which TRL 1.16 computes in
tiles of at most 4096 tokens × 32768 words in bf16, and 4-bit layers, which bitsandbytes cannot make without data. dpo
has both answers in one batch, and its reference; seq2seq is the model's own loss, logits and all.
"""

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.memory import GIB, NF4_DOUBLE_BYTES, memory
from pushtrain.estimate.recipe import Recipe, recipe_of
from trainer.adapters import with_trained_weights
from trainer.job import Job
from trainer.report import say
from trainer.tasks import task_of

_TILE_TOKENS, _TILE_WORDS = 4096, 32768


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """Bytes at the peak: `counted` of the run itself, less `packed`, what 4-bit layers save of their bf16 size."""

    counted: int
    packed: float

    @property
    def peak_bytes(self) -> float:
        return self.counted - self.packed


class Storages(TorchDispatchMode):
    """Adds each new storage's bytes while it lives; `peak` is the largest sum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self.hold(value)
        return out

    def hold(self, tensor: torch.Tensor) -> None:
        """Count a tensor that was made before; twice is once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def say_dry_run(job: Job, config: Mapping[str, Any]) -> None:
    """Run and say both figures and their ratio."""
    shape = shape_of(config)
    estimate = memory(shape, recipe_of(job.spec))
    found = dry_run(job, config)
    dry, closed = found.peak_bytes, estimate.closed_bytes
    say(f"memory: dry run of the real step {dry / GIB:.2f} GiB, closed form {closed / GIB:.2f}, ×{closed / dry:.3f}")
    say(f"memory: a card should have {estimate.need_gb:.1f} GB, and must have {estimate.floor_gb:.1f}")


def dry_run(job: Job, config: Mapping[str, Any]) -> DryRun:
    """Two micro-steps of the job's recipe with an optimizer step between them."""
    shape, recipe = shape_of(config), recipe_of(job.spec)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model, reference = _model(job, config, fake), _reference(job, config, fake)
    with fake:
        optimizer = torch.optim.AdamW([it for it in model.parameters() if it.requires_grad], foreach=False)
        storages = Storages()
        for tensor in (*model.parameters(), *model.buffers(), *(reference.parameters() if reference else ())):
            storages.hold(tensor)
        with storages:
            for turn in range(2):
                storages.peak = storages.now
                _loss(job, recipe, model, reference).backward()  # type: ignore[no-untyped-call]
                if turn == 0:
                    optimizer.step()
    whole = torch.finfo(_dtype(job)).bits / 8
    packed = (whole - NF4_DOUBLE_BYTES) * shape.linear_parameters if recipe.bits == 4 else 0.0
    return DryRun(counted=storages.peak, packed=packed)


def _loss(job: Job, recipe: Recipe, model: Any, reference: Any) -> torch.Tensor:
    """Of one micro-batch of the longest rows, as the trainer of the task computes it."""
    ids = torch.zeros(recipe.micro_batch, recipe.length, dtype=torch.long)
    if job.spec.task == "seq2seq":
        labels = torch.zeros(recipe.micro_batch, recipe.target_length or recipe.length, dtype=torch.long)
        with _autocast(job):
            loss: torch.Tensor = model(input_ids=ids, labels=labels, use_cache=False).loss
        return loss
    if job.spec.task == "sft":
        return _head(job, model, ids)
    both = torch.cat([ids, ids])
    loss = _head(job, model, both)
    if not job.spec.dpo.precompute_ref_log_probs:
        with torch.no_grad(), nullcontext() if reference is not None else model.disable_adapter():
            _head(job, model if reference is None else reference, both)
    return loss


def _head(job: Job, model: Any, ids: torch.Tensor) -> torch.Tensor:
    with _autocast(job):
        hidden = _decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
    loss: torch.Tensor = _Head.apply(hidden, model.get_output_embeddings().weight)
    return loss


def _autocast(job: Job) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=job.spec.train.bf16)


def _dtype(job: Job) -> torch.dtype:
    """Of a weight that is not trained."""
    return torch.bfloat16 if job.spec.train.bf16 else torch.float32


class _Head(torch.autograd.Function):
    """What TRL's fused head holds: its weight in bf16 and one tile of scores, forward and backward, and gradients."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden.detach().new_empty(0), weight)
        ctx.shape = hidden.shape
        copy = weight.to(torch.bfloat16)
        _tile(hidden.shape)
        del copy
        return hidden.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *_gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        like, weight = ctx.saved_tensors
        copy, tile = weight.to(torch.bfloat16), _tile(ctx.shape)
        gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        del copy, tile
        return like.new_zeros(ctx.shape), gradient


def _tile(shape: torch.Size) -> torch.Tensor:
    return torch.empty(min(shape[:-1].numel(), _TILE_TOKENS), _TILE_WORDS, dtype=torch.bfloat16)


def _model(job: Job, config: Mapping[str, Any], fake: FakeTensorMode) -> Any:
    """On `meta` first, since PEFT cannot work on fake tensors; then each weight as a fake one on the CPU."""
    kind = job.spec.method.kind
    base = _base(job, config, torch.float32 if kind == "full" else _dtype(job))
    with torch.device("meta"):
        model: Any = with_trained_weights(base, job, task_of(job.spec).peft_type)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    with fake:
        _to_fake(model)
    if job.batches.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if kind != "full":
            model.enable_input_require_grads()
    model.train()
    return model


def _reference(job: Job, config: Mapping[str, Any], fake: FakeTensorMode) -> Any:
    """DPO's second model, where it has one while it trains (`trainer.tasks.dpo`); None for the model's own base."""
    method = job.spec.method
    has_own = method.kind == "full" or method.takes_from_base
    if job.spec.task != "dpo" or not has_own or job.spec.dpo.precompute_ref_log_probs:
        return None
    model = _base(job, config, _dtype(job)).requires_grad_(False).eval()
    with fake:
        _to_fake(model)
    return model


def _base(job: Job, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """With the attention that transformers takes by itself: not every family has sdpa."""
    from transformers import AutoConfig

    with torch.device("meta"):
        made = AutoConfig.for_model(**config)
        made.dtype = dtype
        return task_of(job.spec).model_class().from_config(made, dtype=dtype)


def _to_fake(model: Any) -> None:
    """Tied weights stay one."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is None:
                continue
            if id(weight) not in made:
                empty = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")
                made[id(weight)] = torch.nn.Parameter(empty, requires_grad=weight.requires_grad)
            module._parameters[name] = made[id(weight)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def _decoder(model: Any) -> Any:
    """The model below its head: its logits are never built."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model if hasattr(base, "model") else base.base_model
