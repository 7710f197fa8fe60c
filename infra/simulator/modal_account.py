"""The simulated Modal workspace: its account, what it knows of each sandbox, and a sandbox's environment.

A sandbox ends with its command, and at its timeout; Modal places it where it likes. Ids are Modal's: `sb-` and 22
letters and digits.
"""

import json
import secrets
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from infra.simulator import store
from infra.simulator.catalog import DEFAULT_CATALOG, Catalog, DataCenter, GpuModel, fullest
from infra.simulator.faults import Faults
from infra.simulator.hub_store import HubStore
from infra.simulator.pod_env import PodPlaces, container_environment
from infra.simulator.service import Service, Settings
from infra.simulator.state import Account, Pod

ANYWHERE = "anywhere"
# Modal's words for types of the catalogue.
GPUS: Mapping[str, str] = {
    "L4": "NVIDIA L4",
    "L40S": "NVIDIA L40S",
    "A100-80GB": "NVIDIA A100-SXM4-80GB",
    "H100": "NVIDIA H100 80GB HBM3",
    "H200": "NVIDIA H200",
    "B200": "NVIDIA B200",
}
# Dollars an hour of one core and of one GiB; a GPU costs what it costs in the catalogue.
CORE_USD, GIB_USD = 0.1419, 0.0242
_LETTERS = string.ascii_letters + string.digits


@dataclass(kw_only=True, slots=True)
class Sandbox:
    """What a pod of the account does not say. `ends_at` is epoch seconds; `result` why it ended: a name of Modal's."""

    app_id: str
    name: str
    ends_at: float
    usd_per_hour: float
    tags: dict[str, str] = field(default_factory=dict)
    mounts: list[str] = field(default_factory=list)
    result: str = ""


class Workspace:
    """What Modal keeps beside pods and volumes; in one file, which `save` writes."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "workspace.json"
        known = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.apps: dict[str, str] = known.get("apps", {})
        self.sandboxes = {name: Sandbox(**it) for name, it in known.get("sandboxes", {}).items()}
        # When a sandbox of that name is to end: a container may begin before its create is answered.
        self.asked: dict[str, float] = {}
        # Asked for and not placed: there is no machine for it now. Id → name and app.
        self.queued: dict[str, tuple[str, str]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.images: dict[str, str] = {}

    def save(self) -> None:
        sandboxes = {name: asdict(it) for name, it in self.sandboxes.items()}
        store.write_json(self._path, {"apps": self.apps, "sandboxes": sandboxes})


def new_id(prefix: str) -> str:
    return f"{prefix}-" + "".join(secrets.choice(_LETTERS) for _ in range(22))


class ModalService(Service):
    """The account with its workspace."""

    workspace: Workspace


def modal_service(settings: Settings, key: str, faults: Faults, hub: HubStore) -> Service:
    """Beside RunPod's account: containers are on the same machine, faults on the same board."""
    state_dir = settings.state_dir / "modal"
    state_dir.mkdir(mode=0o700, exist_ok=True)
    account = Account(_catalog(), lambda: new_id("sb"))
    store.load(account, state_dir)
    workspace = Workspace(state_dir)

    def ends_at(pod_id: str) -> float:
        known = workspace.sandboxes.get(pod_id)
        return workspace.asked[account.pods[pod_id].name] if known is None else known.ends_at

    its = replace(settings, state_dir=state_dir, api_key=key, ends_at=ends_at)
    service = ModalService(its, account, faults, hub, environment=modal_environment)
    service.workspace = workspace
    return service


def modal_environment(pod: Pod, places: PodPlaces, key: str, lend_python: bool = True) -> dict[str, str]:
    """Everything the container process gets, no key among it."""
    env = {
        "MODAL_SANDBOX_ID": pod.id,
        "MODAL_TASK_ID": task_id(pod.id),
        "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_AWS",
        "MODAL_REGION": "us-east-1",
        "MODAL_IMAGE_ID": pod.image,
    }
    return container_environment(places, pod.env, env, lend_python=lend_python)


def task_id(sandbox_id: str) -> str:
    return f"ta-{sandbox_id.removeprefix('sb-')}"


def _catalog() -> Catalog:
    """The same types, all in the one place that there is."""

    def here(gpu: GpuModel) -> GpuModel:
        return replace(gpu, stock={ANYWHERE: fullest(gpu.stock.values())})

    place = DataCenter(id=ANYWHERE, name="anywhere", region="ANY")
    return Catalog(gpus={name: here(gpu) for name, gpu in DEFAULT_CATALOG.gpus.items()}, data_centers={ANYWHERE: place})
