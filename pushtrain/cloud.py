"""The cloud seam: what pushtrain asks of a cloud, and the words it asks in.

Rules for every member (one contract suite holds them):
- every call has a deadline and a User-Agent; nothing waits for ever;
- create looks its deterministic name up and adopts what it finds, before the request and after an ambiguous failure;
- absent is success: deleting what is gone returns silently;
- failures are the classes of `pushtrain.errors`, sorted by what to do next.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Tier = Literal["SECURE", "COMMUNITY"]
Stock = Literal["NONE", "LOW", "MEDIUM", "HIGH"]
VolumeKind = Literal["STANDARD", "HIGH_PERFORMANCE"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """One GPU type in one data center. `data_center` is None where the cloud does not say (community tier).

    `volume_kinds` are the kinds of network volume that can be made there.
    """

    gpu: str
    gpu_memory_gb: int
    data_center: str | None
    tier: Tier
    usd_per_gpu_hour: float
    stock: Stock
    volume_kinds: tuple[VolumeKind, ...]
    max_count: int

    @property
    def has_network_volumes(self) -> bool:
        return bool(self.volume_kinds)


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeRequest:
    """A network volume. `kind` is asked for where a data center has several; None: the one it has."""

    name: str
    size_gb: int
    data_center: str
    kind: VolumeKind | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PodRequest:
    """A pod to create. `env` holds no secret; `secret_env` holds only the NAMES of variables whose values the
    cloud client reads from its own process environment at the moment of the create, so that no value enters
    Pulumi inputs or state. A named variable that is not set is left out.

    At `mount_path` is the network volume `volume_id`, or a disk of the pod's own of `persistent_gb` (10 at least) that
    is gone with the pod; never both. A community pod takes no network volume."""

    name: str
    image: str
    gpu: str
    gpu_count: int
    tier: Tier
    disk_gb: int
    args: str
    data_center: str | None = None
    volume_id: str | None = None
    persistent_gb: int | None = None
    mount_path: str = "/workspace"
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    min_cuda_version: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    id: str
    name: str
    size_gb: int
    data_center: str


# A pod in one of these never runs again by itself, whatever it still costs.
ENDED = ("EXITED", "ERROR", "TERMINATED")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod the cloud lists. `uptime_s` is None until the container really runs: RUNNING alone means nothing."""

    id: str
    name: str
    status: str
    gpu: str
    gpu_count: int
    usd_per_hour: float
    data_center: str | None
    uptime_s: int | None
    created_at: str | None
    tier: Tier = "SECURE"
    ports: tuple[str, ...] = ()

    @property
    def is_alive(self) -> bool:
        return self.status not in ENDED

    @property
    def age_key(self) -> tuple[str, str]:
        """Sorts the oldest first, the same for everybody who asks: of twins all leave the same one."""
        return self.created_at or "~", self.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What exists right now under a name prefix, whatever any state file remembers."""

    pods: tuple[Pod, ...]
    volumes: tuple[Volume, ...]

    def __bool__(self) -> bool:
        return bool(self.pods or self.volumes)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    event_id: str
    time: str
    source: str
    line: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """Dollars billed so far for the ids asked for; `final` is False while the cloud may still add to it."""

    pods_usd: float
    volumes_usd: float
    final: bool = False

    @property
    def total_usd(self) -> float:
        return self.pods_usd + self.volumes_usd


class Cloud(Protocol):
    """One cloud account. Blocking; safe to use from one thread."""

    name: str

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        """Everything rentable by type, data center and tier, with live price and the stock of hosts whose driver is
        new enough. Needs a valid key."""
        ...

    def gpu_names(self) -> list[str]:
        """Every GPU type id the cloud knows, in stock or not."""
        ...

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create or adopt by name. Raises CloudError; then nothing new exists, or the same name finds it."""
        ...

    def read_volume(self, volume_id: str) -> Volume | None:
        """None when it is gone. Raises CloudUnavailable when nobody can tell: a failed read is never 'gone'."""
        ...

    def delete_volume(self, volume_id: str) -> None:
        """Absent is success. Raises CloudUnavailable while a pod still holds it: delete the pod, then call again."""
        ...

    def create_pod(self, request: PodRequest) -> Pod:
        """Create or adopt by name. Raises NoCapacity to ask for the next candidate."""
        ...

    def read_pod(self, pod_id: str) -> Pod | None:
        """None when it is gone (404, or status TERMINATED)."""
        ...

    def terminate(self, pod_id: str) -> None:
        """Absent is success."""
        ...

    def find(self, prefix: str) -> Live:
        """Pods and volumes whose name starts with `prefix`; every page of every list."""
        ...

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        """Log lines after `last_event_id` (all that are kept when None); ends after `timeout_s` or at the pod's end."""
        ...

    def bill(
        self,
        pod_ids: list[str],
        volume_ids: list[str],
        since: str,
        *,
        until: str | None = None,
        now_s: float | None = None,
    ) -> Bill:
        """What the billing API says about these ids since an RFC 3339 time. It is final when everything was gone at
        `until` (RFC 3339) and the cloud has by now (`now_s`, epoch seconds) had the time to bill it all."""
        ...
