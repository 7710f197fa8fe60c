"""The simulator as one Starlette app: RunPod's two APIs, the other clouds', the control endpoints and the Hub."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from infra.simulator import billing_api, catalog_api, control, graphql_api, logs_api, runpod_api, s3_api
from infra.simulator.gate import Gate, Problem
from infra.simulator.others import OTHERS
from infra.simulator.service import Service

log = logging.getLogger("pushtrain.simulator")
_TICK_S = 0.2


def create_app(
    service: Service,
    others: Mapping[str, Service],
    transports: dict[Any, asyncio.Transport],
    shut_down: Callable[[bool], None],
    hub_routes: list[BaseRoute],
) -> Starlette:
    """`transports` by client address, for answers that get lost; `shut_down(stop_pods)` is asked to end the server."""
    gate = Gate(service, transports)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        services = (service, *others.values())
        for each in services:
            each.adopt()
        ticking = [asyncio.create_task(_tick(each)) for each in services]
        yield
        for task in ticking:
            task.cancel()

    return Starlette(
        routes=[
            *runpod_api.routes(gate),
            *catalog_api.routes(gate),
            *logs_api.routes(gate),
            *billing_api.routes(gate),
            *graphql_api.routes(gate),
            *s3_api.routes(gate),
            *(route for name, other in OTHERS.items() for route in other.routes(others[name], transports)),
            *control.routes(gate, others.values(), shut_down),
            *hub_routes,
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _problem},
    )


async def _tick(service: Service) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        try:
            service.tick()
        except Exception:
            log.exception("a tick failed; the next one tries again")


async def _problem(request: Request, error: Exception) -> Response:
    """No such path, or no such method there: RunPod's API answers that as a problem, too."""
    assert isinstance(error, HTTPException)
    if not request.url.path.startswith("/v2/"):
        return PlainTextResponse(error.detail, error.status_code, headers=error.headers)
    detail = {404: "resource not found", 405: "The requested method is not allowed for this path."}
    problem = Problem(error.status_code, detail.get(error.status_code, error.detail))
    problem.headers.update(error.headers or {})
    return problem.response()
