"""The clouds of the simulator beside RunPod: each has an account of its own, on the machine of RunPod's pods.

Their state lies in a folder of that name, `NAME/pods/ID` the pods'.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.routing import BaseRoute

from infra.simulator.faults import Faults
from infra.simulator.hub_store import HubStore
from infra.simulator.lambda_account import lambda_service
from infra.simulator.lambda_api import LambdaApi
from infra.simulator.lambda_gate import LambdaGate
from infra.simulator.service import Service, Settings
from infra.simulator.vast_account import vast_service
from infra.simulator.vast_api import VastApi
from infra.simulator.vast_gate import VastGate
from pushtrain.capabilities import CLOUDS

Transports = dict[Any, asyncio.Transport]


@dataclass(frozen=True)
class Other:
    """One cloud. `service(settings, key, faults, hub)` makes its account, `routes(service, transports)` its API."""

    service: Callable[[Settings, str, Faults, HubStore], Service]
    routes: Callable[[Service, Transports], list[BaseRoute]]


def _vast_routes(service: Service, transports: Transports) -> list[BaseRoute]:
    return [*VastApi(service).routes(VastGate(service, transports))]


def _lambda_routes(service: Service, transports: Transports) -> list[BaseRoute]:
    return [*LambdaApi(service).routes(LambdaGate(service, transports))]


OTHERS: Mapping[str, Other] = {
    "vast": Other(vast_service, _vast_routes),
    "lambda": Other(lambda_service, _lambda_routes),
}


def others_env(url: str, keys: Mapping[str, str], *names: str) -> dict[str, str]:
    """What clients of these clouds need in their environment; nothing for RunPod, whose variables are always there.
    Apart from those: where a cloud's key is set, a control plane looks there, too."""
    clouds = [(CLOUDS[name], keys[name]) for name in names if name in OTHERS]
    return {name: value for can, key in clouds for name, value in ((can.pod.base_url, url), (can.key_name, key))}
