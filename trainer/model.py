"""The base model at its commit, and its tokenizer."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, BitsAndBytesConfig

from trainer.device import uses_bf16
from trainer.failures import ModelNotFound, ModelUnsupported, TrainingFailed, hub_errors, translate
from trainer.job import Job
from trainer.tasks import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    dtype = dtype or (torch.bfloat16 if uses_bf16(job) and kind != "full" else torch.float32)
    options: dict[str, Any] = {
        "dtype": dtype,
        "disable_mmap": is_on_network(Path(weights or constants.HF_HUB_CACHE)),
        "trust_remote_code": model.trust_remote_code,
    }
    if torch.cuda.is_available() and not job.is_divided:
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    if kind == "qlora":
        options["quantization_config"] = _nf4(job)
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
    dtype = torch.bfloat16 if uses_bf16(job) else torch.float32
    options |= {"dtype": dtype, "quantization_config": _nf4(job), "device_map": {"": "cpu"}}
    return _loaded(job, model.id, options).dequantize(dtype=dtype), "dequantized 4-bit"


def _nf4(job: Job) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if uses_bf16(job) else torch.float32,
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
