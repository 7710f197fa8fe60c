"""Lambda Cloud: machines that boot for minutes, carry their pod in a script, and have no key to end their bill with."""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from starlette.routing import Route

from infra.clouds.lambda_cloud.boot import PER_BOOT
from infra.clouds.lambda_cloud.client import Lambda
from infra.clouds.lambda_cloud.pace import LambdaLimits
from infra.simulator.catalog import Catalog
from infra.simulator.lambda_api import LambdaApi
from infra.simulator.lambda_catalog import CATALOG as WHOLE
from infra.simulator.lambda_gate import LambdaGate
from infra.simulator.service import Service
from infra.simulator.state import Pod
from pushtrain.cloud import Cloud

from .rental import ACCOUNT_KEY, BASE_URL, Log, Rental, Seams

# As long is one that was terminated still listed.
_GOING_S = 15.0
_GPUS = {
    "NVIDIA A40": "NVIDIA RTX A6000",
    "NVIDIA RTX A6000": "NVIDIA A100-SXM4-40GB",
    "NVIDIA A100 80GB PCIe": "NVIDIA H100 PCIe",
}
_PLACES = {"EU-SE-1": "us-west-1", "CA-MTL-1": "us-east-1"}
# Every type in both regions: jobs that share a kept volume may name different ones.
CATALOG = Catalog(
    gpus={
        name: replace(gpu, stock={"us-west-1": "HIGH", "us-east-1": "MEDIUM"})
        for name, gpu in WHOLE.gpus.items()
        if name in _GPUS.values()
    },
    data_centers=WHOLE.data_centers,
)


class _VirtualLambda(LambdaApi):
    """Without the disk that tells whether something of a machine still runs."""

    def _is_listed(self, pod: Pod) -> bool:
        hides = getattr(self._service.account, "hides", None)
        ended_s = pod.ended_at if pod.status == "TERMINATED" else None
        is_gone = ended_s is not None and self._service.clock() > ended_s + _GOING_S
        return not is_gone and not (hides is not None and hides(pod))


def env_of(pod: Pod) -> Mapping[str, str]:
    """What the script of each boot exports for the pod's container."""
    return _exports(pod.env.get("USER_DATA", ""))


@lru_cache(maxsize=256)
def _exports(user_data: str) -> Mapping[str, str]:
    head, _, body = user_data.partition("\n")
    if head != "#cloud-config":
        return {}
    files = {file["path"]: file for file in json.loads(body)["write_files"]}
    script = base64.b64decode(files[PER_BOOT]["content"]).decode()
    words = (shlex.split(line) for line in script.splitlines() if _is_told(line))
    return dict(each[1].split("=", 1) for each in words if "=" in each[1])


def _is_told(line: str) -> bool:
    """The archive of our own is for nobody here, and long."""
    return line.startswith("export ") and not line.startswith("export PUSHTRAIN_BOOT=")


def _routes(service: Service, transports: dict[Any, Any], log: Log) -> list[Route]:
    return _VirtualLambda(service).routes(LambdaGate(service, transports))


def _client(seams: Seams) -> Cloud:
    return Lambda(
        ACCOUNT_KEY,
        BASE_URL,
        environ={},
        limits=LambdaLimits(jitter=lambda: 0.5),
        sleep=seams.process.sleep,
        clock=seams.clock,
        transport=seams.transport,
    )


def _operation(method: str, path: str) -> str:
    found = {
        ("POST", "instance-operations/launch"): "create_pod",
        ("POST", "instance-operations/terminate"): "pod_action",
        ("GET", "instances"): "list_pod",
        ("GET", "file-systems"): "list_volume",
        ("POST", "filesystems"): "create_volume",
        ("DELETE", "filesystems"): "delete_volume",
    }
    named = path.removeprefix("/api/v1/")
    return found.get((method, named)) or found.get((method, named.partition("/")[0])) or "read_other"


def _spec(text: str) -> str:
    """The same job by one word, with GPUs and regions that Lambda has."""
    text = text.replace("compute: {", "compute: {cloud: lambda, ")
    for ours, its in [*_PLACES.items(), *reversed(_GPUS.items())]:
        text = text.replace(ours, its)
    return text


LAMBDA = Rental(
    name="lambda",
    catalog=CATALOG,
    place="us-west-1",
    ids=lambda number: hashlib.sha256(f"{number}".encode()).hexdigest()[:32],
    routes=_routes,
    client=_client,
    environ={"LAMBDA_CLOUD_BASE_URL": BASE_URL},
    lists={"/api/v1/instances": ("pod",), "/api/v1/file-systems": ("volume",)},
    more_pages="-",  # its lists have none
    operation=_operation,
    ends="delete_pod",
    types=_GPUS,
    ending="off",
    env_of=env_of,
    foreign_env={"USER_DATA": "", "TAGS": "{}"},
    is_machine=True,
    boots_s=150.0,
    stops_unpaid=False,
    spec=_spec,
    tick_s=60.0,
)
