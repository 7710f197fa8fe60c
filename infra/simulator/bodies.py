"""Bodies the REST API accepts, as strict as RunPod's: an unknown property is refused by name."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from infra.simulator.catalog import Tier, VolumeKind
from infra.simulator.state import PodOrder, Refused
from infra.simulator.templates import Template

Text = Annotated[str, Field(min_length=1)]
CudaVersion = Annotated[str, Field(pattern=r"^\d+\.\d+$")]
SMALLEST_VOLUME_GB, MOST_VOLUME_GB = 10, 4096
VolumeSize = Annotated[int, Field(ge=SMALLEST_VOLUME_GB, le=MOST_VOLUME_GB)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _null_is_no_value(cls, body: Any) -> Any:
        """None means "left out" in these models; RunPod's document knows null only where `nullable` says so."""
        for name, value in body.items() if isinstance(body, dict) else ():
            if value is None and name in cls.model_fields and name not in cls.nullable:
                raise PydanticCustomError("null", "property '{name}' must not be null", {"name": name})
        return body


class Gpu(Body):
    id: str
    count: Annotated[int, Field(ge=1)] = 1
    allowedCudaVersions: list[CudaVersion] = []
    minCudaVersion: CudaVersion | None = None


class PersistentMount(Body):
    size: Annotated[int, Field(ge=10)]
    path: str


class NetworkMount(Body):
    volumeId: str
    path: str


class Mounts(Body):
    persistent: PersistentMount | None = None
    network: Annotated[list[NetworkMount], Field(max_length=1)] = []


class CreatePod(Body):
    nullable = frozenset({"registry"})

    name: Text
    image: str | None = None
    args: str = ""
    disk: Annotated[int, Field(ge=1)] = 50
    env: dict[str, str] = {}
    ports: list[str] = []
    registry: str | None = None
    cloud: Tier = "SECURE"
    gpu: Gpu | None = None
    cpu: dict[str, Any] | None = None
    dataCenterIds: list[str] = []
    globalNetworking: bool = False
    mounts: Mounts = Mounts()
    startJupyter: bool = False
    startSsh: bool = False
    templateId: Text | None = None

    def resolved(self, templates: Mapping[str, Template]) -> "CreatePod":
        """The same without `templateId`. Raises Refused for one that is unknown, or for serverless workers."""
        if self.templateId is None:
            return self
        template = templates.get(self.templateId)
        if template is None:
            raise Refused("not_found", "template not found")
        if template.serverless:
            raise Refused("rule", "a serverless template cannot be used for a pod")
        return CreatePod.model_validate(template.under(self.model_dump(exclude_unset=True)))

    def order(self) -> PodOrder:
        """Raises Refused for what no schema says: RunPod answers 400 there."""
        if (self.gpu is None) == (self.cpu is None):
            raise Refused("rule", "exactly one of gpu or cpu must be set")
        if self.gpu is None:
            raise Refused("rule", "CPU pods are not part of the simulator")
        if self.registry is not None:
            raise Refused("rule", "Registry auth not found")
        if self.mounts.persistent is not None and self.mounts.network:
            raise Refused("rule", "mounts.persistent and mounts.network are mutually exclusive")
        check_ports(self.ports)
        network = self.mounts.network[0] if self.mounts.network else None
        persistent = self.mounts.persistent
        return PodOrder(
            name=self.name,
            image=self.image or "",
            gpu=self.gpu.id,
            gpu_count=self.gpu.count,
            tier=self.cloud,
            args=self.args,
            disk_gb=self.disk,
            env=self.env,
            ports=self.ports,
            data_centers=tuple(self.dataCenterIds),
            volume_id=network.volumeId if network else None,
            mount_path=network.path if network else persistent.path if persistent else None,
            persistent_gb=persistent.size if persistent else 0,
            allowed_cuda_versions=tuple(self.gpu.allowedCudaVersions),
            min_cuda_version=self.gpu.minCudaVersion,
            global_networking=self.globalNetworking,
            start_ssh=self.startSsh,
        )


def check_ports(ports: list[str]) -> None:
    """Both APIs take `8888/http` and `22/tcp`. Raises Refused for anything else: a pod whose ports RunPod reads
    otherwise than they were meant could not be reached, without a word."""
    for port in ports:
        if not re.fullmatch(r"[1-9][0-9]{0,4}/(http|tcp)", port) or int(port.partition("/")[0]) > 65535:
            raise Refused("rule", f"invalid port {port!r}: expected port/protocol with http or tcp")


class PodAction(Body):
    action: Literal["start", "stop", "restart", "terminate"]


class CreateVolume(Body):
    name: Text
    size: VolumeSize
    dataCenter: Text
    type: VolumeKind | None = None


class UpdateVolume(Body):
    name: Text | None = None
    size: VolumeSize | None = None


class CreateTemplate(Body):
    name: Text
    image: Text
    args: str = ""
    disk: Annotated[int, Field(ge=1)] = 50
    env: dict[str, str] = {}
    ports: list[str] = []
    serverless: bool = False
    public: bool = False
    allowedCudaVersions: list[CudaVersion] = []

    def template(self, template_id: str) -> Template:
        check_ports(self.ports)
        return Template(
            id=template_id,
            name=self.name,
            image=self.image,
            args=self.args,
            disk_gb=self.disk,
            env=self.env,
            ports=tuple(self.ports),
            cuda_versions=tuple(self.allowedCudaVersions),
            serverless=self.serverless,
            public=self.public,
        )


class UpdateSshKeys(Body):
    keys: list[str]


def violations(error: ValidationError) -> list[str]:
    """Pydantic's findings in the words RunPod's validator uses."""
    return [_violation(finding) for finding in error.errors(include_url=False)]


def _violation(finding: Any) -> str:
    path = "$" + "".join(f".{part}" for part in finding["loc"])
    parent, _, last = path.rpartition(".")
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{parent}: additional properties '{last}' not allowed"
    if kind == "missing":
        return f"{parent}: missing property '{last}'"
    if kind == "literal_error":
        return f"{path}: value must be one of {context['expected'].replace(' or ', ', ')}"
    return f"{path}: {finding['msg']}"
