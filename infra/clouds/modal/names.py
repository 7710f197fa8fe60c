"""GPU types and what they cost at Modal: the ids that job specs use, Modal's words, and dollars. Pure.

Modal's words and how many of one make a container: modal.com/docs/guide/gpu, November 2026. `H100!` is an H100 for
sure; without the mark Modal may give an H200 at the same price, and a run would not be what its lock says.

List prices: modal.com/pricing, by the second, summer of 2026. A sandbox pays for cores and memory besides, at three
times a function's rate; what it asks for is also its limit here, so that the price of an hour is known before it
begins. Rates of the workspace itself win over the list where its API tells them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CORES, MEMORY_GIB = 4, 32
"""Physical cores and GiB of memory that a sandbox gets for each GPU."""
CORE_USD, GIB_USD = 0.00003942 * 3600, 0.00000672 * 3600


@dataclass(frozen=True, slots=True)
class Gpu:
    """`asked` is Modal's word for it; `most` of them fit one container."""

    asked: str
    memory_gb: int
    usd_per_s: float
    most: int = 8

    @property
    def word(self) -> str:
        """As rates and tags have it: letters, digits and hyphens."""
        return self.asked.rstrip("!")


_GPUS: Mapping[str, Gpu] = {
    "NVIDIA A100-SXM4-40GB": Gpu("A100-40GB", 40, 0.000583),
    "NVIDIA A100-SXM4-80GB": Gpu("A100-80GB", 80, 0.000694),
    "NVIDIA B200": Gpu("B200", 180, 0.001736),
    "NVIDIA H100 80GB HBM3": Gpu("H100!", 80, 0.001097),
    "NVIDIA H200": Gpu("H200", 141, 0.001261),
    "NVIDIA L4": Gpu("L4", 24, 0.000222),
    "NVIDIA L40S": Gpu("L40S", 48, 0.000542),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": Gpu("RTX-PRO-6000", 96, 0.000842, most=1),
}


def gpu_ids() -> list[str]:
    return sorted(_GPUS)


def find(gpu: str) -> Gpu | None:
    return _GPUS.get(gpu)


def sold_as(word: str) -> str:
    """The id of a spec for Modal's word; the word itself for one nobody here trains on."""
    return next((gpu for gpu, it in _GPUS.items() if it.word == word.rstrip("!")), word)


def usd_per_gpu_hour(gpu: str, rates: Mapping[str, float]) -> float:
    """One GPU with its cores and its memory. `rates` are the workspace's, dollars per unit and hour, by names that
    Modal may change: one that is not understood leaves the list price, of several the dearest counts. KeyError: not
    sold."""
    it = _GPUS[gpu]
    named = {key: usd for key, usd in rates.items() if _bare(key) == _bare(it.word)}
    gpu_usd = max(named.values(), default=it.usd_per_s * 3600)
    return gpu_usd + CORES * _rate(rates, ("cpu", "core"), CORE_USD) + MEMORY_GIB * _rate(rates, ("memory",), GIB_USD)


def _rate(rates: Mapping[str, float], words: Iterable[str], listed_usd: float) -> float:
    """Where a sandbox has a rate of its own, that one."""
    named = {key.lower(): usd for key, usd in rates.items() if any(word in key.lower() for word in words)}
    own = [usd for key, usd in named.items() if "sandbox" in key]
    return max(own or named.values(), default=listed_usd)


def _bare(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"nvidia|gpu", "", key.lower()))
