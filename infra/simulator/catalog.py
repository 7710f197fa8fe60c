"""What the simulated cloud rents out.

GPU ids are RunPod's own. Prices are USD per GPU and hour as seen in August 2026 where known (RTX 4090, RTX PRO 4500),
otherwise examples of the right size: a rehearsal must never quote money from here as if it were the real price list.
Which data centers have network volumes, and who has which GPU in stock, is made up to cover every case a client meets:
stock without storage, storage without stock, dear storage only, several data centers for one GPU, community only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Tier = Literal["SECURE", "COMMUNITY"]
Stock = Literal["NONE", "LOW", "MEDIUM", "HIGH"]
VolumeKind = Literal["STANDARD", "HIGH_PERFORMANCE"]

_STOCK_ORDER: tuple[Stock, ...] = ("NONE", "LOW", "MEDIUM", "HIGH")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuModel:
    """One GPU type. A price of None: not rented in that tier. `stock` maps data center to secure stock."""

    id: str
    name: str
    memory_gb: int
    secure_usd: float | None
    community_usd: float | None = None
    max_count: int = 8
    community_max_count: int = 4
    community_stock: Stock = "NONE"
    stock: Mapping[str, Stock] = field(default_factory=dict)
    cuda_versions: tuple[str, ...] = ("12.8", "13.0")
    manufacturer: Literal["NVIDIA", "AMD"] = "NVIDIA"

    def usd_per_hour(self, tier: Tier) -> float | None:
        return self.secure_usd if tier == "SECURE" else self.community_usd

    def max_gpus(self, tier: Tier) -> int:
        if self.usd_per_hour(tier) is None:
            return 0
        return self.max_count if tier == "SECURE" else self.community_max_count


@dataclass(frozen=True, kw_only=True, slots=True)
class DataCenter:
    id: str
    name: str
    region: str
    volume_kinds: tuple[VolumeKind, ...] = ("STANDARD",)
    global_network: bool = False
    compliance: tuple[str, ...] = ("SOC_2_TYPE_2",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    gpus: Mapping[str, GpuModel]
    data_centers: Mapping[str, DataCenter]


def fullest(levels: Iterable[Stock]) -> Stock:
    return max(levels, key=_STOCK_ORDER.index, default="NONE")


def version_key(version: str) -> tuple[int, ...]:
    """CUDA versions compare as numbers: 12.11 is above 12.2."""
    return tuple(int(part) for part in version.split("."))


_DATA_CENTERS = (
    DataCenter(id="EU-RO-1", name="EU Romania 1", region="EUROPE", compliance=("GDPR", "ISO_IEC_27001")),
    DataCenter(
        id="EU-SE-1",
        name="EU Sweden 1",
        region="EUROPE",
        volume_kinds=("STANDARD", "HIGH_PERFORMANCE"),
        global_network=True,
        compliance=("GDPR", "RENEWABLE"),
    ),
    DataCenter(id="EUR-IS-1", name="EUR Iceland 1", region="EUROPE", compliance=("GDPR", "RENEWABLE")),
    DataCenter(id="CA-MTL-1", name="CA Montreal 1", region="NORTH_AMERICA", global_network=True),
    DataCenter(
        id="US-KS-2",
        name="US Kansas 2",
        region="NORTH_AMERICA",
        volume_kinds=("STANDARD", "HIGH_PERFORMANCE"),
        global_network=True,
        compliance=("SOC_2_TYPE_2", "ISO_IEC_27001"),
    ),
    DataCenter(id="US-CA-2", name="US California 2", region="NORTH_AMERICA", volume_kinds=("HIGH_PERFORMANCE",)),
    DataCenter(id="US-TX-3", name="US Texas 3", region="NORTH_AMERICA", volume_kinds=(), global_network=True),
    DataCenter(id="AP-JP-1", name="AP Japan 1", region="ASIA", volume_kinds=()),
)

_GPUS = (
    GpuModel(
        id="NVIDIA RTX A4000",
        name="RTX A4000",
        memory_gb=16,
        secure_usd=0.25,
        community_usd=0.17,
        community_stock="MEDIUM",
        stock={"EU-RO-1": "MEDIUM", "EU-SE-1": "LOW"},
    ),
    GpuModel(id="NVIDIA L4", name="L4", memory_gb=24, secure_usd=0.43, stock={"US-TX-3": "MEDIUM", "EU-RO-1": "LOW"}),
    GpuModel(
        id="NVIDIA RTX A5000",
        name="RTX A5000",
        memory_gb=24,
        secure_usd=0.27,
        community_usd=0.16,
        community_stock="HIGH",
        stock={"EU-SE-1": "HIGH", "US-KS-2": "LOW"},
    ),
    GpuModel(
        id="NVIDIA GeForce RTX 3090",
        name="RTX 3090",
        memory_gb=24,
        secure_usd=0.46,
        community_usd=0.22,
        community_stock="HIGH",
    ),
    GpuModel(
        id="NVIDIA GeForce RTX 4090",
        name="RTX 4090",
        memory_gb=24,
        secure_usd=0.74,
        community_usd=0.34,
        community_stock="HIGH",
        stock={"EU-RO-1": "HIGH", "EUR-IS-1": "MEDIUM", "US-TX-3": "HIGH", "US-KS-2": "LOW"},
    ),
    GpuModel(
        id="NVIDIA GeForce RTX 5090",
        name="RTX 5090",
        memory_gb=32,
        secure_usd=0.94,
        community_usd=0.69,
        community_stock="LOW",
        stock={"EUR-IS-1": "LOW", "AP-JP-1": "MEDIUM"},
        cuda_versions=("12.8", "13.0"),
    ),
    GpuModel(
        id="NVIDIA RTX PRO 4500 Blackwell",
        name="RTX PRO 4500",
        memory_gb=32,
        secure_usd=0.72,
        community_usd=0.34,
        community_stock="LOW",
        stock={"EU-RO-1": "MEDIUM"},
        cuda_versions=("12.8", "13.0"),
    ),
    GpuModel(
        id="NVIDIA A40",
        name="A40",
        memory_gb=48,
        secure_usd=0.40,
        max_count=10,
        stock={"EU-SE-1": "HIGH", "CA-MTL-1": "HIGH", "US-KS-2": "MEDIUM", "US-TX-3": "LOW"},
    ),
    GpuModel(
        id="NVIDIA RTX A6000",
        name="RTX A6000",
        memory_gb=48,
        secure_usd=0.49,
        community_usd=0.33,
        community_stock="MEDIUM",
        stock={"EU-SE-1": "MEDIUM", "CA-MTL-1": "MEDIUM", "US-TX-3": "HIGH"},
    ),
    GpuModel(
        id="NVIDIA L40S",
        name="L40S",
        memory_gb=48,
        secure_usd=0.86,
        community_usd=0.79,
        community_stock="LOW",
        stock={"US-KS-2": "MEDIUM", "US-TX-3": "MEDIUM"},
    ),
    GpuModel(
        id="NVIDIA A100 80GB PCIe",
        name="A100 PCIe",
        memory_gb=80,
        secure_usd=1.64,
        community_usd=1.19,
        community_stock="LOW",
        stock={"CA-MTL-1": "LOW", "US-KS-2": "MEDIUM", "EUR-IS-1": "MEDIUM"},
    ),
    GpuModel(
        id="NVIDIA A100-SXM4-80GB",
        name="A100 SXM",
        memory_gb=80,
        secure_usd=1.74,
        stock={"EU-SE-1": "LOW", "US-KS-2": "HIGH"},
    ),
    GpuModel(
        id="NVIDIA H100 80GB HBM3",
        name="H100 SXM",
        memory_gb=80,
        secure_usd=2.99,
        community_usd=2.69,
        community_stock="LOW",
        stock={"US-CA-2": "MEDIUM", "US-KS-2": "LOW", "AP-JP-1": "HIGH"},
    ),
    GpuModel(
        id="NVIDIA H200",
        name="H200 SXM",
        memory_gb=141,
        secure_usd=3.99,
        stock={"US-CA-2": "LOW", "AP-JP-1": "MEDIUM"},
        cuda_versions=("12.8", "13.0"),
    ),
    GpuModel(
        id="NVIDIA B200",
        name="B200",
        memory_gb=180,
        secure_usd=5.98,
        stock={"US-CA-2": "NONE"},
        cuda_versions=("12.8", "13.0"),
    ),
)

DEFAULT_CATALOG = Catalog(gpus={gpu.id: gpu for gpu in _GPUS}, data_centers={dc.id: dc for dc in _DATA_CENTERS})
