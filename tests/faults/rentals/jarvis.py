"""JarvisLabs: errors inside a 200, variables in a start script, names that are shortened, nothing that a pod could end
itself with."""

import json
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.clouds.jarvis.client import JarvisLabs
from infra.clouds.jarvis.names import FILE_SYSTEM_CHARS, HOME, HOSTS, short, whole
from infra.simulator.catalog import Catalog
from infra.simulator.gate import Call
from infra.simulator.jarvis_account import ScriptStore
from infra.simulator.jarvis_api import JarvisApi
from infra.simulator.jarvis_files import FileSystems
from infra.simulator.jarvis_gate import JarvisGate
from infra.simulator.jarvis_market import CATALOG as WHOLE
from infra.simulator.service import Service
from infra.simulator.state import Pod
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Cloud

from .rental import ACCOUNT_KEY, BASE_URL, LIMITS, REFUSALS, Log, Rental, Seams

_HOST = f"/jarvislabs/{HOSTS[HOME]}"
_GPUS = {
    "NVIDIA A40": "NVIDIA RTX A6000",
    "NVIDIA RTX A6000": "NVIDIA A100-SXM4-40GB",
    "NVIDIA A100 80GB PCIe": "NVIDIA H100 80GB HBM3",
}
_SOLD = {"NVIDIA RTX A6000": "A6000", "NVIDIA A100-SXM4-40GB": "A100", "NVIDIA H100 80GB HBM3": "H100"}
_PLACES = {"EU-SE-1": "india-noida-01", "CA-MTL-1": "india-chennai-01"}
# Every type in both regions: jobs that share a kept volume may name different ones.
CATALOG = Catalog(
    gpus={
        name: replace(gpu, stock={"india-noida-01": "HIGH", "india-chennai-01": "MEDIUM"})
        for name, gpu in WHOLE.gpus.items()
        if name in _SOLD.values()
    },
    data_centers=WHOLE.data_centers,
)
_EXPORT = re.compile(r"export (?!PUSHTRAIN_BOOT=)\w+=")


class _Scripts(ScriptStore):
    """A container is started with its script as it is: `env_of` reads it. `ever`: every name that there was."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ever: set[str] = set()

    def add(self, name: str, content: bytes) -> int:
        self.ever.add(name)
        return super().add(name, content)

    def command(self, number: int | None, folder: Path) -> str:
        return "" if number is None else self._path(number).read_text()


class _Files(FileSystems):
    """The account has the whole names, by which the witnesses know what is whose; the API shows them as short as it
    makes them."""

    async def list(self, call: Call) -> Response:
        rows = json.loads(bytes((await super().list(call)).body))
        return JSONResponse([row | {"fs_name": short(row["fs_name"], FILE_SYSTEM_CHARS)} for row in rows])


class _VirtualService:
    """Stands before the account where a file system is made: under its whole name, which its label
    says, or said: one that is made late may come after that is gone."""

    def __init__(self, service: Service, scripts: _Scripts) -> None:
        self._service, self._scripts = service, scripts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def create_volume(self, name: str, *rest: Any) -> Any:
        return self._service.create_volume(whole(name, FILE_SYSTEM_CHARS, self._scripts.ever), *rest)


class _VirtualJarvis(JarvisApi):
    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._scripts = _Scripts(service.settings.state_dir / "scripts")
        self._files = _Files(_VirtualService(service, self._scripts))  # type: ignore[arg-type]

    def _is_listed(self, pod: Pod) -> bool:
        """One that never starts is listed at last: else nobody could find what was refused and made all the same."""
        return super()._is_listed(pod) or self._service.clock() > pod.created_at + CLOUDS["jarvislabs"].listed_within_s


def env_of(pod: Pod) -> Mapping[str, str]:
    """What the start script exports."""
    return _exports(pod.args)


@lru_cache(maxsize=256)
def _exports(script: str) -> Mapping[str, str]:
    words = (shlex.split(line) for line in script.splitlines() if _EXPORT.match(line))
    return dict(each[1].split("=", 1) for each in words)


def _left_over(service: Service) -> list[str]:
    """Start scripts of pods: they hold secrets. Those that are but the label of a volume's name do not."""
    listed = service.settings.state_dir / "scripts" / "names.json"
    names = json.loads(listed.read_text()).values() if listed.exists() else ()
    return [name for name in names if not name.endswith("-v")]


_LISTS: "WeakKeyDictionary[Service, _VirtualJarvis]" = WeakKeyDictionary()


def _hides(service: Service, pod: Pod) -> bool:
    return not _LISTS[service]._is_listed(pod)


def _routes(service: Service, transports: dict[Any, Any], log: Log) -> list[Route]:
    api = _LISTS[service] = _VirtualJarvis(service)
    return api.routes(JarvisGate(service, transports))


def _client(seams: Seams) -> Cloud:
    return JarvisLabs(
        ACCOUNT_KEY,
        BASE_URL + _HOST,
        environ={},
        limits=LIMITS,
        sleep=seams.process.sleep,
        clock=seams.clock,
        transport=seams.transport,
    )


def _operation(method: str, path: str) -> str:
    named = re.sub(r"^/jarvislabs/[^/]*", "", path)
    if named.startswith("/templates/"):
        return "create_pod"
    found = {
        ("POST", "/misc/destroy"): "pod_action",
        ("GET", "/users/fetch"): "list_pod",
        ("GET", "/filesystem/list"): "list_volume",
        ("POST", "/filesystem/create"): "create_volume",
        ("POST", "/filesystem/delete"): "delete_volume",
    }
    return found.get((method, named), "read_other")


def _is_refused(status: int, body: bytes) -> bool:
    """A fault of the cloud itself comes inside a 200, and says so in words."""
    said = json.loads(body) if status == 200 and body.startswith(b'{"sucess"') else {}
    return status in REFUSALS or bool(said.get("error"))


def _spec(text: str) -> str:
    """The same job by one word, with GPUs and regions of JarvisLabs. A third of them take a spot instance first."""
    text = text.replace("compute: {", "compute: {cloud: jarvislabs, ")
    for ours, its in [*_PLACES.items(), *reversed(_GPUS.items())]:
        text = text.replace(ours, its)
    if zlib.crc32(text.encode()) % 3:
        return text
    text = text.replace("compute: {", "compute: {spot: {max_share: 0.8, interruptions: 1}, ")
    return re.sub(r"publish: \{(.*)\}", r"publish: {\1, hub_strategy: checkpoint}", text)


JARVIS = Rental(
    name="jarvislabs",
    catalog=CATALOG,
    place="india-noida-01",
    ids=lambda number: str(400_000_000 + number),
    routes=_routes,
    client=_client,
    environ={"JARVISLABS_URL": BASE_URL + _HOST},
    lists={f"{_HOST}/users/fetch": ("pod",), f"{_HOST}/filesystem/list": ("volume",)},
    more_pages="-",  # its lists have none
    operation=_operation,
    ends="delete_pod",
    types=_GPUS,
    gpu_of=lambda sold: _SOLD.get(sold, sold),
    pod_id=lambda its: f"jl-{its}",
    volume_id=lambda volume: f"jlfs-{short(volume.name, FILE_SYSTEM_CHARS)}",
    left_over=_left_over,
    hides=_hides,
    ending="work",
    env_of=env_of,
    is_refused=_is_refused,
    spec=_spec,
    tick_s=100.0,  # up to 85 s of them for a file system that an instance holds
)
