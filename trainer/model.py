"""The base model at its commit, and its tokenizer."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, BitsAndBytesConfig

from trainer.failures import GpuUnavailable, ModelNotFound, ModelUnsupported, TrainingFailed, hub_errors, translate
from trainer.job import Job
from trainer.launch import visible_gpus
from trainer.report import say
from trainer.tasks import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_gpu() -> None:
    """Raises GpuUnavailable when the machine has a GPU that this torch cannot use: hours of CPU would be billed."""
    if torch.cuda.is_available():
        name, memory_gb = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 1e9
        say(f"device: {name}, {memory_gb:.0f} GB, CUDA {torch.version.cuda}")
        if not uses_bf16():
            say("device: it has no bf16, so everything is computed and held in fp32: twice the memory, and slower")
    elif visible_gpus() > 0:
        hint = "a pod with a newer driver: compute.gpus or compute.data_centers"
        raise GpuUnavailable(
            f"there is a GPU, but torch for CUDA {torch.version.cuda} cannot use its driver", hint=hint
        )
    else:
        say("device: no GPU, training on the CPU")


def uses_bf16() -> bool:
    """bf16 on GPUs that have it in hardware, fp32 on the others and on the CPU."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def load_tokenizer(job: Job) -> "PreTrainedTokenizerBase":
    """Its padding token is the end token where it has none: padding never carries the loss."""
    model = job.spec.model
    with hub_errors(f"model {model.id}", missing=ModelNotFound):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model.id, revision=job.inputs.model_sha, trust_remote_code=model.trust_remote_code
        )
    if job.spec.train.chat_template_path is not None:
        tokenizer.chat_template = (job.root / job.spec.train.chat_template_path).read_text(encoding="utf-8")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    job: Job, weights: str | Path | None = None, dtype: "torch.dtype | str | None" = None
) -> "PreTrainedModel":
    """The base model at its pinned commit, or the weights of a full fine-tuning from a folder.

    Full fine-tuning holds fp32 weights and computes in bf16: an update of 1e-5 would be lost in a bf16 weight.
    """
    model, kind = job.spec.model, job.spec.method.kind
    dtype = dtype or (torch.bfloat16 if uses_bf16() and kind != "full" else torch.float32)
    options: dict[str, Any] = {
        "dtype": dtype,
        "disable_mmap": is_on_network(Path(weights or constants.HF_HUB_CACHE)),
        "trust_remote_code": model.trust_remote_code,
    }
    if torch.cuda.is_available() and not job.is_divided:
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    if kind == "qlora":
        options["quantization_config"] = _nf4()
    if weights is None:
        options["revision"] = job.inputs.model_sha
    return _loaded(job, str(weights or model.id), options)


def load_to_merge(job: Job) -> tuple["PreTrainedModel", str]:
    """The base an adapter is merged onto, on the CPU and in 16 or 32 bits; and what to call it."""
    model = job.spec.model
    is_4bit = job.spec.method.kind == "qlora" and job.spec.publish.merge_base == "trained"
    options: dict[str, Any] = {
        "dtype": "auto",
        "disable_mmap": is_on_network(Path(constants.HF_HUB_CACHE)),
        "trust_remote_code": model.trust_remote_code,
        "revision": job.inputs.model_sha,
    }
    if not is_4bit:
        return _loaded(job, model.id, options), "original" if job.spec.method.kind == "qlora" else "16-bit"
    dtype = torch.bfloat16 if uses_bf16() else torch.float32
    options |= {"dtype": dtype, "quantization_config": _nf4(), "device_map": {"": "cpu"}}
    return _loaded(job, model.id, options).dequantize(dtype=dtype), "dequantized 4-bit"


def _nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if uses_bf16() else torch.float32,
    )


def _loaded(job: Job, source: str, options: Mapping[str, Any]) -> "PreTrainedModel":
    model = job.spec.model
    try:
        with hub_errors(f"model {model.id}", missing=ModelNotFound):
            loaded: PreTrainedModel = task_of(job.spec).model_class().from_pretrained(source, **options)
    except (ValueError, OSError, ImportError) as error:
        failure = translate(error)
        if not isinstance(failure, TrainingFailed):
            raise
        raise ModelUnsupported(f"model {model.id} cannot be loaded: {error}") from error
    for module in loaded.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack 4-bit weights at the first evaluation on such a CPU, and round their scales:
            # another model from then on, and only in the attempt that evaluated.
            module.support_avx512bf16_for_cpu = False
    return loaded


def is_on_network(path: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a folder lies on a network volume, where a file mapped into memory is read page by page, very slowly."""
    if not mounts.exists():
        return False
    real, best, kind = str(path.resolve()), "", ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, found, *_ = line.split()
        is_above = real == point or real.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):
            best, kind = point, found
    return kind.startswith(("nfs", "fuse", "ceph", "cifs", "lustre", "beegfs", "glusterfs", "9p"))
