"""Vast.ai's JSON and pushtrain's words for it, both ways. Pure.

Reading raises KeyError, TypeError, ValueError or AttributeError for a shape nobody knows.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from infra.clouds.vast.names import gpu_ids, sold_as, vast_names
from pushtrain.capabilities import VAST_DISK_USD, VAST_TRAFFIC_USD
from pushtrain.cloud import Offer, Pod, PodRequest, SshAddress, Stock, Tier
from pushtrain.errors import RequestRejected

# What a host has to have shown before a run is put on it. A tenth of Vast's hosts are below this reliability; the line
# has to bring a model of 16 GB in ten minutes.
LEAST_RELIABILITY, LEAST_DOWN_MBPS = 0.97, 200
MOST_OFFERS = 256
# From how many machines on a type counts as well stocked: one is gone before the next rung is asked.
_STOCK: tuple[tuple[int, Stock], ...] = ((12, "HIGH"), (4, "MEDIUM"), (1, "LOW"))
_PORT = re.compile(r"-p (\d+):(\d+)(/tcp)?")


def instance_path(pod_id: str) -> str:
    """An id Vast never gave would turn into another URL: RequestRejected."""
    if not re.fullmatch(r"[0-9]{1,18}", pod_id):
        raise RequestRejected(f"{pod_id!r} is not a Vast.ai id", hint="ids are digits")
    return f"/api/v0/instances/{pod_id}/"


def search_body(gpu_count: int, tier: Tier, min_cuda_version: str | None, gpus: Sequence[str] = ()) -> dict[str, Any]:
    """Machines with exactly so many GPUs that are free now, the cheapest first. SECURE: in a data center."""
    body: dict[str, Any] = {
        "gpu_name": {"in": vast_names(gpus or gpu_ids())},
        "num_gpus": {"eq": gpu_count},
        "verified": {"eq": True},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "datacenter": {"eq": tier == "SECURE"},
        "reliability2": {"gte": LEAST_RELIABILITY},
        "inet_down": {"gte": LEAST_DOWN_MBPS},
        "storage_cost": {"lte": VAST_DISK_USD},
        "inet_down_cost": {"lte": VAST_TRAFFIC_USD},
        "inet_up_cost": {"lte": VAST_TRAFFIC_USD},
        "type": "ondemand",
        "order": [["dph_total", "asc"]],
        "limit": MOST_OFFERS,
    }
    if min_cuda_version is not None:
        body["cuda_max_good"] = {"gte": float(min_cuda_version)}
    return body


def search_for(request: PodRequest) -> dict[str, Any]:
    """The same for one pod, by disk, ports and the most it may cost an hour with its GPUs."""
    disk_gb = request.disk_gb + (request.persistent_gb or 0)
    body = search_body(request.gpu_count, request.tier, request.min_cuda_version, [request.gpu])
    body |= {"disk_space": {"gte": disk_gb}, "allocated_storage": disk_gb}
    if request.ports:
        body["direct_port_count"] = {"gte": len(request.ports)}
    if request.max_usd_per_hour is not None:
        body["dph_base"] = {"lte": request.max_usd_per_hour}
    if request.bid_usd_per_hour is not None:
        body |= {"type": "bid", "min_bid": {"lte": request.bid_usd_per_hour}}
    return body


def create_body(request: PodRequest, secrets: Mapping[str, str], public_keys: Sequence[str]) -> dict[str, Any]:
    """`secrets` are the values of `request.secret_env` that are set. Ports travel as names of variables."""
    env = {**request.env, **secrets}
    if request.ssh and public_keys:
        env.setdefault("PUBLIC_KEY", "\n".join(public_keys))
    for port in request.ports:
        number = port.partition("/")[0]
        env[f"-p {number}:{number}"] = "1"
    return {
        "client_id": "me",
        "image": request.image,
        "disk": request.disk_gb + (request.persistent_gb or 0),
        "label": request.name,
        "runtype": "args",
        "args": shlex.split(request.args),
        "env": env,
        "cancel_unavail": True,
        "target_state": "running",
        **({} if request.bid_usd_per_hour is None else {"price": request.bid_usd_per_hour}),
    }


def offers(machines: Sequence[Any], tier: Tier) -> list[Offer]:
    """One offer for each GPU type, at the price of its cheapest machine: which one it is shows later."""
    by_type: dict[tuple[str, int], list[Any]] = {}
    for machine in machines:
        if (sold := sold_as(str(machine["gpu_name"]), float(machine["gpu_ram"]))) is not None:
            by_type.setdefault(sold, []).append(machine)
    return [
        Offer(
            gpu=gpu,
            gpu_memory_gb=gb,
            data_center=None,
            tier=tier,
            usd_per_gpu_hour=min(float(it["dph_base"]) / int(it["num_gpus"]) for it in found),
            stock=next(stock for least, stock in _STOCK if len(found) >= least),
            volume_kinds=(),
            max_count=max(int(it["num_gpus"]) for it in found),
            min_bid_usd_per_gpu_hour=min((_bid(it) for it in found if it.get("min_bid")), default=None),
        )
        for (gpu, gb), found in by_type.items()
    ]


def matching(machines: Sequence[Any], request: PodRequest) -> list[Any]:
    """Offers that are really what was asked for, cheapest first: a filter that Vast does not know is ignored by it."""
    found = [
        it
        for it in machines
        if (sold_as(str(it["gpu_name"]), float(it["gpu_ram"])) or ("", 0))[0] == request.gpu
        and int(it["num_gpus"]) == request.gpu_count
        and (request.max_usd_per_hour is None or float(it["dph_base"]) <= request.max_usd_per_hour)
        and (request.bid_usd_per_hour is None or float(it["min_bid"]) <= request.bid_usd_per_hour)
    ]
    return sorted(found, key=lambda it: (float(it["dph_total"]), int(it["id"])))


def pod(raw: Any, now_s: float) -> Pod:
    """`now_s` is epoch seconds: Vast says since when, not for how long."""
    sold = sold_as(str(raw.get("gpu_name") or ""), float(raw.get("gpu_ram") or 0))
    started = raw.get("start_date")
    status = _status(raw)
    return Pod(
        id=str(int(raw["id"])),
        name=str(raw["label"] or ""),
        status=status,
        gpu=sold[0] if sold else str(raw.get("gpu_name") or ""),
        gpu_count=int(raw.get("num_gpus") or 0),
        usd_per_hour=float(raw.get("dph_total") or 0.0),
        data_center=None,
        uptime_s=max(0, int(now_s - float(started))) if status == "RUNNING" and started else None,
        created_at=_rfc3339(float(started)) if started else None,
        tier="SECURE" if raw.get("hosting_type") == 1 else "COMMUNITY",
        ports=tuple(f"{number}/tcp" for number in _ports(raw)),
        ssh_direct=_ssh(raw) if status == "RUNNING" else None,
        is_spot=raw.get("is_bid"),
    )


def charged_usd(results: Sequence[Any], pod_id: str) -> float:
    """GPU, disk and traffic of one instance, whatever is left of it."""
    return sum(float(it["amount"]) for it in results if it["source"] == f"instance-{pod_id}")


def _bid(machine: Any) -> float:
    return float(machine["min_bid"]) / int(machine["num_gpus"])


def _status(raw: Any) -> str:
    """As `pushtrain.cloud.ENDED` has it. An instance that was outbid, or whose command ended, is stopped and goes on
    being billed for its disk; one whose host is away may come back."""
    actual, wanted = raw.get("actual_status"), raw.get("intended_status")
    if wanted == "stopped" or actual in ("exited", "stopped"):
        return "EXITED"
    return {"running": "RUNNING", "offline": "OFFLINE", "unknown": "OFFLINE"}.get(str(actual), "STARTING")


def _ports(raw: Any) -> list[str]:
    """In the order they were asked for; `extra_env` is pairs, or an object in older answers."""
    extra = raw.get("extra_env") or []
    names = list(extra) if isinstance(extra, dict) else [str(pair[0]) for pair in extra]
    return [found[2] for name in names if (found := _PORT.fullmatch(name))]


def _ssh(raw: Any) -> SshAddress | None:
    mapped = (raw.get("ports") or {}).get("22/tcp")
    if not mapped or not raw.get("public_ipaddr"):
        return None
    return SshAddress(host=str(raw["public_ipaddr"]).strip(), port=int(mapped[0]["HostPort"]), user="root")


def _rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
