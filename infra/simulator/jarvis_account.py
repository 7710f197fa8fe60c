"""The simulated account at JarvisLabs: its start scripts, and what a container of it has in its environment."""

import json
import secrets
import shlex
from dataclasses import replace
from pathlib import Path

from infra.simulator import store
from infra.simulator.faults import Faults
from infra.simulator.hub_store import HubStore
from infra.simulator.jarvis_market import CATALOG
from infra.simulator.pod_env import PodPlaces, container_environment
from infra.simulator.service import Service, Settings
from infra.simulator.state import Account, Pod, Volume


def jarvis_service(settings: Settings, key: str, faults: Faults, hub: HubStore) -> Service:
    """Beside RunPod's account: ids are numbers, containers are on the same machine, faults on the same board."""
    state_dir = settings.state_dir / "jarvislabs"
    state_dir.mkdir(mode=0o700, exist_ok=True)
    account = Account(CATALOG, lambda: str(4 * 10**8 + secrets.randbelow(10**8)))
    store.load(account, state_dir)
    its = replace(settings, state_dir=state_dir, api_key=key)
    return Service(its, account, faults, hub, environment=jarvis_environment)


def jarvis_environment(pod: Pod, places: PodPlaces, key: str, lend_python: bool = True) -> dict[str, str]:
    """Nothing that says which instance it is, and no key: what a pod is told is in its start script. The first
    variable is the simulator's own mark."""
    env = {
        "SIMULATED_INSTANCE_ID": pod.id,
    }
    return container_environment(places, {}, env, lend_python=lend_python)


class ScriptStore:
    """Start scripts by id, in a folder of mode 0700."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        listed = folder / "names.json"
        self._names: dict[int, str] = {}
        if listed.exists():
            self._names = {int(number): name for number, name in json.loads(listed.read_text()).items()}

    def all(self) -> dict[int, str]:
        return dict(self._names)

    def add(self, name: str, content: bytes) -> int:
        number = max(self._names, default=100) + 1
        self._names[number] = name
        self.write(number, content)
        self._save()
        return number

    def write(self, number: int, content: bytes) -> None:
        path = self._path(number)
        path.touch(mode=0o600)
        path.write_bytes(content)

    def remove(self, number: int) -> None:
        del self._names[number]
        self._path(number).unlink(missing_ok=True)
        self._save()

    def command(self, number: int | None, folder: Path) -> str:
        """A container's own services go on when its start script has ended. It gets a copy of the script, because
        that is read at the start, and may be removed after it."""
        if number is None:
            return "sleep infinity"
        copy = folder / f"{number}-{secrets.token_hex(4)}.sh"
        folder.mkdir(mode=0o700, exist_ok=True)
        copy.touch(mode=0o600)
        copy.write_bytes(self._path(number).read_bytes())
        return f"bash -c {shlex.quote(f'bash {shlex.quote(str(copy))}; exec sleep infinity')}"

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.sh"

    def _save(self) -> None:
        store.write_json(self._folder / "names.json", self._names)


def renumber(service: Service, volume: Volume) -> Volume:
    """What a file system that was made larger may get: another number, with the same content."""
    old, volume.id = volume.id, service.account.new_id()
    del service.account.volumes[old]
    service.account.volumes[volume.id] = volume
    service.machine.volume_dir(old).rename(service.machine.volume_dir(volume.id))
    service.save()
    return volume
