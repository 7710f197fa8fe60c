"""What one would do without at a cloud, in few words, from its capabilities. Pure."""

from collections.abc import Iterator

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Tier
from pushtrain.spec import JobSpec
from pushtrain.spec.compute import named_clouds

NO_CLIENT = "pushtrain does not rent there yet"


def missing(spec: JobSpec, cloud: str, gpu: str, tier: Tier) -> tuple[str, ...]:
    """First what keeps this spec from going there as it is, then what the cloud lacks, then what it bills besides."""
    return tuple([*_of_the_spec(spec, cloud, gpu, tier), *_of_the_cloud(cloud, tier), *_besides(cloud)])


def goes_there(spec: JobSpec, cloud: str, gpu: str, tier: Tier) -> bool:
    """Whether the spec could be placed there without a change."""
    return not any(_of_the_spec(spec, cloud, gpu, tier)) and cloud in CLOUDS


def _of_the_spec(spec: JobSpec, cloud: str, gpu: str, tier: Tier) -> Iterator[str]:
    compute = spec.compute
    if cloud not in CLOUDS:
        yield NO_CLIENT
    elif cloud not in named_clouds(compute.cloud):
        yield f"needs cloud: {cloud}"
    if gpu not in compute.gpus:
        yield "not in compute.gpus"
    if tier not in compute.tiers:
        yield "not in compute.tiers"
    if cloud in CLOUDS:
        yield from compute.model_copy(update={"tiers": [tier]}).lacks(cloud)


def _of_the_cloud(cloud: str, tier: Tier) -> Iterator[str]:
    can = CLOUDS.get(cloud)
    if can is None:
        return
    if not can.keeps(tier):
        yield "no volume across machines"
    if can.spot.startswith("no"):
        yield "no spot"
    if can.rents == "VM":
        yield "a VM, not a container"
    if not can.has_scoped_key:
        yield "no key for the pod alone"


def _besides(cloud: str) -> Iterator[str]:
    if cloud in CLOUDS and (usd := CLOUDS[cloud].traffic_usd):
        yield f"traffic is billed, at most ${usd:.2f} a GB"
