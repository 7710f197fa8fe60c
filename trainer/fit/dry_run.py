"""The memory of the real step, without weights and without a GPU: transformers' own model on tensors that have no data.

Every operator runs as it would, forward, backward and AdamW, and each storage is counted from its making to its end.
So any architecture is covered that a config.json can build; the closed form of `pushtrain.estimate` knows families.
What a GPU adds (context, workspaces, fragmentation) is in neither.

An 8B model takes some ten seconds. Two things are put in by size: the head, which TRL 1.16 computes in tiles of at most
4096 tokens × 32768 words in bf16, and 4-bit layers, which bitsandbytes cannot make without data.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.memory import BF16_BYTES, GIB, NF4_DOUBLE_BYTES, memory
from pushtrain.estimate.recipe import recipe_of
from trainer.adapters import with_trained_weights
from trainer.failures import ModelUnsupported
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
    """Run and say both figures and their ratio. Raises ModelUnsupported for a task other than sft."""
    shape = shape_of(config)
    estimate = memory(shape, recipe_of(job.spec))
    found = dry_run(job, config)
    dry, closed = found.peak_bytes, estimate.closed_bytes
    say(f"memory: dry run of the real step {dry / GIB:.2f} GiB, closed form {closed / GIB:.2f}, ×{closed / dry:.3f}")
    say(f"memory: a card should have {estimate.need_gb:.1f} GB, and must have {estimate.floor_gb:.1f}")


def dry_run(job: Job, config: Mapping[str, Any]) -> DryRun:
    """Two micro-steps of the job's recipe with an optimizer step between them."""
    if job.spec.task != "sft":
        raise ModelUnsupported(f"the dry run of memory is for task sft, this is {job.spec.task}")
    shape, recipe = shape_of(config), recipe_of(job.spec)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model = _model(job, config, fake)
    with fake:
        ids = torch.zeros(recipe.micro_batch, recipe.length, dtype=torch.long)
        optimizer = torch.optim.AdamW([it for it in model.parameters() if it.requires_grad], foreach=False)
        storages = Storages()
        for tensor in (*model.parameters(), *model.buffers()):
            storages.hold(tensor)
        with storages:
            for turn in range(2):
                storages.peak = storages.now
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    hidden = _decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
                _Head.apply(hidden, model.get_output_embeddings().weight).backward()
                del hidden
                if turn == 0:
                    optimizer.step()
    packed = (BF16_BYTES - NF4_DOUBLE_BYTES) * shape.linear_parameters if recipe.bits == 4 else 0.0
    return DryRun(counted=storages.peak, packed=packed)


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
    from transformers import AutoConfig

    task, kind = task_of(job.spec), job.spec.method.kind
    dtype = torch.float32 if kind == "full" else torch.bfloat16
    with torch.device("meta"):
        made = AutoConfig.for_model(**config)
        made.dtype = dtype
        base = task.model_class().from_config(made, attn_implementation="sdpa", dtype=dtype)
        model: Any = with_trained_weights(base, job, task.peft_type)
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
