"""What the simulated Lambda Cloud rents out: instance types, regions and, for the account, both as a catalogue.

Names and shapes are Lambda's; prices and who has what are examples that cover what a client meets.
"""

from typing import Any

from infra.simulator.catalog import Catalog, DataCenter, GpuModel
from infra.simulator.service import Service

_REGIONS = {
    "us-east-1": "Virginia, USA",
    "us-south-2": "North Texas, USA",
    "us-west-1": "California, USA",
    "us-west-3": "Utah, USA",
}
# id of a spec → Lambda's words for one GPU of it, and how many a machine has
_TYPES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "NVIDIA RTX A6000": ("a6000", "A6000 (48 GB)", (1, 2, 4)),
    "NVIDIA A100-SXM4-40GB": ("a100_sxm4", "A100 (40 GB SXM4)", (1, 2, 4, 8)),
    "NVIDIA A100-SXM4-80GB": ("a100_80gb_sxm4", "A100 (80 GB SXM4)", (8,)),
    "NVIDIA H100 PCIe": ("h100_pcie", "H100 (80 GB PCIe)", (1,)),
    "NVIDIA H100 80GB HBM3": ("h100_sxm5", "H100 (80 GB SXM5)", (1, 2, 4, 8)),
    "NVIDIA B200": ("b200_sxm6", "B200 (180 GB SXM6)", (1, 8)),
    "NVIDIA A10": ("a10", "A10 (24 GB PCIe)", (1,)),
    "NVIDIA A100-PCIE-40GB": ("a100", "A100 (40 GB PCIe)", (1, 2, 4)),
    "NVIDIA GH200 480GB": ("gh200", "GH200 (96 GB)", (1,)),
}
_GPUS = (
    GpuModel(id="NVIDIA A100-PCIE-40GB", name="A100", memory_gb=40, secure_usd=1.29, stock={"us-east-1": "LOW"}),
    GpuModel(id="NVIDIA GH200 480GB", name="GH200", memory_gb=96, secure_usd=1.49, stock={"us-east-1": "LOW"}),
    GpuModel(id="NVIDIA A10", name="A10", memory_gb=24, secure_usd=0.75, stock={"us-west-1": "LOW"}),
    GpuModel(
        id="NVIDIA RTX A6000",
        name="A6000",
        memory_gb=48,
        secure_usd=0.80,
        stock={"us-west-1": "HIGH", "us-east-1": "LOW"},
    ),
    GpuModel(id="NVIDIA A100-SXM4-40GB", name="A100", memory_gb=40, secure_usd=1.29, stock={"us-east-1": "MEDIUM"}),
    GpuModel(id="NVIDIA A100-SXM4-80GB", name="A100", memory_gb=80, secure_usd=1.79, stock={"us-west-3": "LOW"}),
    GpuModel(id="NVIDIA H100 PCIe", name="H100", memory_gb=80, secure_usd=2.49, stock={"us-west-3": "LOW"}),
    GpuModel(
        id="NVIDIA H100 80GB HBM3",
        name="H100",
        memory_gb=80,
        secure_usd=2.99,
        stock={"us-south-2": "MEDIUM", "us-west-3": "LOW"},
    ),
    GpuModel(id="NVIDIA B200", name="B200", memory_gb=180, secure_usd=4.99, stock={"us-east-1": "NONE"}),
)
CATALOG = Catalog(
    gpus={gpu.id: gpu for gpu in _GPUS},
    data_centers={name: DataCenter(id=name, name=name, region="NORTH_AMERICA") for name in _REGIONS},
)


def region(name: str | None) -> dict[str, str]:
    return {"name": name or "", "description": _REGIONS.get(name or "", "")}


def instance_types(service: Service) -> dict[str, Any]:
    """By name, as GET /instance-types has it; stock with the faults of this moment."""
    found = {}
    for gpu in service.account.catalog.gpus.values():
        levels = service.stock(gpu, "SECURE")
        regions = [region(name) for name, level in levels.items() if level != "NONE"]
        for count in _TYPES[gpu.id][2]:
            kind = instance_type(gpu.id, count, gpu.secure_usd)
            found[kind["name"]] = {"instance_type": kind, "regions_with_capacity_available": regions}
    return found


def instance_type(gpu: str, count: int, usd_per_gpu_hour: float | None = None) -> dict[str, Any]:
    """At its price in the catalogue unless another one is given."""
    usd_per_gpu_hour = usd_per_gpu_hour or CATALOG.gpus[gpu].secure_usd or 0.0
    short, words, _ = _TYPES[gpu]
    return {
        "name": f"gpu_{count}x_{short}",
        "description": f"{count}x {words}",
        "gpu_description": words,
        "price_cents_per_hour": round(usd_per_gpu_hour * 100 * count),
        "specs": {"vcpus": 26 * count, "memory_gib": 225 * count, "storage_gib": 512 * count, "gpus": count},
    }


def of_type(name: str) -> tuple[str, int] | None:
    """GPU and how many of a type's name; None for one that is not sold."""
    return next(
        (
            (gpu, count)
            for gpu, (short, _, counts) in _TYPES.items()
            for count in counts
            if name == f"gpu_{count}x_{short}"
        ),
        None,
    )
