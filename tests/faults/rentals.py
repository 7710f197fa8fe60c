"""The clouds that schedules are played over: what differs between them, so that schedules, promises and people do not.

A further cloud is one more `Rental`: its API over the virtual service, its client, and a spec in its words.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.clouds.runpod import RunPod
from infra.clouds.vast import Vast
from infra.clouds.wire import Limits
from infra.simulator import billing_api, catalog_api, runpod_api
from infra.simulator.gate import Call, Gate, rfc3339
from infra.simulator.service import Service
from infra.simulator.vast_api import VastApi
from infra.simulator.vast_gate import VastGate
from pushtrain.cloud import Cloud

from .virtual import Process

ACCOUNT_KEY = "rpa_account_key_of_the_proof"
BASE_URL = "http://127.0.0.1:1"
Ways = Sequence[tuple[str, str, Mapping[str, str] | None]]


@dataclass(frozen=True, kw_only=True)
class Seams:
    """What a client is made of."""

    process: Process
    clock: Callable[[], float]
    transport: httpx.BaseTransport


@dataclass(frozen=True, kw_only=True)
class Rental:
    """`routes(service, transports, log)` is the API; `lists` the paths of whole lists by what they hold; `ways` what a
    pod sends to end itself; `operation(method, path)` the simulator's name of a request, as far as schedules tell them
    apart; `spec` a job of the other clouds as one of this."""

    name: str
    ids: Callable[[int], str]
    routes: Callable[[Service, dict[Any, Any], "Log"], list[Route]]
    client: Callable[[Seams], Cloud]
    environ: Mapping[str, str]
    lists: Mapping[str, tuple[str, ...]]
    more_pages: str
    ways: Callable[[str], Ways]
    operation: Callable[[str, str], str]
    spec: Callable[[str], str] = field(default=lambda text: text)


Log = Callable[[str], list[tuple[float, str, str]]]


def _runpod_routes(service: Service, transports: dict[Any, Any], log: Log) -> list[Route]:
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


def _runpod(seams: Seams) -> Cloud:
    return RunPod(
        ACCOUNT_KEY,
        BASE_URL,
        environ={},
        limits=Limits(jitter=lambda: 0.5),
        sleep=seams.process.sleep,
        clock=seams.clock,
        transport=seams.transport,
    )


def _runpod_operation(method: str, path: str) -> str:
    kind = "pod" if "/pods" in path else "volume" if "/network-volumes" in path else "other"
    if kind == "other" or "/billing" in path:
        return "read_other"
    if method == "POST":
        return "pod_action" if path.endswith("/action") else f"create_{kind}"
    return f"{'delete' if method == 'DELETE' else 'list'}_{kind}"


def _runpod_ways(pod_id: str) -> Ways:
    path = f"/v2/pods/{pod_id}"
    return (("POST", f"{path}/action", {"action": "terminate"}), ("DELETE", path, None))


class _VirtualVast(VastApi):
    """Logs are there at once: the simulator's copies take a real clock and a disk."""

    def __init__(self, service: Service, log: Log) -> None:
        super().__init__(service)
        self._log, self._texts, self._numbers = log, dict[str, str](), count(1)

    async def _request_logs(self, call: Call) -> Response:
        lines = self._log(call.service.account.pod(call.id).id)
        name = f"{next(self._numbers)}.log"
        self._texts[name] = "".join(f"{line}\n" for _, source, line in lines[-200:] if source == "container")
        return JSONResponse({"success": True, "result_url": f"{BASE_URL}/vast-files/{name}"})

    async def _copy(self, call: Call) -> Response:
        return PlainTextResponse(self._texts[call.id])


def _vast_routes(service: Service, transports: dict[Any, Any], log: Log) -> list[Route]:
    return _VirtualVast(service, log).routes(VastGate(service, transports))


def _vast(seams: Seams) -> Cloud:
    return Vast(
        ACCOUNT_KEY,
        BASE_URL,
        environ={},
        limits=Limits(jitter=lambda: 0.5),
        sleep=seams.process.sleep,
        clock=seams.clock,
        transport=seams.transport,
    )


def _vast_operation(method: str, path: str) -> str:
    if path.startswith("/api/v0/asks/"):
        return "create_pod"
    if path.startswith("/api/v0/instances/") and method == "DELETE":
        return "pod_action"
    return "list_pod" if path.startswith("/api/v1/instances/") else "read_other"


def _at_vast(text: str) -> str:
    """The same job by one word; what Vast does not have is left out. A third of them bid."""
    text = re.sub(r"data_centers: \[.*?\], ", "", text.replace("compute: {", "compute: {cloud: vast, "))
    text = re.sub(r"volume: \{name: models, keep: true, ", "volume: {", text)
    if zlib.crc32(text.encode()) % 3:
        return text
    text = text.replace("compute: {", "compute: {spot: {max_share: 0.8, interruptions: 1}, ")
    return re.sub(r"publish: \{(.*)\}", r"publish: {\1, hub_strategy: checkpoint}", text)


RENTALS: Mapping[str, Rental] = {
    it.name: it
    for it in (
        Rental(
            name="runpod",
            ids=lambda number: f"id{number:06d}",
            routes=_runpod_routes,
            client=_runpod,
            environ={"RUNPOD_API_BASE_URL": BASE_URL},
            lists={"/v2/pods": ("pod",), "/v2/network-volumes": ("volume",)},
            more_pages="cursor",
            ways=_runpod_ways,
            operation=_runpod_operation,
        ),
        Rental(
            name="vast",
            ids=lambda number: str(10_000_000 + number),
            routes=_vast_routes,
            client=_vast,
            environ={"VAST_URL": BASE_URL},
            # There is no list of volumes to ask for: none outlives its machine.
            lists={"/api/v1/instances/": ("pod", "volume")},
            more_pages="after_token",
            ways=lambda pod_id: (("DELETE", f"/api/v0/instances/{pod_id}/", None),),
            operation=_vast_operation,
            spec=_at_vast,
        ),
    )
}
