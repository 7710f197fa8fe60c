"""What a step of this job is made of: rows, operations, the card's peak and the price, where they are known."""

import os
from dataclasses import replace
from typing import Any

import torch

from pushtrain.estimate.cards import card
from pushtrain.estimate.config import shape_of
from pushtrain.estimate.recipe import recipe_of
from pushtrain.estimate.shape import ShapeUnknown
from pushtrain.estimate.speed import flops_per_token
from trainer.job import Job
from trainer.watch.rates import Effort


def effort_of(job: Job, model: Any) -> Effort:
    """`model` is the one that is trained; its operations are those without recomputed activations."""
    batches = job.batches
    rows = batches.per_device_train_batch_size * batches.gradient_accumulation_steps * job.processes
    price = os.environ.get("PUSHTRAIN_USD_PER_HOUR")
    known = card(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return Effort(
        samples_per_step=rows,
        usd_per_hour=float(price) if price else None,
        flops_per_token=_model_flops(job, model) if known else None,
        peak_flops=known.bf16_tflops * 1e12 * job.processes if known else None,
    )


def _model_flops(job: Job, model: Any) -> float | None:
    try:
        shape = shape_of(model.config.to_dict())
    except ShapeUnknown:
        return None
    return flops_per_token(shape, replace(recipe_of(job.spec), checkpointing=False))
