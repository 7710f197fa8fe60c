"""The account of the simulated cloud: pods, volumes and the clock of what they cost.

Pure: `now` is an argument in epoch seconds, ids come from the function given, nothing is read or written. Words are the
cloud's own, not those of one API: REST and GraphQL both translate to and from here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.simulator.catalog import Catalog, DataCenter, GpuModel, Stock, Tier, VolumeKind, fullest, version_key
from infra.simulator.templates import PUBLIC, Template

Why = Literal["no_capacity", "no_resources", "rule", "not_found", "wrong_status", "in_use"]
Status = Literal["RUNNING", "EXITED", "TERMINATED"]
OutOfStock = Callable[[str, str | None], bool]
"""(GPU id, data center or None for community) → nothing to rent there right now."""

# RunPod's two sentences for "no capacity"; there is no machine-readable code.
NO_CAPACITY = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again."
)
NO_RESOURCES = "This machine does not have the resources to deploy your pod. Please try a different machine"
VOLUME_IN_USE = "You must remove this network volume from all pods before deleting it."
# Beyond this no host takes the pod; clients meet RunPod's second capacity text.
MAX_DISK_GB = 2000
MAX_ENV = 50


class Refused(Exception):
    """The cloud says no. `why` is for machines, `detail` the sentence a client is shown."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


@dataclass(kw_only=True, slots=True)
class Span:
    """A stretch of one rate. `end` is None while it lasts; `running` is False while a pod is stopped."""

    start: float
    end: float | None = None
    running: bool = True
    size_gb: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PodOrder:
    """What a client asks for, defaults resolved."""

    name: str
    image: str
    gpu: str
    gpu_count: int = 1
    tier: Tier = "SECURE"
    args: str = ""
    disk_gb: int = 50
    env: dict[str, str] = field(default_factory=dict)
    ports: list[str] = field(default_factory=list)
    data_centers: tuple[str, ...] = ()
    volume_id: str | None = None
    mount_path: str | None = None
    persistent_gb: int = 0
    allowed_cuda_versions: tuple[str, ...] = ()
    min_cuda_version: str | None = None
    global_networking: bool = False
    start_ssh: bool = False


@dataclass(kw_only=True, slots=True)
class Pod:
    id: str
    name: str
    image: str
    args: str
    gpu: str
    gpu_count: int
    tier: Tier
    usd_per_gpu_hour: float
    disk_gb: int
    env: dict[str, str]
    ports: list[str]
    data_center: str | None
    cuda_version: str | None
    volume_id: str | None
    mount_path: str | None
    persistent_gb: int
    global_networking: bool
    created_at: float
    spans: list[Span]
    status: Status = "RUNNING"
    never_starts: bool = False

    @property
    def usd_per_hour(self) -> float:
        """Compute only, as RunPod's `cost`; a stopped pod keeps it, though it is not billed."""
        return self.usd_per_gpu_hour * self.gpu_count

    @property
    def ended_at(self) -> float | None:
        return self.spans[-1].end


@dataclass(kw_only=True, slots=True)
class Volume:
    id: str
    name: str
    data_center: str
    kind: VolumeKind
    spans: list[Span]

    @property
    def size_gb(self) -> int:
        return self.spans[-1].size_gb

    @property
    def deleted(self) -> bool:
        return self.spans[-1].end is not None


