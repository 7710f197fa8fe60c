"""RunPod's REST v2 billing history: dollars by time bucket, for everything, by pod, by network volume."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, get_args

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator import billing
from infra.simulator.billing import BucketSize
from infra.simulator.gate import Call, Gate, Problem, invalid, rfc3339
from infra.simulator.state import Volume

_POD = ("gpuAmount", "cpuAmount", "diskAmount")
_VOLUME = ("standardAmount", "highPerformanceAmount")
_ALL = (
    "podGpuAmount",
    "podCpuAmount",
    "podDiskAmount",
    "serverlessGpuAmount",
    "serverlessCpuAmount",
    "serverlessDiskAmount",
    "serverlessFeeAmount",
    "storageStandardAmount",
    "storageHighPerformanceAmount",
    "endpointAmount",
    "clusterGpuAmount",
    "clusterDiskAmount",
    "clusterNetworkingAmount",
)


def routes(gate: Gate) -> list[Route]:
    return [
        gate.route("GET", "/v2/billing", "list_billing", _all),
        gate.route("GET", "/v2/billing/pods", "list_pod_billing", _pods),
        gate.route("GET", "/v2/billing/network-volumes", "list_volume_billing", _volumes),
    ]


@dataclass(frozen=True)
class _Window:
    """The resolved query; `buckets` as (start, end) in epoch seconds, whole buckets even where they reach past now."""

    buckets: list[tuple[float, float]]
    size: BucketSize

    def echo(self) -> dict[str, Any]:
        start, end = self.buckets[0][0], self.buckets[-1][1]
        return {"startTime": rfc3339(start), "endTime": rfc3339(end), "bucketSize": self.size}


async def _pods(call: Call) -> Response:
    window, wanted = _window(call), call.request.query_params.get("podId")
    records = [
        _record(bucket, {"podId": pod.id}, {"gpuAmount": cost.gpu, "cpuAmount": 0.0, "diskAmount": cost.disk})
        for pod in call.service.account.pods.values()
        for bucket in window.buckets
        if wanted in (None, pod.id) and (cost := billing.pod_cost(pod, *_until_now(call, bucket))).total > 0
    ]
    query = window.echo() | {"podId": wanted}
    unique = {"uniquePodCount": len({record["podId"] for record in records})}
    return _answer(records, _POD, query, unique)


async def _volumes(call: Call) -> Response:
    window, wanted = _window(call), call.request.query_params.get("networkVolumeId")
    records = [
        _record(bucket, {"networkVolumeId": volume.id}, _by_kind(volume, cost))
        for volume in call.service.account.volumes.values()
        for bucket in window.buckets
        if wanted in (None, volume.id) and (cost := billing.volume_cost(volume, *_until_now(call, bucket))) > 0
    ]
    query = window.echo() | {"networkVolumeId": wanted}
    unique = {"uniqueNetworkVolumeCount": len({record["networkVolumeId"] for record in records})}
    return _answer(records, _VOLUME, query, unique)


async def _all(call: Call) -> Response:
    window, account = _window(call), call.service.account
    records = []
    for bucket in window.buckets:
        start, end = _until_now(call, bucket)
        amounts = dict.fromkeys(_ALL, 0.0)
        for pod in account.pods.values():
            cost = billing.pod_cost(pod, start, end)
            amounts["podGpuAmount"] += cost.gpu
            amounts["podDiskAmount"] += cost.disk
        for volume in account.volumes.values():
            by_kind = _by_kind(volume, billing.volume_cost(volume, start, end))
            amounts["storageStandardAmount"] += by_kind["standardAmount"]
            amounts["storageHighPerformanceAmount"] += by_kind["highPerformanceAmount"]
        records.append(_record(bucket, {}, amounts))
    records = [record for record in records if record["totalAmount"] > 0]
    return _answer(records, _ALL, window.echo(), {})


def _by_kind(volume: Volume, cost: float) -> dict[str, float]:
    fast = volume.kind == "HIGH_PERFORMANCE"
    return {"standardAmount": 0.0 if fast else cost, "highPerformanceAmount": cost if fast else 0.0}


def _record(bucket: tuple[float, float], owner: dict[str, str], amounts: dict[str, float]) -> dict[str, Any]:
    times = {"startTime": rfc3339(bucket[0]), "endTime": rfc3339(bucket[1])}
    return {**times, **owner, "totalAmount": sum(amounts.values()), **amounts}


def _answer(
    records: list[dict[str, Any]], names: tuple[str, ...], query: dict[str, Any], unique: dict[str, int]
) -> Response:
    totals = {name: sum(record[name] for record in records) for name in ("totalAmount", *names)}
    metadata = {"query": query, "recordCount": len(records), "totals": totals, **unique}
    return JSONResponse({"records": records, "metadata": metadata})


def _until_now(call: Call, bucket: tuple[float, float]) -> tuple[float, float]:
    return bucket[0], min(bucket[1], call.service.clock())


def _window(call: Call) -> _Window:
    """Defaults: the last 30 days until now in days. Both ends are snapped outward to whole buckets."""
    query, now, size = call.request.query_params, call.service.clock(), _bucket_size(call)
    last = query.get("lastN")
    if last is not None:
        if "startTime" in query or "endTime" in query:
            raise Problem(400, "lastN and startTime/endTime are mutually exclusive")
        if not last.isdigit() or int(last) < 1:
            raise invalid("lastN: must be an integer of at least 1")
        return _Window(billing.last_buckets(now, int(last), size), size)
    end = _time(call, "endTime", now)
    start = _time(call, "startTime", end - timedelta(days=30).total_seconds())
    if start >= end:
        raise Problem(400, "startTime must be before endTime")
    return _Window(billing.buckets(start, end, size), size)


def _bucket_size(call: Call) -> BucketSize:
    text = call.request.query_params.get("bucketSize", "day")
    known: tuple[BucketSize, ...] = get_args(BucketSize)
    for size in known:
        if size == text:
            return size
    raise invalid(f"bucketSize: value must be one of {', '.join(repr(size) for size in known)}")


def _time(call: Call, name: str, default: float) -> float:
    text = call.request.query_params.get(name)
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise invalid(f"{name}: '{text}' is not valid date-time") from error
    # An offset's plus sign reads as a space in a query that was not encoded; RFC 3339 wants an offset in any case.
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
