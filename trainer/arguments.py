"""Training arguments that every task shares: transformers' TrainingArguments, which TRL's configurations extend."""

from typing import Any

import torch

from trainer.device import uses_bf16
from trainer.job import Job
from trainer.sharding import parallel_arguments


def common_arguments(job: Job, *, has_held_out: bool) -> dict[str, Any]:
    """The spec's `train`, and what we decide: NaN is seen, nothing is sent anywhere, evaluation builds no logits."""
    train = job.spec.train
    evaluates = has_held_out and train.eval_steps is not None
    return {
        **_everywhere(job),
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": train.eval_steps if evaluates else None,
        **parallel_arguments(job),
    }


def _everywhere(job: Job) -> dict[str, Any]:
    train, batches = job.spec.train, job.batches
    return {
        "output_dir": str(job.checkpoints),
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "learning_rate": job.spec.learning_rate,
        "lr_scheduler_type": train.lr_scheduler_type,
        "warmup_steps": train.warmup_steps,
        "weight_decay": train.weight_decay,
        "optim": train.optim,
        "per_device_train_batch_size": batches.per_device_train_batch_size,
        "per_device_eval_batch_size": batches.per_device_train_batch_size,
        "gradient_accumulation_steps": batches.gradient_accumulation_steps,
        "activation_checkpointing": batches.gradient_checkpointing,
        "bf16": uses_bf16(job),
        "fp16": False,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        "save_total_limit": None,  # `trainer.checkpoint` removes the old ones, once the new one is whole
        "prediction_loss_only": True,
        "seed": train.seed,
        "data_seed": train.seed,
        "report_to": "none",  # trainer/watch/trackers.py is told what metrics.jsonl is told
        "ddp_find_unused_parameters": False,
        "disable_tqdm": True,
        "push_to_hub": False,
    }
