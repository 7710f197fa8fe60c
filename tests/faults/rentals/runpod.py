"""RunPod, whose API the others' faults and accounts are made after."""

from dataclasses import replace
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.clouds.runpod.client import RunPod
from infra.simulator import billing_api, catalog_api, runpod_api
from infra.simulator.catalog import DEFAULT_CATALOG, Catalog
from infra.simulator.gate import Call, Gate, rfc3339
from infra.simulator.service import Service
from pushtrain.cloud import Cloud

from .rental import ACCOUNT_KEY, BASE_URL, LIMITS, Log, Rental, Seams, Ways

# A ladder worth climbing, and small enough to be read a hundred thousand times.
_GPUS = ("NVIDIA A40", "NVIDIA RTX A6000", "NVIDIA A100 80GB PCIe")
_CENTERS = ("EU-SE-1", "CA-MTL-1", "US-KS-2", "US-TX-3")
CATALOG = Catalog(
    gpus={
        name: replace(gpu, stock={center: level for center, level in gpu.stock.items() if center in _CENTERS})
        for name, gpu in DEFAULT_CATALOG.gpus.items()
        if name in _GPUS
    },
    data_centers={name: DEFAULT_CATALOG.data_centers[name] for name in _CENTERS},
)


def _routes(service: Service, transports: dict[Any, Any], log: Log) -> list[Route]:
    async def logs(call: Call) -> Response:
        """What there is by now; the simulator's own stream stays open, which takes a real clock."""
        events = []
        for number, (epoch_s, source, line) in enumerate(log(call.service.account.pod(call.id).id)[-200:]):
            said = JSONResponse({"ts": rfc3339(epoch_s), "source": source, "line": line}).body.decode()
            events.append(f"id: {rfc3339(epoch_s)}/{number}\ndata: {said}\n\n")
        return Response("".join(events), media_type="text/event-stream")

    gate = Gate(service, transports)
    routes = [*runpod_api.routes(gate), *catalog_api.routes(gate), *billing_api.routes(gate)]
    return [*routes, gate.route("GET", "/v2/pods/{id}/logs", "get_pod_logs", logs)]


def _client(seams: Seams) -> Cloud:
    return RunPod(
        ACCOUNT_KEY,
        BASE_URL,
        environ={},
        limits=LIMITS,
        sleep=seams.process.sleep,
        clock=seams.clock,
        transport=seams.transport,
    )


def _operation(method: str, path: str) -> str:
    kind = "pod" if "/pods" in path else "volume" if "/network-volumes" in path else "other"
    if kind == "other" or "/billing" in path:
        return "read_other"
    if method == "POST":
        return "pod_action" if path.endswith("/action") else f"create_{kind}"
    return f"{'delete' if method == 'DELETE' else 'list'}_{kind}"


def _ways(pod_id: str) -> Ways:
    path = f"/v2/pods/{pod_id}"
    return (("POST", f"{path}/action", {"action": "terminate"}), ("DELETE", path, None))


RUNPOD = Rental(
    name="runpod",
    catalog=CATALOG,
    place="EU-SE-1",
    ids=lambda number: f"id{number:06d}",
    routes=_routes,
    client=_client,
    environ={"RUNPOD_API_BASE_URL": BASE_URL},
    lists={"/v2/pods": ("pod",), "/v2/network-volumes": ("volume",)},
    more_pages="cursor",
    ways=_ways,
    operation=_operation,
)