class Account:
    """One account. Ended pods and deleted volumes stay for the bill; the live_* methods leave them out."""

    def __init__(self, catalog: Catalog, new_id: Callable[[], str]) -> None:
        self.catalog = catalog
        self.pods: dict[str, Pod] = {}
        self.volumes: dict[str, Volume] = {}
        self.ssh_keys: list[str] = []
        self.templates: dict[str, Template] = dict(PUBLIC)
        self.new_id = new_id

    def live_pods(self) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.status != "TERMINATED"]

    def live_volumes(self) -> list[Volume]:
        return [volume for volume in self.volumes.values() if not volume.deleted]

    def pod(self, pod_id: str) -> Pod:
        """A pod that exists. Raises Refused(not_found) for a terminated one, too."""
        pod = self.pods.get(pod_id)
        if pod is None or pod.status == "TERMINATED":
            raise Refused("not_found", "pod not found")
        return pod

    def volume(self, volume_id: str) -> Volume:
        volume = self.volumes.get(volume_id)
        if volume is None or volume.deleted:
            raise Refused("not_found", "network volume not found")
        return volume

    def create_pod(self, order: PodOrder, now: float, out_of_stock: OutOfStock = lambda gpu, dc: False) -> Pod:
        """Place and bill a pod from `now` on. Raises Refused: rule, no_capacity, no_resources, not_found."""
        gpu = self._check_rules(order)
        data_center = self._place(order, gpu, out_of_stock)
        usd = gpu.usd_per_hour(order.tier)
        assert usd is not None, "placed in a tier that has no price"
        pod = Pod(
            id=self.new_id(),
            name=order.name,
            image=order.image,
            args=order.args,
            gpu=gpu.id,
            gpu_count=order.gpu_count,
            tier=order.tier,
            usd_per_gpu_hour=usd,
            disk_gb=order.disk_gb,
            env=self._environment(order),
            ports=list(order.ports),
            data_center=data_center,
            cuda_version=max(_cuda_versions(order, gpu), key=version_key, default=None),
            volume_id=order.volume_id,
            mount_path=order.mount_path,
            persistent_gb=order.persistent_gb,
            global_networking=order.global_networking,
            created_at=now,
            spans=[Span(start=now)],
        )
        self.pods[pod.id] = pod
        return pod

    def terminate_pod(self, pod_id: str, now: float) -> Pod:
        pod = self.pod(pod_id)
        pod.status = "TERMINATED"
        pod.spans[-1].end = now
        return pod

    def stop_pod(self, pod_id: str, now: float) -> Pod:
        pod = self._in_status(pod_id, "RUNNING", "stop")
        pod.status = "EXITED"
        _next_span(pod.spans, Span(start=now, running=False))
        return pod

    def start_pod(self, pod_id: str, now: float) -> Pod:
        pod = self._in_status(pod_id, "EXITED", "start")
        pod.status = "RUNNING"
        _next_span(pod.spans, Span(start=now))
        return pod

    def edit_pod(self, pod_id: str, changed: Mapping[str, Any], now: float) -> Pod:
        """Changed container settings; the container of a running pod starts anew with them, so a span begins."""
        pod = self.pod(pod_id)
        for name, value in changed.items():
            setattr(pod, name, value)
        if pod.status == "RUNNING":
            _next_span(pod.spans, Span(start=now))
        return pod

    def restart_pod(self, pod_id: str) -> Pod:
        return self._in_status(pod_id, "RUNNING", "restart")

    def create_volume(self, name: str, size_gb: int, data_center: str, kind: VolumeKind | None, now: float) -> Volume:
        kinds = self._data_center(data_center).volume_kinds
        if not kinds or (kind is not None and kind not in kinds):
            raise Refused("rule", f"data center {data_center} has no network volumes of this type")
        span = Span(start=now, size_gb=size_gb)
        volume = Volume(id=self.new_id(), name=name, data_center=data_center, kind=kind or kinds[0], spans=[span])
        self.volumes[volume.id] = volume
        return volume

    def update_volume(self, volume_id: str, now: float, name: str | None = None, size_gb: int | None = None) -> Volume:
        volume = self.volume(volume_id)
        if size_gb is not None and size_gb < volume.size_gb:
            raise Refused("rule", f"network volume size cannot be reduced from {volume.size_gb} GB to {size_gb} GB")
        if size_gb is not None and size_gb > volume.size_gb:
            _next_span(volume.spans, Span(start=now, size_gb=size_gb))
        volume.name = volume.name if name is None else name
        return volume

    def delete_volume(self, volume_id: str, now: float) -> Volume:
        volume = self.volume(volume_id)
        if any(pod.volume_id == volume_id for pod in self.live_pods()):
            raise Refused("in_use", VOLUME_IN_USE)
        volume.spans[-1].end = now
        return volume

    def _environment(self, order: PodOrder) -> dict[str, str]:
        """RunPod puts the account's SSH keys of this moment into the environment of a pod created with startSsh."""
        keys = {"PUBLIC_KEY": "\n".join(self.ssh_keys)} if order.start_ssh and self.ssh_keys else {}
        return keys | order.env

    def _in_status(self, pod_id: str, status: Status, action: str) -> Pod:
        pod = self.pod(pod_id)
        if pod.status != status:
            raise Refused("wrong_status", f"action '{action}' is not valid for a pod in status {pod.status}")
        return pod

    def _data_center(self, data_center: str) -> DataCenter:
        found = self.catalog.data_centers.get(data_center)
        if found is None:
            raise Refused("rule", f"unknown data center '{data_center}'")
        return found

    def _check_rules(self, order: PodOrder) -> GpuModel:
        gpu = self.catalog.gpus.get(order.gpu)
        if gpu is None:
            raise Refused("rule", f"unknown GPU type '{order.gpu}'")
        for data_center in order.data_centers:
            self._data_center(data_center)
        if order.allowed_cuda_versions and order.min_cuda_version is not None:
            raise Refused("rule", "allowedCudaVersions and minCudaVersion are mutually exclusive")
        if len(order.env) > MAX_ENV:
            raise Refused("rule", f"a pod takes at most {MAX_ENV} environment variables")
        if order.volume_id is not None:
            if order.tier == "COMMUNITY":
                raise Refused("rule", "network volumes are available in secure cloud only")
            if order.persistent_gb:
                raise Refused("rule", "mounts.persistent and mounts.network are mutually exclusive")
            home = self.volume(order.volume_id).data_center
            if order.data_centers and home not in order.data_centers:
                raise Refused("rule", f"network volume {order.volume_id} is in data center {home}")
        return gpu

    def _place(self, order: PodOrder, gpu: GpuModel, out_of_stock: OutOfStock) -> str | None:
        """The data center, fullest stock first; None in the community tier, which never says where."""
        if order.disk_gb > MAX_DISK_GB:
            raise Refused("no_resources", NO_RESOURCES)
        fits = order.gpu_count <= gpu.max_gpus(order.tier) and bool(_cuda_versions(order, gpu))
        if order.tier == "COMMUNITY":
            # RunPod: a data center on a community request keeps it from being placed at all.
            if fits and not order.data_centers and gpu.community_stock != "NONE" and not out_of_stock(gpu.id, None):
                return None
            raise Refused("no_capacity", NO_CAPACITY)
        wanted: Iterable[str] = order.data_centers or self.catalog.data_centers
        if order.volume_id is not None:
            wanted = [self.volume(order.volume_id).data_center]
        if order.global_networking:
            wanted = [name for name in wanted if self.catalog.data_centers[name].global_network]
        levels: dict[str, Stock] = {
            name: "NONE" if out_of_stock(gpu.id, name) else gpu.stock.get(name, "NONE") for name in wanted
        }
        best = fullest(levels.values())
        if not fits or best == "NONE":
            raise Refused("no_capacity", NO_CAPACITY)
        return next(name for name, level in levels.items() if level == best)


def _next_span(spans: list[Span], span: Span) -> None:
    spans[-1].end = span.start
    spans.append(span)


def _cuda_versions(order: PodOrder, gpu: GpuModel) -> list[str]:
    """Versions of this GPU's hosts that the order takes."""
    if order.allowed_cuda_versions:
        return [version for version in gpu.cuda_versions if version in order.allowed_cuda_versions]
    floor = version_key(order.min_cuda_version or "0.0")
    return [version for version in gpu.cuda_versions if version_key(version) >= floor]
