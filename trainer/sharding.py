"""Several GPUs, by `train.parallel`: the model whole on each (ddp), or its weights divided among them.

accelerate does the dividing, through the trainer's own arguments: FSDP2 (torch's `fully_shard`) or DeepSpeed's ZeRO-3.
A divided model computes only where every process takes part; so evaluation, answers and saving are everybody's.
"""

import os
from typing import Any

from trainer.failures import AdapterBroken, ParallelUnavailable
from trainer.job import Job, rank


def check_parallel(parallel: str | None) -> None:
    """Before torch is imported. Raises ParallelUnavailable where DeepSpeed is asked for and not there."""
    from importlib.util import find_spec

    if parallel == "deepspeed_zero3" and find_spec("deepspeed") is None:
        raise ParallelUnavailable(
            "train.parallel deepspeed_zero3: the package deepspeed is not in this environment",
            hint="train.parallel: fsdp2 divides the weights in the same way and needs no other package; or install it "
            "here: uv sync --extra deepspeed (a pod does that by itself)",
        )


def prepare_loading(job: Job) -> None:
    """Before the model is loaded: with FSDP2 the first process alone reads the weights, and the others get their part
    of them from it. transformers goes by these two variables and by the process group."""
    if job.parallel != "fsdp2":
        return
    from accelerate import PartialState

    os.environ["ACCELERATE_USE_FSDP"] = os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
    PartialState()


def parallel_arguments(job: Job) -> dict[str, Any]:
    """What transformers' TrainingArguments need besides the common ones."""
    if job.parallel == "fsdp2":
        wraps = {
            "version": 2,
            "reshard_after_forward": True,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "cpu_ram_efficient_loading": True,
            "state_dict_type": "FULL_STATE_DICT",
            # transformers' own is used: FSDP's renames the layers, and PEFT 0.21 then saves an adapter without weights.
            "activation_checkpointing": False,
        }
        return {"fsdp": True, "fsdp_config": wraps}
    if job.parallel == "deepspeed_zero3":
        return {"deepspeed": zero3()}
    return {}


def zero3() -> dict[str, Any]:
    """DeepSpeed's configuration; `auto` is filled in by transformers from the arguments."""
    return {
        "zero_optimization": {"stage": 3, "overlap_comm": True, "stage3_gather_16bit_weights_on_model_save": True},
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }


def put_back(trainer: Any, folder: str) -> None:
    """The weights of an ended training into a divided model that has not taken a step."""
    trainer._prepare_for_training(1, trainer.get_train_dataloader(), folder)


def gathered(trainer: Any) -> dict[str, Any]:
    """Every weight, whole, on the CPU of the first process; empty in the others. All of them have to call it."""
    # DeepSpeed's engine around the model knows where the parts are; FSDP2's model is that itself.
    whole = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
    found = trainer.accelerator.get_state_dict(whole)
    return dict(found or {}) if rank() == 0 else {}


def check_saved_parts(job: Job, saved: dict[str, Any]) -> None:
    """What is in the files against what was gathered. Raises AdapterBroken where a weight is not the same."""
    import torch
    from safetensors import safe_open

    found: set[str] = set()
    for path in sorted(job.adapter.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                found.add(name)
                weight = weights.get_tensor(name)
                if not torch.isfinite(weight).all():
                    raise AdapterBroken(f"{path.name}: {name} has values that are not finite")
                if name in saved and not torch.equal(weight, saved[name]):
                    raise AdapterBroken(f"{path.name}: {name} is not what was trained")
    if not saved:
        raise AdapterBroken("no weight was gathered from the processes")
    if missing := sorted(saved.keys() - found):
        raise AdapterBroken(f"{len(missing)} weights were not saved, {missing[0]} for one")
