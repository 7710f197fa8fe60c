"""A row for each pod of a ledger: what it does, how full it is, what it costs. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pushtrain.budget import cap_usd
from pushtrain.cloud import Pod
from pushtrain.ledger import RunRecord
from pushtrain.progress import spent_usd


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Figures are None where nobody tells them. `told_s`: how old the pod's own figures are (`disk_…` of the container,
    `volume_…`, and the GPU's where the cloud has none)."""

    run_id: str
    state: str
    attempt: int | None
    pod_id: str | None
    gpu: str
    gpu_count: int
    data_center: str | None
    uptime_s: int | None
    gpu_percent: float | None
    gpu_memory_percent: float | None
    memory_percent: float | None
    disk_gb: float | None
    disk_total_gb: float | None
    volume_gb: float | None
    volume_total_gb: float | None
    usd_per_hour: float
    spent_usd: float | None
    cap_usd: float | None
    step: int | None
    total_steps: int | None
    idle_s: float | None
    told_s: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def rows(
    records: Sequence[RunRecord], pods: Sequence[Pod], figures: Mapping[str, Mapping[str, Any]], now_s: float
) -> list[Row]:
    """Active runs with their pods, then pods with our mark that no active run owns; `figures` is the last line of
    metrics by run id."""
    left = list(pods)
    made = []
    for record in sorted(records, key=lambda record: record.events[0].epoch_s):
        prefix = f"{record.run['resource_prefix']}-"
        mine = [pod for pod in left if pod.name.startswith(prefix)]
        left = [pod for pod in left if pod not in mine]
        none: list[Pod | None] = [None]
        made += [_row(record, pod, figures.get(record.run_id, {}), now_s) for pod in [*mine] or none]
    return made + [_nobodys(pod) for pod in left]


def last_figures(raw: bytes) -> dict[str, Any]:
    """Of lines of metrics: the latest value of each key, and the time of the last line."""
    known: dict[str, Any] = {}
    for line in raw.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        known |= {key: value for key, value in row.items() if value is not None} if isinstance(row, dict) else {}
    return known


def _row(record: RunRecord, pod: Pod | None, told: Mapping[str, Any], now_s: float) -> Row:
    start = next((event for event in reversed(record.events) if event.state == "provisioned"), None)
    known = start.data if start is not None else {}
    percent = pod.gpu_percent if pod else None
    memory = pod.gpu_memory_percent if pod else None
    used, total = _number(told.get("gpu_memory_gb")), _number(told.get("gpu_memory_total_gb"))
    time_s = _number(told.get("time"))
    return Row(
        run_id=record.run_id,
        state=f"{record.last.state} {record.last.reason}".strip(),
        attempt=record.last.attempt,
        pod_id=pod.id if pod else None,
        gpu=pod.gpu if pod else "",
        gpu_count=pod.gpu_count if pod else 0,
        data_center=pod.data_center if pod else None,
        uptime_s=pod.uptime_s if pod else None,
        gpu_percent=percent if percent is not None else _number(told.get("gpu_utilization")),
        gpu_memory_percent=memory if memory is not None else (100 * used / total if used and total else None),
        memory_percent=pod.memory_percent if pod else None,
        disk_gb=_number(told.get("disk_gb")),
        disk_total_gb=_number(told.get("disk_total_gb")),
        volume_gb=_number(told.get("volume_gb")),
        volume_total_gb=_number(told.get("volume_total_gb")),
        usd_per_hour=float(known.get("usd_per_hour") or pod.usd_per_hour) if pod else 0.0,
        spent_usd=round(spent_usd(record, now_s), 6),
        cap_usd=cap_usd(record),
        step=_whole(told.get("step")),
        total_steps=_whole(told.get("total_steps")),
        idle_s=_number(told.get("idle_s")),
        told_s=round(max(0.0, now_s - time_s), 1) if time_s is not None else None,
    )


def _nobodys(pod: Pod) -> Row:
    return Row(
        run_id=pod.name,
        state="no active run owns it: pushtrain sweep",
        attempt=None,
        pod_id=pod.id,
        gpu=pod.gpu,
        gpu_count=pod.gpu_count,
        data_center=pod.data_center,
        uptime_s=pod.uptime_s,
        gpu_percent=pod.gpu_percent,
        gpu_memory_percent=pod.gpu_memory_percent,
        memory_percent=pod.memory_percent,
        disk_gb=None,
        disk_total_gb=None,
        volume_gb=None,
        volume_total_gb=None,
        usd_per_hour=pod.usd_per_hour,
        spent_usd=None,
        cap_usd=None,
        step=None,
        total_steps=None,
        idle_s=None,
        told_s=None,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
