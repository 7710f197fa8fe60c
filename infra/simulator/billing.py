"""What pods and volumes cost: dollars of any stretch of time, from the account alone. Pure.

Rates are RunPod's documented ones: container disk 0.10 USD per GB and month while running; a pod's own volume disk 0.10
running and 0.20 stopped; network volumes 0.07 for the first TB and 0.05 beyond. High performance storage is
twice the standard rate, as RunPod's page of October 2025 had it. A month is 730 hours.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

from infra.simulator.state import Account, Pod, Span, Volume

BucketSize = Literal["hour", "day", "week", "month", "year"]

_HOUR_S = 3600.0
_MONTH_S = 730 * _HOUR_S
_DISK_USD, _STOPPED_DISK_USD = 0.10, 0.20
_VOLUME_USD, _VOLUME_USD_BEYOND, _FIRST_GB = 0.07, 0.05, 1000
_HIGH_PERFORMANCE = 2.0
# What every simulated account begins with.
FIRST_BALANCE_USD = 100.0


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


def balance_usd(account: Account, now_s: float) -> float:
    """What is left of the first balance: every rented second is taken from it."""
    spent = sum(pod_cost(pod, 0.0, now_s).total for pod in account.pods.values())
    return FIRST_BALANCE_USD - spent - sum(volume_cost(it, 0.0, now_s) for it in account.volumes.values())


def buckets(start: float, end: float, size: BucketSize) -> list[tuple[float, float]]:
    """Whole UTC buckets that cover [start, end), oldest first; weeks begin on Monday."""
    found = []
    moment = _floor(datetime.fromtimestamp(start, timezone.utc), size)
    while moment.timestamp() < end:
        after = _next(moment, size)
        found.append((moment.timestamp(), after.timestamp()))
        moment = after
    return found


def last_buckets(now: float, count: int, size: BucketSize) -> list[tuple[float, float]]:
    """The bucket of `now` and those before it, `count` in all, oldest first."""
    moment = _floor(datetime.fromtimestamp(now, timezone.utc), size)
    found: list[tuple[float, float]] = []
    while len(found) < count and moment.year > 1970:
        found.append((moment.timestamp(), _next(moment, size).timestamp()))
        moment = _floor(moment - timedelta(seconds=1), size)
    return found[::-1]


def _floor(moment: datetime, size: BucketSize) -> datetime:
    if size == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if size == "week":
        return day - timedelta(days=day.weekday())
    if size == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if size == "year" else day


def _next(floor: datetime, size: BucketSize) -> datetime:
    if size == "hour":
        return floor + timedelta(hours=1)
    days = {"day": 1, "week": 7, "month": 31, "year": 366}[size]
    return _floor(floor + timedelta(days=days), size)


def _usd_per_month(size_gb: int) -> float:
    return min(size_gb, _FIRST_GB) * _VOLUME_USD + max(0, size_gb - _FIRST_GB) * _VOLUME_USD_BEYOND


def _overlap_s(span: Span, start: float, end: float) -> float:
    return max(0.0, min(end, span.end if span.end is not None else end) - max(start, span.start))
