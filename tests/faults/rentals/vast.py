"""Vast.ai: machines with prices of their own, no volume that outlives one, bids."""

import re
import zlib
from itertools import count
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.clouds.vast.client import Vast
from infra.simulator.gate import Call
from infra.simulator.service import Service
from infra.simulator.vast_api import VastApi
from infra.simulator.vast_gate import VastGate
from pushtrain.cloud import Cloud

from .rental import ACCOUNT_KEY, BASE_URL, LIMITS, Log, Rental, Seams, without_kept
from .runpod import CATALOG


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


def _routes(service: Service, transports: dict[Any, Any], log: Log) -> list[Route]:
    return _VirtualVast(service, log).routes(VastGate(service, transports))


def _client(seams: Seams) -> Cloud:
    return Vast(
        ACCOUNT_KEY,
        BASE_URL,
        environ={},
        limits=LIMITS,
        sleep=seams.process.sleep,
        clock=seams.clock,
        transport=seams.transport,
    )


def _operation(method: str, path: str) -> str:
    if path.startswith("/api/v0/asks/"):
        return "create_pod"
    if path.startswith("/api/v0/instances/") and method == "DELETE":
        return "pod_action"
    return "list_pod" if path.startswith("/api/v1/instances/") else "read_other"


def _spec(text: str) -> str:
    """The same job by one word; what Vast does not have is left out. A third of them bid."""
    text = re.sub(r"data_centers: \[.*?\], ", "", text.replace("compute: {", "compute: {cloud: vast, "))
    text = without_kept(text)
    if zlib.crc32(text.encode()) % 3:
        return text
    text = text.replace("compute: {", "compute: {spot: {max_share: 0.8, interruptions: 1}, ")
    return re.sub(r"publish: \{(.*)\}", r"publish: {\1, hub_strategy: checkpoint}", text)


VAST = Rental(
    name="vast",
    catalog=CATALOG,
    place="EU-SE-1",
    ids=lambda number: str(10_000_000 + number),
    routes=_routes,
    client=_client,
    environ={"VAST_URL": BASE_URL},
    # There is no list of volumes to ask for: none outlives its machine.
    lists={"/api/v1/instances/": ("pod", "volume")},
    more_pages="after_token",
    ways=lambda pod_id: (("DELETE", f"/api/v0/instances/{pod_id}/", None),),
    ends="delete_pod",
    operation=_operation,
    spec=_spec,
)
