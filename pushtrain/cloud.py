"""The cloud seam: what pushtrain asks of a cloud, and the words it asks in.

Rules for every member (one contract suite holds them):
- every call has a deadline and a User-Agent; nothing waits for ever;
- create looks its deterministic name up and adopts what it finds, before the request and after an ambiguous failure;
- absent is success: deleting what is gone returns silently;
- failures are the classes of `pushtrain.errors`, sorted by what to do next.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

Tier = Literal["SECURE", "COMMUNITY"]
Stock = Literal["NONE", "LOW", "MEDIUM", "HIGH"]
VolumeKind = Literal["STANDARD", "HIGH_PERFORMANCE"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """One GPU type in one data center. `data_center` is None where the cloud does not say (community tier).

    `volume_kinds` are the kinds of network volume that can be made there. `min_bid_usd_per_gpu_hour` is what has to be
    bid at least where machines are also rented by bid, and may be taken away; None where they are not.
    """

    gpu: str
    gpu_memory_gb: int
    data_center: str | None
    tier: Tier
    usd_per_gpu_hour: float
    stock: Stock
    volume_kinds: tuple[VolumeKind, ...]
    max_count: int
    min_bid_usd_per_gpu_hour: float | None = None

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
class Template:
    """A pod template of the account, as far as it says what a pod made from it would be.

    `variables` are the names of its environment variables; a pod's own win over them, one by one.
    """

    id: str
    name: str
    image: str
    disk_gb: int
    args: str
    variables: tuple[str, ...]
    ports: tuple[str, ...]
    cuda_versions: tuple[str, ...]
    is_serverless: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PodRequest:
    """A pod to create. `env` holds no secret; `secret_env` holds only the NAMES of variables whose values the
    cloud client reads from its own process environment at the moment of the create, so that no value enters
    Pulumi inputs or state. A named variable that is not set is left out.

    At `mount_path` is the network volume `volume_id`, or a disk of the pod's own of `persistent_gb` (10 at least) that
    is gone with the pod; never both. A community pod takes no network volume. `template` is a template's id, resolved
    once, at the create: what the request says itself wins, and without an `image` the template's is used. With `ssh`
    the account's public keys reach the pod. Where machines have prices of their own, one whose GPUs cost more than
    `max_usd_per_hour` is not taken. With `bid_usd_per_hour`, of all its GPUs, the machine is one that may be taken away
    by who bids more."""

    name: str
    image: str | None
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
    template: str | None = None
    ssh: bool = False
    max_usd_per_hour: float | None = None
    bid_usd_per_hour: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A network volume the cloud lists. `kind` is None where the cloud does not say."""

    id: str
    name: str
    size_gb: int
    data_center: str
    kind: VolumeKind | None = None


# A pod in one of these never runs again by itself, whatever it still costs.
ENDED = ("EXITED", "ERROR", "TERMINATED")


@dataclass(frozen=True, kw_only=True, slots=True)
class SshAddress:
    """Where an ssh client goes. Of a proxy the user is a name for the pod, not a user on it."""

    host: str
    port: int
    user: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod the cloud lists. `uptime_s` is None until the container really runs: RUNNING alone means nothing.
    `volume_id` is the network volume it mounts. `ssh_direct` is None until the container runs, and on a machine without
    a public address; `ssh_proxy` leads to a terminal and nothing else. The GPUs' figures, of the busiest and the
    fullest one, and that of the pod's memory are None until the cloud tells them. `is_spot`: it was rented by bid; None
    where the cloud does not say."""

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
    volume_id: str | None = None
    ssh_direct: SshAddress | None = None
    ssh_proxy: SshAddress | None = None
    gpu_percent: float | None = None
    gpu_memory_percent: float | None = None
    memory_percent: float | None = None
    is_spot: bool | None = None

    @property
    def is_alive(self) -> bool:
        return self.status not in ENDED

    @property
    def age_key(self) -> tuple[str, str]:
        """Sorts the oldest first, the same for everybody who asks: of twins all leave the same one."""
        return self.created_at or "~", self.id


# How far a list may be behind what its cloud has made: no cloud says, so as far as fault schedules put it and a bit.
LISTS_BEHIND_S = 45.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What exists right now under a name prefix, whatever any state file remembers. `scripts` are names of start
    scripts that the account holds, at a cloud that `KeepsScripts`: not billed, but a run's tokens are in them."""

    pods: tuple[Pod, ...]
    volumes: tuple[Volume, ...]
    scripts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pods or self.volumes or self.scripts)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    event_id: str
    time: str
    source: str
    line: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """Dollars billed so far for the ids asked for; `final` is False while the cloud may still add to it. `is_told` is
    False where the cloud keeps no bill that can be read: then time × price is all there is."""

    pods_usd: float
    volumes_usd: float
    final: bool = False
    is_told: bool = True

    @property
    def total_usd(self) -> float:
        return self.pods_usd + self.volumes_usd


@runtime_checkable
class KeepsScripts(Protocol):
    """A cloud whose account holds what pods are started with, under the pods' names."""

    def delete_script(self, name: str) -> None:
        """Absent is success. By it a shortened name of a pod or volume is known: those go first."""
        ...


class Cloud(Protocol):
    """One cloud account. Blocking; safe to use from one thread."""

    name: str
    """As `pushtrain.capabilities.CLOUDS` and `compute.cloud` have it; what it can and cannot do is there."""

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        """Everything rentable by type, data center and tier, with live price and the stock of hosts whose driver is
        new enough. Needs a valid key."""
        ...

    def gpu_names(self) -> list[str]:
        """Every GPU type id the cloud knows, in stock or not."""
        ...

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create or adopt by name. Raises CloudError; then nothing new exists, or the same name finds it.

        Of several with the name one is left. Of a kept volume's name (`pushtrain.run.is_kept`) only the one this very
        call made is ever removed again."""
        ...

    def grow_volume(self, volume_id: str, size_gb: int) -> Volume:
        """Make it at least so large; one that already is stays as it is. Raises RequestRejected where the cloud does
        not take the size, and where the volume is gone."""
        ...

    def volumes(self) -> list[Volume]:
        """Every network volume of the account, whoever made it; every page."""
        ...

    def read_template(self, template_id: str) -> Template | None:
        """One of the account's own or a public one; None where there is none that the account may read."""
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

    def ssh_keys(self) -> list[str]:
        """The account's public keys, one line of authorized_keys each. They reach pods that are made from now on."""
        ...

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        """Make these the account's keys, all of them: what is not named is dropped. See `pushtrain.ssh.keys`."""
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
