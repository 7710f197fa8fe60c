"""What the simulated JarvisLabs rents out: types of GPU by region, as its catalogue of servers lists them. Pure.

Shapes and regions as real answers have them (dstackai/gpuhunt's tests); who has how many free is made up. Prices are
examples of the right size.
"""

from typing import Any

from infra.simulator.catalog import Catalog, DataCenter, GpuModel, Stock

HOSTS = {"backendn": "india-noida-01", "backendc": "india-chennai-01", "backendeu": "europe-01"}
FRAMEWORKS = {"pytorch": "PyTorch", "fastai": "fast.ai", "vm": "Virtual machine"}
LEAST_GB, MOST_GB = 50, 2048
NOIDA, CHENNAI, EUROPE = HOSTS.values()

_GPUS = (
    GpuModel(id="L4", name="L4", memory_gb=24, secure_usd=0.44, stock={NOIDA: "HIGH"}),
    GpuModel(id="A5000", name="A5000", memory_gb=24, secure_usd=0.49, stock={CHENNAI: "HIGH"}),
    GpuModel(id="A6000", name="A6000", memory_gb=48, secure_usd=0.79, stock={NOIDA: "HIGH", CHENNAI: "MEDIUM"}),
    GpuModel(id="A100", name="A100", memory_gb=40, secure_usd=1.29, stock={NOIDA: "MEDIUM"}),
    GpuModel(id="A100-80GB", name="A100-80GB", memory_gb=80, secure_usd=1.49, stock={NOIDA: "LOW"}),
    GpuModel(id="RTX-PRO6000", name="RTX-PRO6000", memory_gb=96, secure_usd=1.89, stock={CHENNAI: "LOW"}),
    GpuModel(id="H100", name="H100", memory_gb=80, secure_usd=2.99, stock={NOIDA: "LOW", EUROPE: "HIGH"}),
    GpuModel(id="H200", name="H200", memory_gb=141, secure_usd=3.80, stock={NOIDA: "NONE", EUROPE: "LOW"}),
)
CATALOG = Catalog(
    gpus={gpu.id: gpu for gpu in _GPUS},
    data_centers={region: DataCenter(id=region, name=region, region="ASIA") for region in HOSTS.values()},
)
_FREE: dict[Stock, int] = {"NONE": 0, "LOW": 2, "MEDIUM": 4, "HIGH": 12}


def row(gpu: GpuModel, region: str, stock: Stock) -> dict[str, Any]:
    """Numbers as text where JarvisLabs writes them so; Europe's rows are for containers and VMs alike."""
    free = _FREE[stock]
    return {
        "gpu_type": gpu.id,
        "region": region,
        "num_free_devices": max(0, free - 1),
        "effective_num_free_devices": free,
        "spot_num_free_devices": free,
        "price_per_hour": gpu.secure_usd,
        "spot_price": None if region == EUROPE else round((gpu.secure_usd or 0.0) * 0.6, 2),
        "vram": str(gpu.memory_gb),
        "arc": "",
        "cpus_per_gpu": 16,
        "ram_per_gpu": 112,
        "workload_type": None if region == EUROPE else "container",
        "num_gpus": "8",
    }
