"""What every client reads of what it is asked for, whatever its cloud. Pure."""

from collections.abc import Collection, Mapping, Sequence

from pushtrain.cloud import PodRequest


def secrets_of(request: PodRequest, environ: Mapping[str, str]) -> dict[str, str]:
    """Name → value of the pod's secrets; what is not set here, or empty, is left out."""
    return {name: environ[name] for name in request.secret_env if environ.get(name)}


def at_most(request: PodRequest) -> str:
    """The limit of the price, as the end of a sentence."""
    most = request.max_usd_per_hour
    return "" if most is None else f" for ${most:.3f} an hour or less"


def key_changes(there: Collection[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The ssh keys to add and, only then, to remove where the account has to have just those that are wanted, and its
    API takes them one by one."""
    stripped = [key.strip() for key in wanted]
    return [key for key in stripped if key not in there], [key for key in there if key not in stripped]
