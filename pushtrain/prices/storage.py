"""RunPod's list prices of storage; those of GPUs come live with every offer. Where in doubt, on the dear side."""

from typing import Literal

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import VolumeKind

# USD per GB and month. Network volumes, first TB and above: docs.runpod.io/storage/network-volumes (the TB is counted
# as 1024 GB). HIGH_PERFORMANCE: the same page in October 2025; RunPod's newer page says only that it is dearer and
# varies by data center, so this one is not certain. Disks of a running pod: docs.runpod.io/pods/pricing.
VOLUME_USD, VOLUME_USD_ABOVE, VOLUME_FIRST_GB = 0.07, 0.05, 1024
HIGH_PERFORMANCE_USD = 0.14
DISK_USD = CLOUDS["runpod"].own_disk_usd

HIGH_PERFORMANCE_NOTE = (
    "high-performance volumes are counted at $0.14 per GB and month; RunPod says that their price varies by data center"
)


STORAGE_LINE = (
    f"storage a GB and month: network volume ${VOLUME_USD:.2f} (${VOLUME_USD_ABOVE:.2f} above 1 TB), high-performance "
    f"${HIGH_PERFORMANCE_USD:.2f}, disk of a running pod ${DISK_USD:.2f}; RunPod's pages of August 2026"
)


def storage_usd_per_month(kind: VolumeKind | Literal["DISK"], size_gb: int, cloud: str = "runpod") -> float:
    """USD per month of so many GB; DISK is a disk of a running pod, RunPod's at a cloud that only prices are known
    of."""
    if kind == "DISK":
        return (CLOUDS[cloud].own_disk_usd if cloud in CLOUDS else DISK_USD) * size_gb
    if cloud in CLOUDS and (usd := CLOUDS[cloud].volume_usd) is not None:
        return usd * max(size_gb, CLOUDS[cloud].volume_gb[0])
    if kind == "HIGH_PERFORMANCE":
        return HIGH_PERFORMANCE_USD * size_gb
    return VOLUME_USD * min(size_gb, VOLUME_FIRST_GB) + VOLUME_USD_ABOVE * max(0, size_gb - VOLUME_FIRST_GB)
