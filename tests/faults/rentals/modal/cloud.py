"""Modal as one cloud of the schedules."""

import re
from typing import cast

from infra.clouds.modal.client import Modal
from infra.clouds.modal.names import find, gpu_ids, usd_per_gpu_hour
from infra.simulator.catalog import Catalog, DataCenter, GpuModel
from infra.simulator.modal_account import ANYWHERE
from infra.simulator.service import Service
from pushtrain.clock import CloudClock
from pushtrain.cloud import Cloud

from ..rental import ACCOUNT_KEY, BASE_URL, LIMITS, Rental, Seams
from .api import PATH, VirtualModal, outside, routes
from .sdk import VirtualSdk

_GPUS = {
    "NVIDIA A40": "NVIDIA L4",
    "NVIDIA RTX A6000": "NVIDIA L40S",
    "NVIDIA A100 80GB PCIe": "NVIDIA A100-SXM4-80GB",
}


def _sold(name: str) -> GpuModel:
    """In the one place that there is, with its cores and its memory in the price."""
    it = find(name)
    assert it is not None
    usd = usd_per_gpu_hour(name, {})
    return GpuModel(id=name, name=it.word, memory_gb=it.memory_gb, secure_usd=usd, stock={ANYWHERE: "HIGH"})


CATALOG = Catalog(
    gpus={name: _sold(name) for name in gpu_ids()},
    data_centers={ANYWHERE: DataCenter(id=ANYWHERE, name="anywhere", region="ANY")},
)
_OPERATIONS = {
    ("POST", "ImageGetOrCreate"): "build_image",
    ("POST", "SandboxCreate"): "create_pod",
    ("POST", "SandboxTerminate"): "pod_action",
    ("GET", "SandboxList"): "list_pod",
    ("GET", "VolumeList"): "list_volume",
    ("POST", "VolumeGetOrCreate"): "create_volume",
    ("POST", "VolumeDelete"): "delete_volume",
}


def _client(seams: Seams) -> Cloud:
    return Modal(
        ACCOUNT_KEY,
        BASE_URL,
        environ={},
        limits=LIMITS,
        sleep=seams.process.sleep,
        wall=CloudClock(BASE_URL, lambda text: None, local=seams.wall, ask=seams.asked_time),
        sdk=VirtualSdk(seams),
    )


def _late_s(service: Service, pod_id: str) -> float:
    """A time-out counts from the moment that a create was carried out, however late."""
    modal = cast(VirtualModal, service.modal)  # type: ignore[attr-defined]
    return modal.asked[pod_id].late_s


def _queued(service: Service) -> list[str]:
    """What nobody pays for yet, and everybody will once there is a machine for it."""
    modal = cast(VirtualModal, service.modal)  # type: ignore[attr-defined]
    return [modal.asked[it].order.name for it in modal.queued]


def _spec(text: str) -> str:
    """The same job by one word, with GPUs that Modal has; places it has none."""
    text = re.sub(r"data_centers: \[.*?\], ", "", text.replace("compute: {", "compute: {cloud: modal, "))
    for ours, its in _GPUS.items():
        text = text.replace(ours, its)
    return text


MODAL = Rental(
    name="modal",
    catalog=CATALOG,
    place=ANYWHERE,
    ids=lambda number: f"sb-{number:022d}",
    routes=routes,
    client=_client,
    environ={"MODAL_SERVER_URL": BASE_URL},
    lists={f"{PATH}/SandboxList": ("pod",), f"{PATH}/VolumeList": ("volume",)},
    more_pages="before",
    operation=lambda method, path: _OPERATIONS.get((method, path.removeprefix(f"{PATH}/")), "read_other"),
    ends="delete_pod",
    types=_GPUS,
    volume_id=outside,
    left_over=_queued,
    late_s=_late_s,
    ending="leaves",
    spec=_spec,
    tick_s=60.0,
)
