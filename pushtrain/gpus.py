"""GPU type ids of specs, RunPod's where it has the type, so that a typing mistake, or a GPU no run can use, is found
before anything is asked.

Known since 2026-08-27. Source: RunPod's documentation page "GPU types" and the public `gpuTypes` query of that day.
Types that other clouds alone have are called as their driver shows them (nvidia-smi): A10, A100 of PCIe with 40 GB and
GH200 are Lambda's (its API's instance types; NVIDIA, "Supported NVIDIA GPU Products" of the driver's README).
The list ages; at run time `Cloud.gpu_names()` and `Cloud.offers()` decide.
"""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import NamedTuple


class GpuType(NamedTuple):
    """`name` is the id as RunPod's API takes it, letter for letter, else the driver's name; memory per GPU in GB as it
    is sold.

    `display` is RunPod's name for people where its words are not in the id.
    """

    name: str
    memory_gb: int
    display: str = ""


GPU_TYPES = (
    GpuType("AMD Instinct MI300X OAM", 192),
    GpuType("NVIDIA A10", 24),
    GpuType("NVIDIA A100 80GB PCIe", 80),
    GpuType("NVIDIA A100-PCIE-40GB", 40, "A100 PCIe 40GB"),
    GpuType("NVIDIA A100-SXM4-40GB", 40, "A100 SXM 40GB"),
    GpuType("NVIDIA A100-SXM4-80GB", 80, "A100 SXM"),
    GpuType("NVIDIA A30", 24),
    GpuType("NVIDIA A40", 48),
    GpuType("NVIDIA B200", 180),
    GpuType("NVIDIA B300 SXM6 AC", 288),
    GpuType("NVIDIA GeForce RTX 3070", 8),
    GpuType("NVIDIA GeForce RTX 3080", 10),
    GpuType("NVIDIA GeForce RTX 3080 Ti", 12),
    GpuType("NVIDIA GeForce RTX 3090", 24),
    GpuType("NVIDIA GeForce RTX 3090 Ti", 24),
    GpuType("NVIDIA GeForce RTX 4070 Ti", 12),
    GpuType("NVIDIA GeForce RTX 4080", 16),
    GpuType("NVIDIA GeForce RTX 4080 SUPER", 16),
    GpuType("NVIDIA GeForce RTX 4090", 24),
    GpuType("NVIDIA GeForce RTX 5080", 16),
    GpuType("NVIDIA GeForce RTX 5090", 32),
    GpuType("NVIDIA GH200 480GB", 96, "GH200"),
    GpuType("NVIDIA H100 80GB HBM3", 80, "H100 SXM"),
    GpuType("NVIDIA H100 NVL", 94),
    GpuType("NVIDIA H100 PCIe", 80),
    GpuType("NVIDIA H200", 141, "H200 SXM"),
    GpuType("NVIDIA H200 NVL", 143),
    GpuType("NVIDIA L4", 24),
    GpuType("NVIDIA L40", 48),
    GpuType("NVIDIA L40S", 48),
    GpuType("NVIDIA RTX 2000 Ada Generation", 16),
    GpuType("NVIDIA RTX 4000 Ada Generation", 20),
    GpuType("NVIDIA RTX 4000 SFF Ada Generation", 20),
    GpuType("NVIDIA RTX 5000 Ada Generation", 32),
    GpuType("NVIDIA RTX 6000 Ada Generation", 48),
    GpuType("NVIDIA RTX A2000", 6),
    GpuType("NVIDIA RTX A4000", 16),
    GpuType("NVIDIA RTX A4500", 20),
    GpuType("NVIDIA RTX A5000", 24),
    GpuType("NVIDIA RTX A6000", 48),
    GpuType("NVIDIA RTX PRO 4000 Blackwell", 24),
    GpuType("NVIDIA RTX PRO 4500 Blackwell", 32),
    GpuType("NVIDIA RTX PRO 4500 Blackwell Server Edition", 32),
    GpuType("NVIDIA RTX PRO 5000 Blackwell", 48),
    GpuType("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 96),
    GpuType("NVIDIA RTX PRO 6000 Blackwell Server Edition", 96),
    GpuType("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1g.24gb", 24),
    GpuType("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 2g.48gb", 48),
    GpuType("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 96),
    GpuType("Tesla V100-FHHL-16GB", 16),
    GpuType("Tesla V100-PCIE-16GB", 16),
    GpuType("Tesla V100-SXM2-16GB", 16),
    GpuType("Tesla V100-SXM2-32GB", 32),
)
GPU_NAMES = tuple(gpu.name for gpu in GPU_TYPES)
# torch 2.15's default Linux wheel is built for CUDA 13; a host with an older driver could not run it.
MIN_CUDA_VERSION = "13.0"
# The trainer's torch is the CUDA 13 wheel: nothing of AMD's, no kernels below compute capability 7.5
# (pytorch/pytorch#172352 and #190385).
_AMD = re.compile(r"\b(AMD|Instinct|MI\d{2,3}X?)\b", re.IGNORECASE)
_TOO_OLD = re.compile(r"\b(V100|P100|P40|P4|M60|M40|K80|TITAN (V|Xp?)|GTX 10\d\d( ?Ti)?)\b", re.IGNORECASE)
_ARM = re.compile(r"\bG[HB]200\b", re.IGNORECASE)
# Turing, compute capability 7.5, has no bf16: that begins with 8.0 (NVIDIA, CUDA C++ Programming Guide, table of
# arithmetic throughput).
_TURING = re.compile(r"\b(T4G?|T1000|T2000|TITAN RTX|Quadro RTX \d{4}|RTX 20[5-8]0|GTX 16[356]0)\b", re.IGNORECASE)


def unusable(name: str, *, bf16: bool = False) -> str | None:
    """Why no run of ours, or with `bf16` none that computes in bf16, can use GPUs of this type; None when they can, or
    when nothing is known against it."""
    if _AMD.search(name):
        return "the trainer's torch is built for CUDA, this is an AMD GPU"
    if _ARM.search(name):
        return "its CPU is an Arm, and the images that pods are made of, the trainer's among them, are for x86"
    if _TOO_OLD.search(name):
        return "the trainer's torch is built for CUDA 13, which needs compute capability 7.5 (Turing) or newer"
    if bf16 and _TURING.search(name):
        return "it has no bf16, in which a training computes unless train.bf16 is false"
    return None


USABLE_GPU_NAMES = tuple(name for name in GPU_NAMES if not unusable(name))
_DISPLAY = {gpu.name: gpu.display for gpu in GPU_TYPES if gpu.display}


def memory_gb(name: str) -> int | None:
    """Memory of one GPU of this type; None for a type this list does not have."""
    return next((gpu.memory_gb for gpu in GPU_TYPES if gpu.name == name), None)


def nearest(name: str, names: Iterable[str] = GPU_NAMES, count: int = 3) -> list[str]:
    """The `count` ids most like `name`, best first; empty when nothing is like it.

    People write `a40`, `RTX 4090` or `H100`, so the maker's words count for nothing and whole words for most.
    """
    wanted = _words(name)
    scores = {
        known: max(_likeness(wanted, _words(alias)) for alias in (known, _DISPLAY.get(known, known))) for known in names
    }
    alike = [known for known, score in scores.items() if score >= 0.6]
    return sorted(alike, key=lambda known: (-scores[known], known))[:count]


def _words(name: str) -> list[str]:
    words = name[:80].lower().replace("-", " ").split()
    return [word for word in words if word not in ("nvidia", "geforce", "tesla")]


def _likeness(wanted: list[str], known: list[str]) -> float:
    """1 for the same words, at least 0.7 when every wanted word is there, else how alike the letters are."""
    letters = SequenceMatcher(None, " ".join(wanted), " ".join(known)).ratio()
    return max(letters, 0.7 + 0.3 * letters) if wanted and set(wanted) <= set(known) else letters
