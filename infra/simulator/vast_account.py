"""The simulated account at Vast.ai, and the environment of an instance: what Vast sets, and what the request sets."""

import secrets
from dataclasses import replace

from infra.simulator import store
from infra.simulator.catalog import DEFAULT_CATALOG
from infra.simulator.faults import Faults
from infra.simulator.hub_store import HubStore
from infra.simulator.pod_env import PodPlaces, container_environment
from infra.simulator.service import Service, Settings
from infra.simulator.state import Account, Pod


def vast_service(settings: Settings, key: str, faults: Faults, hub: HubStore) -> Service:
    """Beside RunPod's account: ids are numbers, containers are on the same machine, faults on the same board."""
    state_dir = settings.state_dir / "vast"
    state_dir.mkdir(mode=0o700, exist_ok=True)
    account = Account(DEFAULT_CATALOG, lambda: str(10**7 + secrets.randbelow(9 * 10**7)))
    store.load(account, state_dir)
    its = replace(settings, state_dir=state_dir, api_key=key)
    return Service(its, account, faults, hub, environment=vast_environment)


def vast_environment(pod: Pod, places: PodPlaces, key: str, lend_python: bool = True) -> dict[str, str]:
    """Everything the container process gets."""
    env = {
        "CONTAINER_ID": pod.id,
        "CONTAINER_API_KEY": key,
        "VAST_CONTAINERLABEL": f"C.{pod.id}",
        "GPU_COUNT": str(pod.gpu_count),
        "PUBLIC_IPADDR": "127.0.0.1",
        "VAST_URL": places.base_url,
    }
    # Pods share this machine's network: a port is reached where it is, but for 22.
    for port in pod.ports:
        number = port.partition("/")[0]
        if port != "22/tcp":
            env[f"VAST_TCP_PORT_{number}"] = number
        elif places.ssh_port is not None:
            env["VAST_TCP_PORT_22"] = str(places.ssh_port)
    return container_environment(places, pod.env, env, lend_python=lend_python)
