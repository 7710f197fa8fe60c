"""RunPod's list prices of storage; those of GPUs come live with every offer. Where in doubt, on the dear side."""

from collections.abc import Iterable
from typing import Literal

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
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


def storage_said(clouds: Iterable[str]) -> str:
    """What storage is counted at, for people."""
    return "; ".join(STORAGE_LINE if cloud == DEFAULT_CLOUD else _said_of(cloud) for cloud in clouds if cloud in CLOUDS)


def _said_of(cloud: str) -> str:
    can = CLOUDS[cloud]
    volume = VOLUME_USD if can.volume_usd is None else can.volume_usd
    said = [f"network volume ${volume:.2f}"] if can.volume_tiers else []
    said.append(f"disk of a pod ${can.own_disk_usd:.2f}" if can.own_disk_usd else "the machine's disk is in its price")
    traffic = f"; traffic at most ${can.traffic_usd:.2f} a GB" if can.traffic_usd else ""
    return f"storage at {can.title} a GB and month: {', '.join(said)} ({can.storage_from}){traffic}"


def storage_usd_per_month(kind: VolumeKind | Literal["DISK"], size_gb: int, cloud: str = "runpod") -> float:
    """USD per month of so many GB; DISK is a disk of a running pod, RunPod's at a cloud that only prices are known
    of."""
    if kind == "DISK":
        return (CLOUDS[cloud].own_disk_usd if cloud in CLOUDS else DISK_USD) * size_gb
    if cloud in CLOUDS and (usd := CLOUDS[cloud].volume_usd) is not None:
        return usd * (max(size_gb, CLOUDS[cloud].volume_gb[0]) if CLOUDS[cloud].has_sized_volumes else size_gb)
    if kind == "HIGH_PERFORMANCE":
        return HIGH_PERFORMANCE_USD * size_gb
    return VOLUME_USD * min(size_gb, VOLUME_FIRST_GB) + VOLUME_USD_ABOVE * max(0, size_gb - VOLUME_FIRST_GB)
