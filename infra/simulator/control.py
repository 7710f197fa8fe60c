"""Control of the simulator itself, with the account key: faults, the state as it really is, and the end."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Annotated, Any, cast, get_args

from pydantic import Field
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator import billing, faults, processes
from infra.simulator.bodies import Body
from infra.simulator.gate import Call, Gate
from infra.simulator.service import Service
from infra.simulator.state import Pod, Volume

# Faults of the Hub are counted, never endless; nobody makes so many requests.
FOR_EVER = 10**9


class AddFault(Body):
    nullable = frozenset({"times"})

    kind: faults.Kind | faults.HubKind
    times: Annotated[int, Field(ge=1)] | None = 1
    match: dict[str, str] = Field(default_factory=dict)
    seconds: Annotated[float, Field(ge=0)] = 1.0


class Shutdown(Body):
    stop_pods: bool = True


def routes(gate: Gate, others: Collection[Service], shut_down: Callable[[bool], None]) -> list[Route]:
    async def state(call: Call) -> Response:
        return _state(call.service, others)

    async def stop(call: Call) -> Response:
        shut_down((await call.body(Shutdown)).stop_pods)
        return Response(status_code=202)

    def route(method: str, path: str, handler: Callable[[Call], Any]) -> Route:
        return gate.control_route(method, path, handler)

    return [
        route("GET", "/_simulator/state", state),
        route("GET", "/_simulator/faults", _list_faults),
        route("POST", "/_simulator/faults", _add_fault),
        route("DELETE", "/_simulator/faults", _clear_faults),
        route("POST", "/_simulator/shutdown", stop),
    ]


async def _add_fault(call: Call) -> Response:
    body = await call.body(AddFault)
    if body.kind in get_args(faults.HubKind):
        call.service.hub.set_fault(body.kind, FOR_EVER if body.times is None else body.times)
        return JSONResponse({"kind": body.kind, "times": body.times}, 201)
    fault = call.service.faults.add(cast(faults.Kind, body.kind), body.times, body.match, body.seconds)
    return JSONResponse(dataclasses.asdict(fault), 201)


async def _list_faults(call: Call) -> Response:
    return JSONResponse({"faults": [dataclasses.asdict(fault) for fault in call.service.faults.active()]})


async def _clear_faults(call: Call) -> Response:
    fault_id = call.request.query_params.get("id")
    call.service.faults.clear(fault_id)
    if fault_id is None:
        for kind in get_args(faults.HubKind):
            call.service.hub.set_fault(kind, 0)
    return Response(status_code=204)


def _state(service: Service, others: Collection[Service]) -> Response:
    """Everything that ever was, with living processes and dollars; ended pods too, so that a test sees leftovers."""
    now = service.clock()
    services = (service, *others)
    alive = processes.of_pods([pod_id for each in services for pod_id in each.account.pods])
    pods = [_pod(each, pod, now, sorted(alive[pod.id])) for each in services for pod in each.account.pods.values()]
    volumes = [_volume(volume, now) for each in services for volume in each.account.volumes.values()]
    return JSONResponse(
        {
            "time": now,
            "pods": pods,
            "volumes": volumes,
            "processes_alive": sum(len(pod["processes"]) for pod in pods),
            "billed_usd": sum(item["billed_usd"] for item in [*pods, *volumes]),
        }
    )


def _pod(service: Service, pod: Pod, now: float, alive: list[int]) -> dict[str, Any]:
    running = service.running(pod)
    return {
        "id": pod.id,
        "name": pod.name,
        "status": pod.status,
        "gpu": pod.gpu,
        "gpu_count": pod.gpu_count,
        "data_center": pod.data_center,
        "volume_id": pod.volume_id,
        "created_at": pod.created_at,
        "ended_at": pod.ended_at,
        "container_pid": running.pid if running else None,
        "restarts": running.restarts if running else None,
        "processes": alive,
        "billed_usd": billing.pod_cost(pod, 0.0, now).total,
        "folder": str(service.machine.pod_dir(pod.id)),
    }


def _volume(volume: Volume, now: float) -> dict[str, Any]:
    return {
        "id": volume.id,
        "name": volume.name,
        "size_gb": volume.size_gb,
        "data_center": volume.data_center,
        "deleted": volume.deleted,
        "billed_usd": billing.volume_cost(volume, 0.0, now),
    }
