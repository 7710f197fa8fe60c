"""JarvisLabs' words and ours: GPU types, regions and the hosts that serve them, names that are too long there. Pure.

GPU types and hosts are those of the client jarvislabs 0.2.19 and of dstackai/gpuhunt 0.1.34; which host serves a region
no answer tells, so a region that is not here can be seen and not rented in.
"""

import hashlib
from collections.abc import Iterable

# What a job spec calls a type → how JarvisLabs may write it, and its memory in GB.
_GPUS: dict[str, tuple[tuple[str, ...], int]] = {
    "NVIDIA A100-SXM4-40GB": (("A100",), 40),
    "NVIDIA A100-SXM4-80GB": (("A100-80GB",), 80),
    "NVIDIA A30": (("A30",), 24),
    "NVIDIA H100 80GB HBM3": (("H100",), 80),
    "NVIDIA H200": (("H200",), 141),
    "NVIDIA L4": (("L4",), 24),
    "NVIDIA RTX 6000 Ada Generation": (("RTX6000Ada",), 48),
    "NVIDIA RTX A5000": (("A5000",), 24),
    "NVIDIA RTX A6000": (("A6000",), 48),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": (("RTX-PRO6000", "RTX PRO 6000"), 96),
}
_LEAST, _MOST = 0.88, 1.12
# In the order in which a pod that names no region is placed, as JarvisLabs' own client does it.
HOSTS: dict[str, str] = {
    "india-noida-01": "backendn",
    "india-chennai-01": "backendc",
    "europe-01": "backendeu",
    "india-01": "backendprod",
}
# Reads of the whole account go here.
HOME = "india-noida-01"
# More GPUs than this an instance cannot have there.
MOST_GPUS = {"europe-01": 1}
INSTANCE_CHARS, FILE_SYSTEM_CHARS = 40, 30


def gpu_ids() -> list[str]:
    return sorted(_GPUS)


def sold_as(name: str, memory_gb: float) -> tuple[str, int] | None:
    """The id of a spec and its GB; None for a type nobody here trains on. Memory 0: not told, the first that fits."""
    for gpu, (names, gb) in _GPUS.items():
        if name in names and (not memory_gb or _LEAST * gb <= memory_gb <= _MOST * gb):
            return gpu, gb
    return None


def short(name: str, chars: int) -> str:
    """The name itself where it fits, else its beginning and a hash, exactly `chars` long."""
    if len(name) <= chars:
        return name
    return f"{name[: chars - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def whole(shown: str, chars: int, known: Iterable[str]) -> str:
    """The one of `known` that was shortened to what is shown; else what is shown."""
    if len(shown) != chars:
        return shown
    return next((name for name in known if short(name, chars) == shown), shown)
