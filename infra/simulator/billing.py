"""What pods and volumes cost: dollars of any stretch of time, from the account alone. Pure.

Rates are RunPod's documented ones: container disk 0.10 USD per GB and month while running; a pod's own volume disk 0.10
running and 0.20 stopped; network volumes 0.07 for the first TB and 0.05 beyond. High performance storage has no
published rate: twice the standard one is an example. A month is 730 hours.
"""

from dataclasses import dataclass

from infra.simulator.state import Pod, Span, Volume

_HOUR_S = 3600.0
_MONTH_S = 730 * _HOUR_S
_DISK_USD, _STOPPED_DISK_USD = 0.10, 0.20
_VOLUME_USD, _VOLUME_USD_BEYOND, _FIRST_GB = 0.07, 0.05, 1000
_HIGH_PERFORMANCE = 2.0


@dataclass(frozen=True, slots=True)
class PodCost:
    gpu: float
    disk: float

    @property
    def total(self) -> float:
        return self.gpu + self.disk


def pod_cost(pod: Pod, start: float, end: float) -> PodCost:
    """Dollars of one pod between two moments, by the second; `end` must not lie after now."""
    gpu = disk = 0.0
    for span in pod.spans:
        seconds = _overlap_s(span, start, end)
        if span.running:
            gpu += seconds / _HOUR_S * pod.usd_per_hour
            disk += seconds / _MONTH_S * _DISK_USD * (pod.disk_gb + pod.persistent_gb)
        else:
            disk += seconds / _MONTH_S * _STOPPED_DISK_USD * pod.persistent_gb
    return PodCost(gpu, disk)


def volume_cost(volume: Volume, start: float, end: float) -> float:
    """Dollars of one network volume between two moments; used or not."""
    factor = _HIGH_PERFORMANCE if volume.kind == "HIGH_PERFORMANCE" else 1.0
    return sum(_overlap_s(span, start, end) / _MONTH_S * factor * _usd_per_month(span.size_gb) for span in volume.spans)


def _usd_per_month(size_gb: int) -> float:
    return min(size_gb, _FIRST_GB) * _VOLUME_USD + max(0, size_gb - _FIRST_GB) * _VOLUME_USD_BEYOND


def _overlap_s(span: Span, start: float, end: float) -> float:
    return max(0.0, min(end, span.end if span.end is not None else end) - max(start, span.start))
