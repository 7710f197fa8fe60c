"""The machines that the simulated Vast.ai rents out: each offer is one machine, made of the same catalogue. Pure.

Names, memories in MiB and shapes as Vast's offers have them; prices, places and reliability are examples.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.simulator.catalog import Catalog, GpuModel, Stock, Tier, version_key

STORAGE_USD_PER_GB_MONTH = 0.15
TRAFFIC_USD_PER_GB = 0.005
# Vast's word for a type of the catalogue, and the memory its drivers show.
_NAMES: Mapping[str, tuple[str, int]] = {
    "NVIDIA RTX A4000": ("RTX A4000", 16376),
    "NVIDIA L4": ("L4", 23034),
    "NVIDIA RTX A5000": ("RTX A5000", 24564),
    "NVIDIA GeForce RTX 3090": ("RTX 3090", 24576),
    "NVIDIA GeForce RTX 4090": ("RTX 4090", 24564),
    "NVIDIA GeForce RTX 5090": ("RTX 5090", 32607),
    "NVIDIA A40": ("A40", 46068),
    "NVIDIA RTX A6000": ("RTX A6000", 49140),
    "NVIDIA L40S": ("L40S", 46068),
    "NVIDIA A100 80GB PCIe": ("A100 PCIE", 81920),
    "NVIDIA A100-SXM4-80GB": ("A100 SXM4", 81920),
    "NVIDIA H100 80GB HBM3": ("H100 SXM", 81559),
    "NVIDIA H200": ("H200", 143771),
}
_MACHINES: Mapping[Stock, int] = {"NONE": 0, "LOW": 1, "MEDIUM": 3, "HIGH": 6}
_COUNTS = (1, 2, 4, 8)
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda left, right: left == right,
    "neq": lambda left, right: left != right,
    "gte": lambda left, right: left >= right,
    "gt": lambda left, right: left > right,
    "lte": lambda left, right: left <= right,
    "lt": lambda left, right: left < right,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One offer. `gpu` is the catalogue's id."""

    id: int
    gpu: str
    count: int
    tier: Tier
    place: str

    def document(self, catalog: Catalog, disk_gb: float) -> dict[str, Any]:
        model = catalog.gpus[self.gpu]
        name, memory_mb = _NAMES[self.gpu]
        base = (model.usd_per_hour(self.tier) or 0.0) * self.count
        return {
            "id": self.id,
            "ask_contract_id": self.id,
            "machine_id": self.id // 10,
            "gpu_name": name,
            "gpu_ram": memory_mb,
            "num_gpus": self.count,
            "cpu_cores_effective": 8.0 * self.count,
            "cpu_ram": 64000 * self.count,
            "disk_space": 1500.0,
            "dph_base": base,
            "dph_total": base + storage_usd_per_hour(disk_gb),
            "min_bid": round(base * 0.6, 4),
            "storage_cost": STORAGE_USD_PER_GB_MONTH,
            "geolocation": self.place,
            "reliability2": 0.995 if self.tier == "SECURE" else 0.98,
            "cuda_max_good": float(max(model.cuda_versions, key=version_key)),
            "inet_down": 2500.0,
            "inet_up": 1800.0,
            "inet_down_cost": TRAFFIC_USD_PER_GB,
            "inet_up_cost": TRAFFIC_USD_PER_GB,
            "direct_port_count": 100,
            "verified": True,
            "verification": "verified",
            "rentable": True,
            "rented": False,
            "datacenter": self.tier == "SECURE",
            "hosting_type": 1 if self.tier == "SECURE" else 0,
        }


def machines(catalog: Catalog) -> list[Machine]:
    return [machine for model in catalog.gpus.values() if model.id in _NAMES for machine in _of_type(model)]


def vast_name(gpu: str) -> tuple[str, int]:
    return _NAMES.get(gpu, (gpu, 0))


def storage_usd_per_hour(disk_gb: float) -> float:
    return disk_gb * STORAGE_USD_PER_GB_MONTH / 730


def fits(document: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether an offer is what a search asks for; a field that offers do not have is ignored, as Vast does."""
    return all(
        _COMPARE[operator](document[name], wanted)
        for name, condition in query.items()
        if name in document and isinstance(condition, dict)
        for operator, wanted in condition.items()
        if operator in _COMPARE
    )


def _of_type(model: GpuModel) -> Iterator[Machine]:
    tiers: tuple[Tier, ...] = ("SECURE", "COMMUNITY")
    for tier in tiers:
        stock = model.stock if tier == "SECURE" else {"Sweden, SE": model.community_stock}
        for place, level in stock.items():
            for number in range(_MACHINES[level]):
                for count in _COUNTS:
                    if count <= model.max_gpus(tier):
                        key = zlib.crc32(f"{model.id} {tier} {place} {number}".encode())
                        yield Machine(id=key * 10 + count, gpu=model.id, count=count, tier=tier, place=place)
