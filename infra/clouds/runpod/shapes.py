"""RunPod's JSON and pushtrain's words for it, both ways. Pure; field by field as REST v2's OpenAPI names them.

Reading raises KeyError, TypeError, ValueError or AttributeError for a shape nobody knows.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args

from pushtrain.cloud import Offer, Pod, PodRequest, SshAddress, Stock, Template, Volume, VolumeKind, VolumeRequest
from pushtrain.errors import RequestRejected

GONE = "TERMINATED"
# RunPod charges in jobs five minutes apart, network volumes by the hour: a bucket that ended this long ago has all.
_SETTLED_S, _BUCKET_S = 900, 3600


def path(collection: str, resource_id: str) -> str:
    """An id RunPod never gave would turn into another URL, and 'absent' into a lie: RequestRejected."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", resource_id):
        raise RequestRejected(f"{resource_id!r} is not a RunPod id", hint="ids are letters, digits, - and _")
    return f"{collection}/{resource_id}"


def pod_body(request: PodRequest, secrets: Mapping[str, str]) -> dict[str, Any]:
    """CreatePodRequest. `secrets` are the values of `request.secret_env` that are set."""
    gpu: dict[str, Any] = {"id": request.gpu, "count": request.gpu_count}
    if request.min_cuda_version is not None:
        gpu["minCudaVersion"] = request.min_cuda_version
    body: dict[str, Any] = {
        "name": request.name,
        "cloud": request.tier,
        "gpu": gpu,
        "args": request.args,
        "env": {**request.env, **secrets},
        "disk": request.disk_gb,
    }
    if request.image is not None:
        body["image"] = request.image
    if request.template is not None:
        # What is said here wins over the template: without it, its ports would be open, and its Jupyter running.
        body |= {"templateId": request.template, "ports": [], "startJupyter": False, "startSsh": request.ssh}
    if request.ssh:
        body["startSsh"] = True
    if request.ports:
        body["ports"] = list(request.ports)
    if request.volume_id is not None:
        body["mounts"] = {"network": [{"volumeId": request.volume_id, "path": request.mount_path}]}
    elif request.persistent_gb is not None:
        body["mounts"] = {"persistent": {"size": request.persistent_gb, "path": request.mount_path}}
    # On Community, naming a data center blocks the placement (runpodctl#326). Lower case is accepted and breaks later.
    if request.data_center is not None and request.tier == "SECURE":
        body["dataCenterIds"] = [request.data_center.upper()]
    return body


def volume_body(request: VolumeRequest) -> dict[str, Any]:
    """CreateNetworkVolumeRequest; without `type` it gets the data center's own storage tier."""
    kind = {} if request.kind is None else {"type": request.kind}
    return {"name": request.name, "size": request.size_gb, "dataCenter": request.data_center.upper(), **kind}


def pod(raw: Any) -> Pod:
    gpu, runtime = raw.get("gpu") or {}, raw.get("runtime")
    return Pod(
        id=str(raw["id"]),
        name=str(raw["name"] or ""),
        status=str(raw["status"]),
        gpu=str(gpu.get("id") or ""),
        gpu_count=int(gpu.get("count") or 0),
        usd_per_hour=float(raw.get("cost") or 0.0),
        data_center=raw.get("dataCenterId") or None,
        uptime_s=None if runtime is None else int(runtime.get("uptime") or 0),
        created_at=raw.get("createdAt") or None,
        tier="COMMUNITY" if raw.get("cloud") == "COMMUNITY" else "SECURE",
        ports=tuple(str(port) for port in raw.get("ports") or ()),
        volume_id=next(iter(sorted(mounted_volume_ids(raw))), None),
        ssh_direct=_direct(raw),
        ssh_proxy=_address((raw.get("ssh") or {}).get("proxy")),
        gpu_percent=_highest(runtime, "util"),
        gpu_memory_percent=_highest(runtime, "memoryUtil"),
        memory_percent=_percent((runtime or {}).get("memory")),
    )


def _highest(runtime: Any, figure: str) -> float | None:
    """Of all GPUs of a pod."""
    told = [gpu.get(figure) for gpu in (runtime or {}).get("gpus") or () if isinstance(gpu, dict)]
    return max((float(value) for value in told if isinstance(value, int | float)), default=None)


