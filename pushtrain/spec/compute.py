"""`compute`, `budget` and `limits` of a spec: what is rented, and for how long at most."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD, CloudName
from pushtrain.cloud import Tier
from pushtrain.gpus import USABLE_GPU_NAMES
from pushtrain.run import KEPT_NAME
from pushtrain.spec.names import Part
from pushtrain.spec.unmet import unmade, unmet

ImageRef = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9_./:@-]{0,254}$")]
# RunPod's ids (EU-SE-1), and regions as other clouds write them (us-west-1).
DataCenter = Annotated[str, StringConstraints(pattern=r"^([A-Z]{2,3}-[A-Z]{2,4}|[a-z]+(-[a-z]+)*)-\d+$")]
GpuName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}$"),
    Field(json_schema_extra={"examples": list(USABLE_GPU_NAMES)}),
]

# As RunPod's API writes them; its proxy and its public addresses carry no UDP.
_PORT = r"[1-9][0-9]{0,4}/(http|tcp)"


def _in_range(port: str) -> str:
    if int(port.partition("/")[0]) > 65535:
        raise ValueError("is no port: they end at 65535")
    return port


Port = Annotated[
    str,
    StringConstraints(pattern=rf"^{_PORT}$"),
    AfterValidator(_in_range),
    Field(json_schema_extra={"examples": ["8888/http"]}),
]

# RunPod's PyTorch image of August 2026 (their REST v2 OpenAPI example); CUDA 12.8, Ubuntu 24.04, Python and git inside.
DEFAULT_IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"


class NetworkVolume(Part):
    """The volume all attempts of a run share; it is deleted with the run. On COMMUNITY, the pod's own disk."""

    size_gb: Annotated[int, Field(ge=10, le=4096)] = 50
    """RunPod takes 10 to 4096. Holds the base model, checkpoints and caches. A kept volume only ever grows."""
    name: Annotated[str, StringConstraints(pattern=rf"^{KEPT_NAME.pattern}$")] | None = None
    """With keep: true, the volume that the jobs naming it share, e.g. models; the first one makes it."""
    keep: bool = False
    """true: the volume outlives its runs, billed outside their budgets, until `pushtrain volumes delete`."""

    @model_validator(mode="after")
    def _name_and_keep_go_together(self) -> "NetworkVolume":
        if self.keep and self.name is None:
            raise ValueError("keep: true needs a name, by which other jobs find the volume, e.g. name: models")
        if self.name is not None and not self.keep:
            raise ValueError(f"name {self.name!r} would do nothing without keep: true: the volume goes with its run")
        return self


class Spot(Part):
    """Machines that are cheaper, and taken away from who bids less; for trainings whose checkpoints survive that."""

    max_share: Annotated[float, Field(gt=0, le=1)] = 0.7
    """The most that is bid, as a share of the on-demand price; a machine that asks for more is left alone."""
    interruptions: Annotated[int, Field(ge=1, le=20)] = 2
    """After so many lost machines the rest is on demand, within the same budget."""


