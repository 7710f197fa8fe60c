"""GPU types: Vast's names and the ids that job specs use, both ways. Pure.

A spec keeps its `compute.gpus` when it moves, so what it names is RunPod's id on every cloud. Vast's names as its
offers carry them (dstackai/gpuhunt's tests of real offers); two kinds of A100 are told apart by their memory only.
"""

from collections.abc import Iterable

# id of a spec → (Vast's name, memory of the type in GB)
_VAST: dict[str, tuple[str, int]] = {
    "NVIDIA A100 80GB PCIe": ("A100 PCIE", 80),
    "NVIDIA A100-SXM4-40GB": ("A100 SXM4", 40),
    "NVIDIA A100-SXM4-80GB": ("A100 SXM4", 80),
    "NVIDIA A40": ("A40", 48),
    "NVIDIA B200": ("B200", 180),
    "NVIDIA GeForce RTX 3090": ("RTX 3090", 24),
    "NVIDIA GeForce RTX 3090 Ti": ("RTX 3090 Ti", 24),
    "NVIDIA GeForce RTX 4080": ("RTX 4080", 16),
    "NVIDIA GeForce RTX 4090": ("RTX 4090", 24),
    "NVIDIA GeForce RTX 5080": ("RTX 5080", 16),
    "NVIDIA GeForce RTX 5090": ("RTX 5090", 32),
    "NVIDIA H100 80GB HBM3": ("H100 SXM", 80),
    "NVIDIA H100 NVL": ("H100 NVL", 94),
    "NVIDIA H100 PCIe": ("H100 PCIE", 80),
    "NVIDIA H200": ("H200", 141),
    "NVIDIA H200 NVL": ("H200 NVL", 143),
    "NVIDIA L4": ("L4", 24),
    "NVIDIA L40": ("L40", 48),
    "NVIDIA L40S": ("L40S", 48),
    "NVIDIA RTX 6000 Ada Generation": ("RTX 6000Ada", 48),
    "NVIDIA RTX A4000": ("RTX A4000", 16),
    "NVIDIA RTX A5000": ("RTX A5000", 24),
    "NVIDIA RTX A6000": ("RTX A6000", 48),
}
# Vast counts the memory that the driver shows, in MiB: up to a tenth less than what the card is sold as.
_LEAST, _MOST = 0.88, 1.08


def gpu_ids() -> list[str]:
    return sorted(_VAST)


def vast_names(ids: Iterable[str]) -> list[str]:
    return sorted({_VAST[gpu][0] for gpu in ids if gpu in _VAST})


def sold_as(name: str, memory_mb: float) -> tuple[str, int] | None:
    """The id of a spec and its GB for what an offer or an instance is; None for a type nobody here trains on."""
    for gpu, (vast, gb) in _VAST.items():
        if vast == name.replace("_", " ") and _LEAST * gb * 1024 <= memory_mb <= _MOST * gb * 1024:
            return gpu, gb
    return None
