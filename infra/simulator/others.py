"""The clouds of the simulator beside RunPod: each has an account of its own, on the machine of RunPod's pods.

Their state lies in a folder of that name, `NAME/pods/ID` the pods'.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import BaseRoute

from infra.simulator.faults import Faults
from infra.simulator.hub_store import HubStore
from infra.simulator.jarvis_account import jarvis_service
from infra.simulator.jarvis_api import JarvisApi
from infra.simulator.jarvis_gate import JarvisGate
from infra.simulator.lambda_account import lambda_service
from infra.simulator.lambda_api import LambdaApi
from infra.simulator.lambda_gate import LambdaGate
from infra.simulator.modal_account import modal_service
from infra.simulator.modal_server import TOKEN_ID, serve_when_asked
from infra.simulator.service import Service, Settings
from infra.simulator.vast_account import vast_service
from infra.simulator.vast_api import VastApi
from infra.simulator.vast_gate import VastGate
from pushtrain.capabilities import CLOUDS

Transports = dict[Any, asyncio.Transport]


@dataclass(frozen=True)
class Other:
    """One cloud. `service(settings, key, faults, hub)` makes its account, `routes(service, transports)` its API, which
    begins at `path`. `serve` is there where that is not HTTP: on a port of its own, which is listened to already.
    `more`: what its clients need beside URL and key."""

    service: Callable[[Settings, str, Faults, HubStore], Service]
    routes: Callable[[Service, Transports], list[BaseRoute]] = lambda service, transports: []
    path: str = ""
    serve: Callable[[Service, socket.socket], None] | None = None
    more: Mapping[str, str] = field(default_factory=dict)


def _vast_routes(service: Service, transports: Transports) -> list[BaseRoute]:
    return [*VastApi(service).routes(VastGate(service, transports))]


def _lambda_routes(service: Service, transports: Transports) -> list[BaseRoute]:
    return [*LambdaApi(service).routes(LambdaGate(service, transports))]


def _jarvis_routes(service: Service, transports: Transports) -> list[BaseRoute]:
    return [*JarvisApi(service).routes(JarvisGate(service, transports))]


OTHERS: Mapping[str, Other] = {
    "vast": Other(vast_service, _vast_routes),
    "lambda": Other(lambda_service, _lambda_routes),
    "modal": Other(modal_service, serve=serve_when_asked, more={"MODAL_TOKEN_ID": TOKEN_ID}),
    "jarvislabs": Other(jarvis_service, _jarvis_routes, path="/jarvislabs/backendn"),
}


def serve_doors(services: Mapping[str, Service], doors: Mapping[str, socket.socket]) -> None:
    """Needs the running loop."""
    for name, door in doors.items():
        serve = OTHERS[name].serve
        assert serve is not None
        serve(services[name], door)


def others_env(urls: Mapping[str, str], keys: Mapping[str, str], *names: str) -> dict[str, str]:
    """What clients of these clouds need in their environment; nothing for RunPod, whose variables are always there.
    Apart from those: where a cloud's key is set, a control plane looks there, too."""
    found: dict[str, str] = {}
    for name in names:
        if name in OTHERS:
            can = CLOUDS[name]
            found |= {can.pod.base_url: urls[name] + OTHERS[name].path, can.key_name: keys[name], **OTHERS[name].more}
    return found