def _percent(part: Any) -> float | None:
    value = part.get("util") if isinstance(part, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _direct(raw: Any) -> SshAddress | None:
    """RunPod's own word for it, else the public side of port 22, which it sometimes shows first."""
    if (found := _address((raw.get("ssh") or {}).get("direct"))) is not None:
        return found
    for port in (raw.get("runtime") or {}).get("ports") or ():
        if (port.get("private"), port.get("type")) == (22, "tcp") and port.get("public") and port.get("ip"):
            return SshAddress(host=str(port["ip"]), port=int(port["public"]), user="root")
    return None


def _address(endpoint: Any) -> SshAddress | None:
    if not endpoint:
        return None
    return SshAddress(host=str(endpoint["host"]), port=int(endpoint["port"]), user=str(endpoint["username"]))


def ssh_keys(raw: Any) -> list[str]:
    return [str(key).strip() for key in raw["keys"] or ()]


def volume(raw: Any) -> Volume:
    known: tuple[VolumeKind, ...] = get_args(VolumeKind)
    return Volume(
        id=str(raw["id"]),
        name=str(raw["name"] or ""),
        size_gb=int(raw["size"]),
        data_center=str(raw["dataCenter"]),
        kind=next((kind for kind in known if kind == raw.get("type")), None),
    )


def template(raw: Any) -> Template:
    return Template(
        id=str(raw["id"]),
        name=str(raw["name"] or ""),
        image=str(raw["image"] or ""),
        disk_gb=int(raw.get("disk") or 0),
        args=str(raw.get("args") or ""),
        variables=tuple(sorted(raw.get("env") or {})),
        ports=tuple(str(port) for port in raw.get("ports") or ()),
        cuda_versions=tuple(str(version) for version in raw.get("allowedCudaVersions") or ()),
        is_serverless=bool(raw.get("serverless")),
    )


def mounted_volume_ids(raw: Any) -> set[str]:
    """Ids of the network volumes a listed pod mounts."""
    return {str(mount["volumeId"]) for mount in (raw.get("mounts") or {}).get("network") or []}


def volume_kinds(data_centers: Any) -> dict[str, tuple[VolumeKind, ...]]:
    """The kinds of network volume that can be made, by data center; those this client does not know are left out."""
    known: tuple[VolumeKind, ...] = get_args(VolumeKind)
    return {
        str(center["id"]): tuple(kind for kind in known if kind in (center.get("networkVolumeTypes") or ()))
        for center in data_centers["dataCenters"]
    }


def secure_offers(gpus: Any, kinds: Mapping[str, tuple[VolumeKind, ...]]) -> list[Offer]:
    """One offer for each data center that lists the GPU; RunPod leaves out those without stock."""
    return [
        Offer(
            gpu=str(gpu["id"]),
            gpu_memory_gb=int(gpu["memory"]),
            data_center=str(center["id"]),
            tier="SECURE",
            usd_per_gpu_hour=float(gpu["price"]["secure"]),
            stock=_stock(center["availability"]),
            volume_kinds=kinds.get(str(center["id"]), ()),
            max_count=int(gpu["maxCount"]["secure"]),
        )
        for gpu in gpus["gpus"]
        if gpu["secure"]
        for center in gpu.get("dataCenters") or []
    ]


def community_offers(gpus: Any) -> list[Offer]:
    """One offer for each GPU of the community tier: where it would run is not known before it does."""
    return [
        Offer(
            gpu=str(gpu["id"]),
            gpu_memory_gb=int(gpu["memory"]),
            data_center=None,
            tier="COMMUNITY",
            usd_per_gpu_hour=float(gpu["price"]["community"]),
            stock=_stock(gpu.get("availability")),
            volume_kinds=(),
            max_count=int(gpu["maxCount"]["community"]),
        )
        for gpu in gpus["gpus"]
        if gpu["community"]
    ]


def billed_usd(billing: Any, key: str, resource_id: str) -> float:
    """Sum of `totalAmount` over the records of one resource; `key` is `podId` or `networkVolumeId`.

    Records are filtered here too: RunPod ignores a query parameter it does not know and would answer for everything.
    """
    return sum(float(record["totalAmount"]) for record in billing["records"] or [] if record[key] == resource_id)


def billed_by_s(until: str) -> float:
    """Epoch seconds from which the bill of what ended at `until` (RFC 3339) no longer grows."""
    end_s = datetime.fromisoformat(until).timestamp()
    return math.ceil(end_s / _BUCKET_S) * _BUCKET_S + _SETTLED_S


def _stock(level: Any) -> Stock:
    """A level this client does not know is still some stock; none at all is NONE."""
    known: tuple[Stock, ...] = get_args(Stock)
    return next((stock for stock in known if stock == level), "LOW" if level else "NONE")
