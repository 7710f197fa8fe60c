"""Lambda Cloud's JSON and pushtrain's words for it, both ways. Pure.

Reading raises KeyError, TypeError, ValueError or AttributeError for a shape nobody knows. Lambda says neither when an
instance was launched nor which ports are wanted, so both travel as tags, in letters that every tag takes.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from infra.clouds.lambda_cloud.names import sold_as
from pushtrain.cloud import Offer, Pod, PodRequest, SshAddress, Volume
from pushtrain.errors import RequestRejected

API = "/api/v1"
# The one key that a launch has to name. Lambda made the pair, and nobody kept the private half.
OUR_KEY = "pushtrain"
_LAUNCHED, _PORTS = "pushtrain-launch", "pushtrain-ports"
_GB = 1e9


def path(kind: str, thing_id: str) -> str:
    """An id Lambda never gave would turn into another URL: RequestRejected."""
    if not re.fullmatch(r"[0-9a-f]{32}", thing_id):
        raise RequestRejected(f"{thing_id!r} is not a Lambda Cloud id", hint="ids are 32 hexadecimal digits")
    return f"{API}/{kind}/{thing_id}"


def launch_body(
    request: PodRequest, *, kind: str, region: str, user_data: str, launch: str, volume: Volume | None
) -> dict[str, Any]:
    """`kind` is the instance type, `launch` what `launched_s` reads back."""
    tags = [{"key": _LAUNCHED, "value": launch}]
    if request.ports:
        tags.append({"key": _PORTS, "value": "-".join(port.partition("/")[0] for port in request.ports)})
    body: dict[str, Any] = {
        "region_name": region,
        "instance_type_name": kind,
        "ssh_key_names": [OUR_KEY],
        "name": request.name,
        "tags": tags,
        "user_data": user_data,
    }
    if volume is not None:
        body["file_system_names"] = [volume.name]
        body["file_system_mounts"] = [{"mount_point": request.mount_path, "file_system_id": volume.id}]
    return body


def offers(types: Mapping[str, Any], gpu_count: int) -> list[Offer]:
    """One offer for each GPU type and region that has capacity, of machines with just so many GPUs. How much there is
    Lambda does not say."""
    found: dict[tuple[str, str], Offer] = {}
    for raw in types.values():
        kind = raw["instance_type"]
        sold, gpus = sold_as(str(kind["gpu_description"])), int(kind["specs"]["gpus"])
        if sold is None or gpus != gpu_count:
            continue
        usd = int(kind["price_cents_per_hour"]) / 100 / gpus
        for region in raw["regions_with_capacity_available"]:
            place = (sold[0], str(region["name"]))
            if place in found and found[place].usd_per_gpu_hour <= usd:
                continue
            found[place] = Offer(
                gpu=sold[0],
                gpu_memory_gb=sold[1],
                data_center=place[1],
                tier="SECURE",
                usd_per_gpu_hour=usd,
                stock="MEDIUM",
                volume_kinds=("STANDARD",),
                max_count=gpus,
            )
    return list(found.values())


def matching(types: Mapping[str, Any], request: PodRequest) -> list[tuple[str, list[str]]]:
    """Instance types that are what was asked for, at no more than its price and with its disk, cheapest first: name and
    regions with capacity."""
    disk_gb = request.disk_gb + (request.persistent_gb or 0)
    found = []
    for raw in types.values():
        kind = raw["instance_type"]
        cents, specs = int(kind["price_cents_per_hour"]), kind["specs"]
        if (
            (sold_as(str(kind["gpu_description"])) or ("", 0))[0] == request.gpu
            and int(specs["gpus"]) == request.gpu_count
            and float(specs["storage_gib"]) >= disk_gb
            and (request.max_usd_per_hour is None or cents / 100 <= request.max_usd_per_hour)
        ):
            regions = [str(region["name"]) for region in raw["regions_with_capacity_available"]]
            found.append((cents, str(kind["name"]), regions))
    return [(name, regions) for _, name, regions in sorted(found)]


def pod(raw: Any, now_s: float) -> Pod:
    """`now_s` is epoch seconds, for how long it has been there."""
    kind, tags = raw["instance_type"], {str(tag["key"]): str(tag["value"]) for tag in raw.get("tags") or ()}
    status, launched = _STATUS.get(str(raw["status"]), "UNKNOWN"), launched_s(tags.get(_LAUNCHED, ""))
    sold, mounts = sold_as(str(kind["gpu_description"])), raw.get("file_system_mounts") or ()
    ports = tuple(f"{number}/tcp" for number in filter(None, tags.get(_PORTS, "").split("-")))
    return Pod(
        id=str(raw["id"]),
        name=str(raw.get("name") or ""),
        status=status,
        gpu=sold[0] if sold else str(kind["gpu_description"]),
        gpu_count=int(kind["specs"]["gpus"]),
        usd_per_hour=int(kind["price_cents_per_hour"]) / 100,
        data_center=str(raw["region"]["name"]),
        uptime_s=max(0, int(now_s - (launched or now_s))) if status == "RUNNING" else None,
        created_at=None if launched is None else _rfc3339(launched),
        ports=ports,
        volume_id=next((str(it["file_system_id"]) for it in mounts), None),
        ssh_direct=_ssh(raw) if status == "RUNNING" and "22/tcp" in ports else None,
    )


def launch_name(now_s: float, chance: float) -> str:
    """Says when; `chance`, from 0 to 1, tells two launches of one moment apart."""
    return f"{int(now_s * 1000)}-{int(chance * 2**52):013x}"


def launched_s(name: str) -> float | None:
    found = re.fullmatch(r"(\d{1,15})-[0-9a-f]+", name)
    return None if found is None else int(found[1]) / 1000


def volume(raw: Any) -> Volume:
    """A file system has no size, so this is what is on it."""
    return Volume(
        id=str(raw["id"]),
        name=str(raw["name"]),
        size_gb=math.ceil(int(raw.get("bytes_used") or 0) / _GB),
        data_center=str(raw["region"]["name"]),
        kind="STANDARD",
    )


def key_name(key: str, taken: Iterable[str]) -> str:
    """A name for a public key: its own comment, as far as names may hold it, and a number where that is taken."""
    comment = [*key.split(None, 2), "", "", ""][2]
    name = re.sub(r"[^A-Za-z0-9_.@-]+", "-", comment).strip("-")[:48] or "key"
    known: Sequence[str] = list(taken)
    return next(each for each in (name, *(f"{name}-{n}" for n in range(2, len(known) + 3))) if each not in known)


# As `pushtrain.cloud.ENDED` has it. One that is being terminated is listed until it is gone, and never runs again; one
# that was powered off is told by no status that is documented.
_STATUS = {
    "booting": "STARTING",
    "active": "RUNNING",
    "unhealthy": "OFFLINE",
    "preempted": "EXITED",
    "terminating": "EXITED",
    "terminated": "TERMINATED",
}


def _ssh(raw: Any) -> SshAddress | None:
    return SshAddress(host=str(raw["ip"]), port=22, user="root") if raw.get("ip") else None


def _rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
