"""What this process trains on, asked of torch itself: that it is the GPU, and that the job's kernels run there."""

import torch

from trainer.failures import GpuUnavailable, TrainingFailed, translate
from trainer.gpu import no_bf16
from trainer.job import Job
from trainer.launch import visible_gpus
from trainer.report import say

_BITSANDBYTES_HINT = "method.kind: lora and train.optim: adamw_torch_fused need none; or another of compute.gpus"


def check_device(job: Job) -> None:
    """Raises GpuUnavailable when the machine has a GPU that this torch cannot use (hours of CPU would be billed), when
    it has no bf16 and the job computes in bf16, and when bitsandbytes has no kernels for it and the job needs them."""
    if torch.cuda.is_available():
        name, memory_gb = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 1e9
        say(f"device: {name}, {memory_gb:.0f} GB, CUDA {torch.version.cuda}")
        if uses_bf16(job) and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise no_bf16(name)
    elif visible_gpus() > 0:
        hint = "a pod with a newer driver: compute.gpus or compute.data_centers"
        raise GpuUnavailable(
            f"there is a GPU, but torch for CUDA {torch.version.cuda} cannot use its driver", hint=hint
        )
    else:
        say("device: no GPU, training on the CPU")
    if job.spec.method.kind == "qlora" or "8bit" in job.spec.train.optim or "paged" in job.spec.train.optim:
        _check_bitsandbytes()


def uses_bf16(job: Job) -> bool:
    """bf16 on a GPU unless the spec says otherwise; fp32 on the CPU, where bf16 is slower and nothing is short."""
    return torch.cuda.is_available() and job.spec.train.bf16


def _check_bitsandbytes() -> None:
    """A block of 64 weights there and back, by the kernels and on the device that the training is going to use."""
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        device = "cuda" if torch.cuda.is_available() else "cpu"
        packed, state = quantize_4bit(torch.ones(64, 64, device=device), quant_type="nf4")
        dequantize_4bit(packed, state)
    except Exception as error:
        failure = translate(error)
        if isinstance(failure, TrainingFailed):
            failure = GpuUnavailable(f"bitsandbytes has no kernels here: {failure}")
        raise GpuUnavailable(str(failure), hint=_BITSANDBYTES_HINT) from error
