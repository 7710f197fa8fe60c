"""The simulated account at Lambda Cloud, and what a machine of it is started with."""

import secrets
import sys
from dataclasses import replace
from pathlib import Path

from infra.simulator import store
from infra.simulator.faults import Faults
from infra.simulator.hub_store import HubStore
from infra.simulator.lambda_catalog import CATALOG
from infra.simulator.pod_env import PodPlaces, container_environment
from infra.simulator.service import Service, Settings
from infra.simulator.state import Account, Pod


def lambda_service(settings: Settings, key: str, faults: Faults, hub: HubStore) -> Service:
    """Beside RunPod's account: ids are 32 hexadecimal digits, faults are on the same board."""
    state_dir = settings.state_dir / "lambda"
    state_dir.mkdir(mode=0o700, exist_ok=True)
    account = Account(CATALOG, lambda: secrets.token_hex(16))
    store.load(account, state_dir)
    its = replace(settings, state_dir=state_dir, api_key=key)
    return Service(its, account, faults, hub, environment=machine_environment)


def start_command() -> str:
    """What runs instead of a machine: see `lambda_machine`."""
    return f"{sys.executable} -I {Path(__file__).with_name('lambda_machine.py')}"


def machine_environment(pod: Pod, places: PodPlaces, key: str, lend_python: bool = True) -> dict[str, str]:
    """The machine's. No key is in it: Lambda has none for a machine."""
    env = {
        "SIMULATED_INSTANCE_ID": pod.id,
        "SIMULATED_MACHINE": str(places.pod_dir),
        "SIMULATED_MOUNT": pod.mount_path or "",
        "SIMULATED_USER_DATA": pod.env.get("USER_DATA", ""),
    }
    env |= {} if places.ssh_port is None else {"SIMULATED_SSH_PORT": str(places.ssh_port)}
    return container_environment(places, {}, env, lend_python=lend_python)
