"""The folder that is published: weights, their configuration, the tokenizer. No training state, no stray file."""

import gc
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from trainer.adapters import load_start, on_plain_base
from trainer.job import Job, rank
from trainer.report import say, write_whole
from trainer.sharding import check_saved_parts, gathered


def finish_model(job: Job, trainer: Any) -> None:
    """Let go of what only training needs. A full model takes on its base's dtype on the Hub: so it is published."""
    trainer.model.zero_grad(set_to_none=True)
    trainer.model_wrapped = trainer.model
    for holder in (trainer, trainer.callback_handler):
        holder.optimizer = holder.lr_scheduler = None
    trainer.accelerator.free_memory()
    if job.spec.method.kind == "full":
        dtype = _dtype_of_base(job)
        # Weights alone: buffers such as the frequencies of rotary embeddings stay fp32, as they load.
        for weight in trainer.model.parameters():
            weight.data = weight.data.to(dtype)
    gc.collect()
    torch.cuda.empty_cache()


def _dtype_of_base(job: Job) -> torch.dtype:
    model = job.spec.model
    base = AutoConfig.from_pretrained(
        model.id, revision=job.inputs.model_sha, trust_remote_code=model.trust_remote_code
    )
    found: torch.dtype = base.dtype or torch.float32
    return found


def save_adapter(job: Job, trainer: Any) -> None:
    """Write `job.adapter` anew: PEFT's two files for LoRA, a transformers model for full fine-tuning."""
    shutil.rmtree(job.adapter, ignore_errors=True)
    job.adapter.mkdir(parents=True)
    trainer.model.save_pretrained(job.adapter)
    if job.spec.method.takes_from_base:
        for_the_plain_base(job, job.adapter)
    if job.spec.method.kind != "full":
        pin_config(job, job.adapter)
    trainer.processing_class.save_pretrained(job.adapter)


def save_divided(job: Job, trainer: Any) -> None:
    """`save_adapter` for a model whose weights are divided: every process gives its part, the first one writes and
    reads it again. Raises AdapterBroken when the files hold something else."""
    weights = gathered(trainer)
    if rank() != 0:
        return
    shutil.rmtree(job.adapter, ignore_errors=True)
    job.adapter.mkdir(parents=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if job.spec.method.kind == "full":
        dtype = _dtype_of_base(job)
        weights = {name: weight.to(dtype) if weight.is_floating_point() else weight for name, weight in weights.items()}
        model.save_pretrained(job.adapter, state_dict=weights)
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        check_saved_parts(job, {name: weight for name, weight in weights.items() if name not in tied})
    else:
        from peft import get_peft_model_state_dict

        model.save_pretrained(job.adapter, state_dict=weights)
        check_saved_parts(job, get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False))
        pin_config(job, job.adapter)
    trainer.processing_class.save_pretrained(job.adapter)
    say(f"evaluation: read again from {job.adapter}, every weight is what was trained")


def for_the_plain_base(job: Job, folder: Path) -> None:
    """The adapter in `folder` as one of twice the rank that anybody can load on the base as it is on the Hub."""
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    changed = on_plain_base(load_file(weights), load_start(job))
    weights.unlink()  # it may be a link to a checkpoint
    save_file(changed, weights, metadata={"format": "pt"})
    config: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
    # The scale stays: alpha / r, with rsLoRA alpha / √r.
    alpha = config["lora_alpha"] * (math.sqrt(2) if config["use_rslora"] else 2)
    config |= {"init_lora_weights": True, "r": 2 * config["r"], "lora_alpha": alpha}
    write_whole(settings, json.dumps(config) + "\n")


def pin_config(job: Job, folder: Path) -> None:
    """Name the base by Hub id and commit, and sort what PEFT keeps as a set: the same run writes the same bytes."""
    path = folder / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = job.spec.model.id
    config["revision"] = job.inputs.model_sha
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(config["target_modules"])
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
