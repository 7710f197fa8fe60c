"""Which weights are trained: LoRA layers put into the model, or weights of the model itself chosen by name."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import set_seed

from pushtrain.spec.recipe import Method
from trainer.failures import ModelUnsupported
from trainer.job import Job, rank
from trainer.report import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = 40


def with_trained_weights(model: "PreTrainedModel", job: Job, peft_type: str) -> "PreTrainedModel":
    """The model with fresh LoRA layers drawn by `train.seed`; for `full`, with the chosen weights left trainable.

    Raises ModelUnsupported when a name is not the model's, or nothing would be trained.
    """
    method = job.spec.method
    if method.kind == "full":
        _choose(model, method.trainable_parameters)
        changed: Any = model
    else:
        _check_names(model, method)
        set_seed(job.spec.train.seed)
        changed = _with_lora(model, job, peft_type)
        if method.takes_from_base:
            _take_same_part(changed, job)
    _describe(changed, job)
    return changed


def lora_config(job: Job, model: "PreTrainedModel", peft_type: str) -> Any:
    """PEFT's configuration of `method`; `peft_type` is PEFT's `task_type`."""
    from peft import LoraConfig

    method = job.spec.method
    modules = method.target_modules
    if modules == "all-linear" and method.layers_to_transform:
        modules = _inner_linear_names(model)  # PEFT takes layers_to_transform with a list of names alone
    return LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=modules if isinstance(modules, str) else sorted(modules),
        exclude_modules=sorted(method.exclude_modules) or None,
        layers_to_transform=sorted(method.layers_to_transform) or None,
        modules_to_save=sorted(method.modules_to_save) or None,
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        init_lora_weights=True if method.init_lora_weights == "default" else method.init_lora_weights,
        task_type=peft_type,
        revision=job.inputs.model_sha,
    )


def on_plain_base(trained: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An adapter that began as a part of the base, as one for the whole base: rank 2r, other weights unchanged.

    The base without its part is W - s·B₀A₀, so the trained model W + s·(BA - B₀A₀) = W + s·[B | -B₀]·[A over A₀]
    (PEFT's `subtract_mutated_init`, which leaves out `modules_to_save`).
    """
    changed = dict(trained)
    for name, weight in trained.items():
        if name in start and "lora_A" in name:
            changed[name] = torch.cat([weight, start[name].to(weight)], dim=0)
        elif name in start and "lora_B" in name:
            changed[name] = torch.cat([weight, -start[name].to(weight)], dim=1)
    return changed


def load_start(job: Job) -> dict[str, torch.Tensor]:
    """The adapter as it was before the first step, where `takes_from_base`; on the CPU, fp32."""
    return load_file(job.start)


def _with_lora(model: "PreTrainedModel", job: Job, peft_type: str) -> Any:
    from peft import get_peft_model

    try:
        return get_peft_model(model, lora_config(job, model, peft_type))
    except (ValueError, TypeError) as error:
        hint = f"linear layers of this model: {_listed(_linear_names(model))}"
        raise ModelUnsupported(f"method on {job.spec.model.id}: {_short(error)}", hint=hint) from error


def _take_same_part(model: Any, job: Job) -> None:
    """Keep what the first attempt took out of the base; a later one takes the same, whatever its GPU's SVD says."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import get_peft_model_state_dict

    if not job.start.exists():
        if rank() == 0:
            state = get_peft_model_state_dict(model, save_embedding_layers=False)
            part = job.start.with_suffix(".part")
            save_file({name: weight.float().cpu().contiguous() for name, weight in state.items()}, part)
            part.replace(job.start)
        return
    start = load_start(job)
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        base, scale = module.get_base_layer().weight, module.scaling["default"]
        pair = [module.lora_A["default"].weight, module.lora_B["default"].weight]
        known = [start[f"{name}.lora_{letter}.weight"].to(base.device) for letter in "AB"]
        whole = base.data.float() + scale * pair[1].data.float() @ pair[0].data.float()
        if all(torch.equal(mine.data.float(), its) for mine, its in zip(pair, known, strict=True)):
            continue
        base.data = (whole - scale * known[1] @ known[0]).to(base.dtype)
        for mine, its in zip(pair, known, strict=True):
            mine.data = its.to(mine.dtype)


def _choose(model: "PreTrainedModel", patterns: Sequence[str]) -> None:
    """Leave the weights trainable whose names match; all of them without patterns."""
    if not patterns:
        return
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = f"weights of this model: {_listed(names)}"
            raise ModelUnsupported(f"method.trainable_parameters: no weight is called {pattern!r}", hint=hint)
    for name, weight in model.named_parameters():
        weight.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))


def _check_names(model: "PreTrainedModel", method: Method) -> None:
    """PEFT only complains when no name at all is the model's; a typo among several would train less, in silence."""
    names = [name for name, _ in model.named_modules()]
    targets = [] if isinstance(method.target_modules, str) else method.target_modules
    keys = {
        "target_modules": targets,
        "exclude_modules": method.exclude_modules,
        "modules_to_save": method.modules_to_save,
    }
    for key, wanted in keys.items():
        for name in wanted:
            if not any(known == name or known.endswith(f".{name}") for known in names):
                ours = _linear_names(model) if key != "modules_to_save" else _last_names(names)
                hint = f"modules of this model: {_listed(ours)}"
                raise ModelUnsupported(f"method.{key}: this model has no module {name!r}", hint=hint)
    head = next((name for name in targets if _is_head(model, names, name)), None)
    if head is not None:
        hint = f"method.modules_to_save: [{head}] trains it whole"
        raise ModelUnsupported(f"method.target_modules: no adapter can be put on the output layer {head}", hint=hint)
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if layers is not None and any(number >= layers for number in method.layers_to_transform):
        raise ModelUnsupported(f"method.layers_to_transform: this model's layers are 0 to {layers - 1}")


def _is_head(model: "PreTrainedModel", names: Iterable[str], wanted: str) -> bool:
    """Whether the name is that of the output layer, whose weight the loss reads past any adapter (TRL)."""
    head = model.get_output_embeddings()
    found = [name for name in names if name == wanted or name.endswith(f".{wanted}")]
    return head is not None and any(model.get_submodule(name) is head for name in found)


def _linear_names(model: Any) -> list[str]:
    linear = [name for name, module in model.named_modules() if "Linear" in type(module).__name__]
    return _last_names(linear)


def _inner_linear_names(model: "PreTrainedModel") -> list[str]:
    names = [name for name, _ in model.named_modules()]
    return [name for name in _linear_names(model) if not _is_head(model, names, name)]


def _last_names(names: Iterable[str]) -> list[str]:
    last = dict.fromkeys(name.rpartition(".")[2] for name in names)
    return [name for name in last if name and not name.isdigit()]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _describe(model: Any, job: Job) -> None:
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if trained == 0:
        raise ModelUnsupported("not one weight would be trained", hint="method.target_modules or trainable_parameters")
    kind = job.spec.method.kind
    say(f"model: {job.spec.model.id}, {kind}, {trained:,} weights are trained, dtype {model.dtype}")
