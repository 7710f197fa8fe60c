"""What RunPod's GraphQL fields do: each translated to and from the service, as the REST handlers are.

A method is a root field; `input` is its argument, already coerced. Every refusal is a Refused.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from infra.simulator import billing
from infra.simulator.bodies import MOST_VOLUME_GB, SMALLEST_VOLUME_GB, check_ports
from infra.simulator.catalog import DataCenter, GpuModel, Stock, Tier, fullest
from infra.simulator.pod_env import CPUS_PER_GPU, hostname
from infra.simulator.service import Service
from infra.simulator.state import Pod, PodOrder, Refused, Volume

# Asking for one of these would place or price a pod in a way that is not rehearsed here.
_NOT_HERE = ("gpuTypeIdList", "instanceIds", "countryCode", "cudaVersion", "savingsPlan", "modelReferences")
_COMPLIANCE = ("GDPR", "ISO_IEC_27001", "SOC_2_TYPE_2")
_MEMORY_GB_PER_GPU = 50
_DISK_GB = 50
_STOCK: dict[Stock, str | None] = {"NONE": None, "LOW": "Low", "MEDIUM": "Medium", "HIGH": "High"}

Input = Mapping[str, Any]


class Root:
    """The root value of one request."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def pod(self, _info: object, input: Input | None = None) -> dict[str, Any] | None:
        """A terminated pod, and one that never was, is null and no error."""
        found = self._service.account.pods.get((input or {}).get("podId", ""))
        return None if found is None or found.status == "TERMINATED" else pod_document(found)

    def myself(self, _info: object) -> dict[str, Any]:
        account = self._service.account
        return {
            "pods": [pod_document(pod) for pod in account.live_pods()],
            "networkVolumes": [volume_document(volume) for volume in account.live_volumes()],
            "clientBalance": billing.balance_usd(account, self._service.clock()),
            "currentSpendPerHr": sum(pod.usd_per_hour for pod in account.live_pods() if pod.status == "RUNNING"),
            "pubKey": None,
        }

    def gpuTypes(self, _info: object, input: Input | None = None) -> list[dict[str, Any]]:
        wanted = input or {}
        ids = [*(wanted.get("ids") or ()), *([wanted["id"]] if wanted.get("id") else ())]
        gpus = self._service.account.catalog.gpus.values()
        return [
            _gpu_document(gpu) | {"lowestPrice": partial(self._lowest_price, gpu)}
            for gpu in gpus
            if not ids or gpu.id in ids
        ]

    def dataCenters(self, _info: object) -> list[dict[str, Any]]:
        return [self._data_center(found) for found in self._service.account.catalog.data_centers.values()]

    def podFindAndDeployOnDemand(self, _info: object, input: Input | None = None) -> dict[str, Any]:
        return pod_document(self._service.create_pod(pod_order(input or {})))

    def podEditJob(self, _info: object, input: Input) -> dict[str, Any]:
        """A running container is reset, as RunPod does when any of these changes."""
        changed = {
            "image": input["imageName"],
            "disk_gb": input["containerDiskInGb"],
            "args": input.get("dockerArgs"),
            "env": _env(input) if input.get("env") is not None else None,
            "ports": _ports(input) if input.get("ports") is not None else None,
            "mount_path": input.get("volumeMountPath"),
        }
        return pod_document(self._service.edit_pod(input["podId"], changed))

    def podTerminate(self, _info: object, input: Input) -> None:
        pod = self._service.account.pods.get(input["podId"])
        if pod is None or pod.status == "TERMINATED":
            raise Refused("not_found", "pod not found to terminate")
        self._service.terminate_pod(pod.id)

    def createNetworkVolume(self, _info: object, input: Input) -> dict[str, Any]:
        name, size_gb = input.get("name") or "", _volume_size(input)
        return volume_document(self._service.create_volume(name, size_gb, input["dataCenterId"], None))

    def updateNetworkVolume(self, _info: object, input: Input) -> dict[str, Any]:
        size_gb = _volume_size(input) if input.get("size") is not None else None
        return volume_document(self._service.update_volume(input["id"], input.get("name"), size_gb))

    def deleteNetworkVolume(self, _info: object, input: Input) -> None:
        self._service.delete_volume(input["id"])

    def _lowest_price(self, gpu: GpuModel, _info: object, input: Input | None = None) -> dict[str, Any]:
        """Of the tier asked for, by default of both; there are no bids here."""
        wanted = input or {}
        tiers: list[Tier] = ["SECURE"] if wanted.get("secureCloud") else ["SECURE", "COMMUNITY"]
        fits = [tier for tier in tiers if wanted.get("gpuCount", 1) <= gpu.max_gpus(tier)]
        stock = [level for tier in fits for level in self._service.stock(gpu, tier).values()]
        prices = [usd for tier in fits if (usd := gpu.usd_per_hour(tier)) is not None]
        return {"uninterruptablePrice": min(prices, default=None), "stockStatus": _STOCK[fullest(stock)]}

    def _data_center(self, data_center: DataCenter) -> dict[str, Any]:
        gpus = [gpu for gpu in self._service.account.catalog.gpus.values() if data_center.id in gpu.stock]
        stock = [(gpu, self._service.stock(gpu, "SECURE")[data_center.id]) for gpu in gpus]
        return {
            "id": data_center.id,
            "name": data_center.name,
            "listed": True,
            "region": data_center.region,
            "storageSupport": bool(data_center.volume_kinds),
            "globalNetwork": data_center.global_network,
            "compliance": [name for name in data_center.compliance if name in _COMPLIANCE],
            "gpuAvailability": [
                {
                    "gpuTypeId": gpu.id,
                    "gpuTypeDisplayName": gpu.name,
                    "available": level != "NONE",
                    "stockStatus": _STOCK[level],
                }
                for gpu, level in stock
            ],
        }


