"""What a job spec asks for that its cloud does not have: an error of the spec, before anything is rented. Pure."""

from collections.abc import Iterable, Iterator

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Tier


def unmet(
    cloud: str,
    *,
    tiers: Iterable[Tier] = (),
    keeps_volume: bool = False,
    data_centers: bool = False,
    template: bool = False,
    ports: Iterable[str] = (),
    ssh: bool = False,
) -> Iterator[str]:
    """What a spec's `compute` asks for that the cloud does not have, each as a sentence without its end."""
    can = CLOUDS[cloud]
    tiers = list(tiers)
    for tier in tiers:
        if tier not in can.tiers:
            yield f"tiers has {tier}, which {can.title} does not rent out: it has {' and '.join(can.tiers)}"
    if keeps_volume and (without := [tier for tier in tiers if tier in can.tiers and not can.keeps(tier)]):
        needs = f"needs {' or '.join(can.volume_tiers)}" if can.volume_tiers else f"is not to be had at {can.title}"
        yield f"tiers has {' and '.join(without)}, whose machines take no network volume: volume.keep {needs}"
    if data_centers and not can.has_data_centers:
        yield f"data_centers names places, and {can.title} sells machines by no data center"
    if template and not can.has_templates:
        instead = "" if can.framework else "; write image and env into the spec"
        yield f"template: {can.title} has none that pushtrain reads{instead}"
    if not can.has_http_proxy and (http := [port for port in ports if port.endswith("/http")]):
        yield f"ports has {' and '.join(http)}, and {can.title} has no HTTP proxy" + (
            ": ask for /tcp" if can.has_tcp_ports else ""
        )
    if not can.has_tcp_ports and (tcp := [port for port in ports if port.endswith("/tcp")]):
        yield f"ports has {' and '.join(tcp)}, and {can.title} opens no such ports" + (
            ": ask for /http" if can.has_http_proxy else ""
        )
    if ssh and not can.has_tcp_ports:
        yield f"ssh: nobody can log in at {can.title}, which opens no port 22"


def outlived(cloud: str, *, max_hours: float, restart: bool) -> str | None:
    """What a budget of more hours than a pod of the cloud may live means; None where it means nothing."""
    can = CLOUDS[cloud]
    if can.longest_s is None or max_hours * 3600 <= can.longest_s:
        return None
    then = "the run goes on in another one from its last checkpoint, and that uses up no attempt"
    then = then if restart else "command.restart is false, so that a command which takes longer fails"
    return f"{can.title} ends each pod after {can.longest_s / 3600:g} h: {then}"


def unmade(cloud: str, *, tiers: Iterable[Tier], size_gb: int, image: bool) -> Iterator[str]:
    """The same of a network volume's size and of an image; what is smaller than the cloud makes volumes is made as
    small as it goes."""
    can = CLOUDS[cloud]
    if image and can.framework:
        yield f"image: {can.title} runs no image of one's own, but its framework {can.framework}: leave it out"
    if can.has_sized_volumes and size_gb > can.volume_gb[1] and any(can.keeps(tier) for tier in tiers):
        yield f"volume.size_gb is {size_gb}, and {can.title} makes volumes of {can.volume_gb[1]} GB at most"