class Compute(Part):
    """What is rented."""

    cloud: CloudName | Literal["any"] | Annotated[list[CloudName], Field(min_length=1, max_length=8)] = "runpod"
    """Who rents it out: one, several in a list, of which the cheapest place is asked first, or any; docs/clouds.md."""
    gpus: Annotated[list[GpuName], Field(min_length=1)]
    """GPU type ids in order of preference, e.g. NVIDIA A40."""
    count: Annotated[int, Field(ge=1, le=8)] = 1
    """GPUs in the pod."""
    tiers: Annotated[list[Tier], Field(min_length=1, max_length=2)] = ["SECURE"]
    """In order of preference. COMMUNITY is cheaper and keeps nothing: a lost pod starts again from step 0."""
    spot: Spot | None = None
    """Asks for interruptible machines before any on demand. Needs checkpoints that outlive them; docs/clouds.md."""
    data_centers: list[DataCenter] = []
    """Empty: any data center that has network volumes and the GPU. Community machines are in none."""
    image: ImageRef = DEFAULT_IMAGE
    """Container image of the pod."""
    template: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Id of a RunPod template: brings its image (unless image is set), registry login and variables, nothing else."""
    disk_gb: Annotated[int, Field(ge=5, le=2000)] = 40
    """Container disk; holds the environment."""
    volume: NetworkVolume = NetworkVolume()
    ports: Annotated[list[Port], Field(max_length=10)] = []
    """Ports of a command or session that the whole internet may reach, e.g. 8888/http (by RunPod's proxy) or 22/tcp."""

    ssh: bool = True
    """Asks for 22/tcp and starts sshd on the pod, where the account has an ssh key; keys only, no passwords."""

    @property
    def asked_image(self) -> str | None:
        """The image a pod is asked for; None where the template's is to be used, or a cloud takes none."""
        theirs = self.template is not None or any(CLOUDS[name].framework for name in self.clouds)
        return None if theirs and "image" not in self.model_fields_set else self.image

    @property
    def image_in_words(self) -> str:
        if self.asked_image is not None or self.template is not None:
            return self.asked_image or f"the image of template {self.template}"
        ours = any(not CLOUDS[name].framework for name in self.clouds)
        theirs = [CLOUDS[name] for name in self.clouds if CLOUDS[name].framework]
        framed = [f"the image of {can.title}' framework {can.framework}" for can in theirs]
        return " or ".join([*([self.image] if ours else []), *framed])

    @property
    def clouds(self) -> tuple[str, ...]:
        """The clouds that it may be placed at; for `any` those that have what it asks for."""
        if self.cloud == "any":
            return tuple(name for name in CLOUDS if not self.lacks(name))
        return tuple(named_clouds(self.cloud))

    def at(self, cloud: str) -> "Compute":
        """The same at one of its clouds."""
        return self.model_copy(update={"cloud": cloud})

    def lacks(self, cloud: str) -> list[str]:
        """What it asks for that a cloud does not have, each as a sentence without its end."""
        missing = unmet(
            cloud,
            tiers=self.tiers,
            keeps_volume=self.volume.keep,
            data_centers=bool(self.data_centers),
            template=self.template is not None,
            ports=self.ports,
            ssh=self.ssh and "ssh" in self.model_fields_set,
        )
        image = "image" in self.model_fields_set
        return [*missing, *unmade(cloud, tiers=self.tiers, size_gb=self.volume.size_gb, image=image)]

    @model_validator(mode="after")
    def _asks_for_what_the_cloud_has(self) -> "Compute":
        said = [found for name in named_clouds(self.cloud) if (found := self.lacks(name))]
        if said and (self.cloud != "any" or len(said) == len(CLOUDS)):
            raise ValueError("; ".join(line for found in said for line in found))
        return self

    @field_validator("cloud")
    @classmethod
    def _each_cloud_once(cls, cloud: str | list[str]) -> str | list[str]:
        if isinstance(cloud, list) and len(set(cloud)) < len(cloud):
            raise ValueError("names a cloud twice")
        return cloud

    @field_validator("ports")
    @classmethod
    def _one_way_each(cls, ports: list[str]) -> list[str]:
        if len({port.partition("/")[0] for port in ports}) < len(ports):
            raise ValueError("names a port twice")
        return ports

    @field_validator("data_centers")
    @classmethod
    def _places_of_this_cloud(cls, places: list[str], info: ValidationInfo) -> list[str]:
        with_places = [can for name in named_clouds(info.data.get("cloud", DEFAULT_CLOUD)) if (can := CLOUDS[name])]
        with_places = [can for can in with_places if can.has_data_centers]
        for place in places:
            if with_places and all(place.isupper() != can.data_center_example.isupper() for can in with_places):
                look = " or ".join(can.data_center_example for can in with_places)
                whose = " or ".join(f"{can.title}'s" for can in with_places)
                raise ValueError(f"{place!r} is none of {whose}, which look like {look}")
        return places

    @field_validator("tiers")
    @classmethod
    def _each_once(cls, tiers: list[Tier]) -> list[Tier]:
        if len(set(tiers)) < len(tiers):
            raise ValueError("names a tier twice")
        return tiers


def named_clouds(cloud: str | Sequence[str]) -> list[str]:
    """The clouds that a value of `compute.cloud` names."""
    if cloud == "any":
        return list(CLOUDS)
    return [cloud] if isinstance(cloud, str) else list(cloud)


MOST_HOURS = 720


class Budget(Part):
    """Hard limits over all attempts of a run; the pod and the control plane each enforce them alone."""

    max_hours: Annotated[float, Field(gt=0, le=MOST_HOURS)]
    """Hours a pod may run, all attempts together."""
    max_usd: Annotated[float, Field(gt=0, le=100_000)]
    """US dollars, storage included."""


class Limits(Part):
    """How long the run may stand still; the other limits are the control plane's."""

    placement_hours: Annotated[float, Field(gt=0, le=720)] = 24
    """Hours it may wait for a GPU; a quarter of it once a pod was lost, since the volume is billed meanwhile."""
    first_step_minutes: Annotated[float, Field(gt=0, le=1440)] = 60
    """Minutes from the installed environment to the first step: model, data, compilation."""
    step_gap_minutes: Annotated[float, Field(gt=0, le=1440)] = 30
    """Minutes between two steps."""
    gpu_idle_minutes: Annotated[float, Field(gt=0, le=1440)] = 15
    """Minutes in which the GPU may do nothing while a model is trained."""