def pod_document(pod: Pod) -> dict[str, Any]:
    """A pod as GraphQL shows it, its environment in clear; the fields of the plugin's own queries."""
    return {
        "id": pod.id,
        "name": pod.name,
        "machineId": hostname(pod.id),
        "desiredStatus": pod.status,
        "podType": "RESERVED",
        "imageName": pod.image,
        "dockerArgs": pod.args,
        "env": [f"{name}={value}" for name, value in pod.env.items()],
        "ports": ",".join(pod.ports),
        "gpuCount": pod.gpu_count,
        "vcpuCount": CPUS_PER_GPU * pod.gpu_count,
        "memoryInGb": _MEMORY_GB_PER_GPU * pod.gpu_count,
        "costPerHr": round(pod.usd_per_hour, 6),
        "containerDiskInGb": pod.disk_gb,
        "volumeInGb": pod.persistent_gb,
        "volumeMountPath": pod.mount_path,
        "networkVolumeId": pod.volume_id,
    }


def volume_document(volume: Volume) -> dict[str, Any]:
    return {"id": volume.id, "name": volume.name, "size": volume.size_gb, "dataCenterId": volume.data_center}


def pod_order(wanted: Input) -> PodOrder:
    """Raises Refused for what RunPod refuses without a schema's help, and for what is not rehearsed here.

    stopAfter and terminateAfter are taken and never carried out, which is what RunPod does (runpod/runpodctl#330).
    """
    if wanted.get("templateId"):
        raise Refused("not_found", "template not found")
    if wanted.get("containerRegistryAuthId"):
        raise Refused("rule", "Registry auth not found")
    ignored = [name for name in _NOT_HERE if wanted.get(name)]
    if wanted.get("computeType") == "CPU" or wanted.get("cloudType") == "ALL" or ignored:
        raise Refused("rule", f"not part of the simulator: {', '.join(ignored) or 'CPU pods, cloudType ALL'}")
    if not wanted.get("imageName"):
        raise Refused("rule", "imageName is required without a template")
    volume_id = wanted.get("networkVolumeId") or None
    persistent_gb = wanted.get("volumeInGb") or 0
    return PodOrder(
        name=wanted.get("name") or "",
        image=wanted["imageName"],
        gpu=wanted.get("gpuTypeId") or "",
        gpu_count=wanted.get("gpuCount") or 1,
        tier="COMMUNITY" if wanted.get("cloudType") == "COMMUNITY" else "SECURE",
        args=wanted.get("dockerArgs") or "",
        disk_gb=wanted.get("containerDiskInGb") or _DISK_GB,
        env=_env(wanted),
        ports=_ports(wanted),
        data_centers=(wanted["dataCenterId"],) if wanted.get("dataCenterId") else (),
        volume_id=volume_id,
        mount_path=(wanted.get("volumeMountPath") or "/workspace") if volume_id or persistent_gb else None,
        persistent_gb=persistent_gb,
        allowed_cuda_versions=tuple(wanted.get("allowedCudaVersions") or ()),
        min_cuda_version=wanted.get("minCudaVersion"),
        global_networking=bool(wanted.get("globalNetwork")),
        start_ssh=bool(wanted.get("startSsh")),
    )


def _gpu_document(gpu: GpuModel) -> dict[str, Any]:
    return {
        "id": gpu.id,
        "displayName": gpu.name,
        "manufacturer": gpu.manufacturer,
        "memoryInGb": gpu.memory_gb,
        "secureCloud": gpu.secure_usd is not None,
        "communityCloud": gpu.community_usd is not None,
        "securePrice": gpu.secure_usd,
        "communityPrice": gpu.community_usd,
        "maxGpuCount": max(gpu.max_gpus("SECURE"), gpu.max_gpus("COMMUNITY")),
        "maxGpuCountSecureCloud": gpu.max_gpus("SECURE"),
        "maxGpuCountCommunityCloud": gpu.max_gpus("COMMUNITY"),
    }


def _env(wanted: Input) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in wanted.get("env") or ()}


def _ports(wanted: Input) -> list[str]:
    ports = [port.strip() for port in (wanted.get("ports") or "").split(",") if port.strip()]
    check_ports(ports)
    return ports


def _volume_size(wanted: Input) -> int:
    size_gb = int(wanted.get("size") or 0)
    if not SMALLEST_VOLUME_GB <= size_gb <= MOST_VOLUME_GB:
        raise Refused("rule", f"a network volume has {SMALLEST_VOLUME_GB} to {MOST_VOLUME_GB} GB")
    return size_gb
