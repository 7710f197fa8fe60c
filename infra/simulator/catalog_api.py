"""RunPod's REST v2 catalog: GPU types with price and stock, data centers with storage and stock."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator.catalog import DataCenter, GpuModel, Stock, Tier, VolumeKind, fullest, version_key
from infra.simulator.gate import Call, Gate, Problem, invalid

_ONLY_WITH_STOCK = ("product", "count", "cloud", "countryCodes", "cudaVersions", "minCudaVersion")
_PRODUCTS = ("POD", "CLUSTER", "SERVERLESS")


def routes(gate: Gate) -> list[Route]:
    return [
        gate.route("GET", "/v2/catalog/gpus", "list_gpus", _list_gpus),
        gate.route("GET", "/v2/catalog/gpus/{id}", "get_gpu", _get_gpu),
        gate.route("GET", "/v2/catalog/datacenters", "list_data_centers", _list_data_centers),
        gate.route("GET", "/v2/catalog/datacenters/{id}", "get_data_center", _get_data_center),
    ]


@dataclass(frozen=True)
class _StockQuery:
    """What `include=AVAILABILITY` is asked for; countries None: anywhere."""

    tier: Tier
    count: int
    countries: frozenset[str] | None
    cuda_versions: frozenset[str] | None
    min_cuda_version: str | None

    def takes(self, cuda_version: str) -> bool:
        if self.min_cuda_version is not None:
            return version_key(cuda_version) >= version_key(self.min_cuda_version)
        return self.cuda_versions is None or cuda_version in self.cuda_versions


async def _list_gpus(call: Call) -> Response:
    query = _stock_query(call)
    shown = [_gpu(call, gpu, query) for gpu in call.service.account.catalog.gpus.values()]
    if query is not None and query.countries is not None:
        shown = [gpu for gpu in shown if "dataCenters" in gpu]
    return JSONResponse({"gpus": shown})


async def _get_gpu(call: Call) -> Response:
    gpu = call.service.account.catalog.gpus.get(call.id)
    if gpu is None:
        raise Problem(404, "GPU type not found")
    return JSONResponse(_gpu(call, gpu, _stock_query(call)))


async def _list_data_centers(call: Call) -> Response:
    regions, kinds = _values(call, "regions"), _values(call, "networkVolumeTypes", get_args(VolumeKind))
    compliance, network = _values(call, "compliance"), call.request.query_params.get("globalNetwork")
    shown = [
        _data_center(call, data_center)
        for data_center in call.service.account.catalog.data_centers.values()
        if (not regions or data_center.region in regions)
        and set(kinds) <= set(data_center.volume_kinds)
        and set(compliance) <= set(data_center.compliance)
        and (network is None or (network == "true") == data_center.global_network)
    ]
    return JSONResponse({"dataCenters": shown})


async def _get_data_center(call: Call) -> Response:
    data_center = call.service.account.catalog.data_centers.get(call.id)
    if data_center is None:
        raise Problem(404, "data center not found")
    return JSONResponse(_data_center(call, data_center))


def _gpu(call: Call, gpu: GpuModel, query: _StockQuery | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": gpu.id,
        "name": gpu.name,
        "pool": None,
        "manufacturer": gpu.manufacturer,
        "memory": gpu.memory_gb,
        "secure": gpu.secure_usd is not None,
        "community": gpu.community_usd is not None,
        "price": {"secure": gpu.secure_usd or 0.0, "community": gpu.community_usd or 0.0},
        "maxCount": {"secure": gpu.max_gpus("SECURE"), "community": gpu.max_gpus("COMMUNITY")},
    }
    if query is not None:
        document |= _stock(call, gpu, query)
    return document


def _stock(call: Call, gpu: GpuModel, query: _StockQuery) -> dict[str, Any]:
    """Stock by data center; those without any are left out, and the list with them when nothing is left."""
    cuda_versions = [version for version in gpu.cuda_versions if query.takes(version)]
    levels: Mapping[str | None, Stock] = {}
    if cuda_versions and query.count <= gpu.max_gpus(query.tier):
        levels = call.service.stock(gpu, query.tier)
    catalog = call.service.account.catalog
    if query.countries is not None:
        levels = {name: level for name, level in levels.items() if name and _country(name) in query.countries}
    overall = fullest(levels.values())
    document: dict[str, Any] = {"availability": overall}
    stocked = [
        {"id": name, "name": catalog.data_centers[name].name, "availability": level}
        for name, level in levels.items()
        if name is not None and level != "NONE"
    ]
    if stocked:
        document["dataCenters"] = stocked
    if cuda_versions:
        document["cudaVersions"] = [{"version": version, "available": overall != "NONE"} for version in cuda_versions]
    return document


def _data_center(call: Call, data_center: DataCenter) -> dict[str, Any]:
    include = _values(call, "include", ("GPU_AVAILABILITY", "CPU_AVAILABILITY"))
    document: dict[str, Any] = {
        "id": data_center.id,
        "name": data_center.name,
        "region": data_center.region,
        "globalNetwork": data_center.global_network,
        "networkVolumeTypes": list(data_center.volume_kinds),
        "compliance": list(data_center.compliance),
    }
    if "GPU_AVAILABILITY" in include:
        gpus = [
            {"id": gpu.id, "name": gpu.name, "availability": call.service.stock(gpu, "SECURE")[data_center.id]}
            for gpu in call.service.account.catalog.gpus.values()
            if data_center.id in gpu.stock
        ]
        if gpus:
            document["gpuAvailability"] = gpus
    return document


def _stock_query(call: Call) -> _StockQuery | None:
    query = call.request.query_params
    if not _values(call, "include", ("AVAILABILITY",)):
        for name in _ONLY_WITH_STOCK:
            if name in query:
                raise Problem(400, f"{name} is valid only with include=AVAILABILITY")
        return None
    if not _values(call, "product", _PRODUCTS):
        raise Problem(400, "product is required with include=AVAILABILITY")
    if "cudaVersions" in query and "minCudaVersion" in query:
        raise Problem(400, "cudaVersions and minCudaVersion are mutually exclusive")
    cuda_versions, floor = _values(call, "cudaVersions"), query.get("minCudaVersion")
    _must_match("cudaVersions", cuda_versions, r"\d+\.\d+")
    _must_match("minCudaVersion", [floor] if floor is not None else [], r"\d+(\.\d+)?")
    countries = _values(call, "countryCodes")
    _must_match("countryCodes", countries, "[A-Z]{2}")
    count = query.get("count", "1")
    _must_match("count", [count], "[1-9][0-9]{0,3}")
    tier = _values(call, "cloud", get_args(Tier)) or ["SECURE"]
    return _StockQuery(
        tier="COMMUNITY" if tier == ["COMMUNITY"] else "SECURE",
        count=int(count),
        countries=frozenset(countries) or None,
        cuda_versions=frozenset(cuda_versions) or None,
        min_cuda_version=floor,
    )


def _values(call: Call, name: str, allowed: Iterable[str] | None = None) -> list[str]:
    """A comma-separated query parameter; absent is empty."""
    values = [value for value in call.request.query_params.get(name, "").split(",") if value]
    for value in values:
        if allowed is not None and value not in allowed:
            raise invalid(f"{name}: value must be one of {', '.join(repr(known) for known in allowed)}")
    return values


def _must_match(name: str, values: Iterable[str], pattern: str) -> None:
    for value in values:
        if not re.fullmatch(pattern, value):
            raise invalid(f"{name}: '{value}' does not match pattern '^{pattern}$'")


def _country(data_center: str) -> str:
    """RunPod names a data center after its country where the first part is a continent: EU-RO-1, but US-KS-2."""
    first, second, *_ = data_center.split("-")
    return second if first in ("EU", "EUR", "AP", "OC") else first
