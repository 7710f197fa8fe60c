"""Several clouds under one control plane. Which of them a run is on the ledger says, never an id: each cloud makes its
own, and two may look alike."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.cloud import Bill, Cloud, Live, LogLine, Offer, Pod, PodRequest, Template, Volume, VolumeRequest
from pushtrain.errors import CloudAuthFailed, CloudError, RequestRejected
from pushtrain.ledger import RunRecord


def cloud_of(record: RunRecord) -> str:
    """Name of the cloud that a run is on: of one that may go to several where its pod was, else where it was asked for
    last."""
    for state in ("provisioned", "provisioning"):
        for event in reversed(record.events):
            if event.state == state and event.data.get("cloud"):
                return str(event.data["cloud"])
    return str(record.run.get("cloud") or DEFAULT_CLOUD)


def named_cloud(record: RunRecord, attempt: int) -> str:
    """The cloud at which an attempt of a run that may go to several is just being asked for, by the ledger; empty
    before any was named, and while the run waits: then every one of them said no."""
    said = [it for it in record.events if it.attempt == attempt and it.state in ("provisioning", "waiting")]
    return str(said[-1].data.get("cloud") or "") if said and said[-1].state == "provisioning" else ""


def clouds_asked(record: RunRecord) -> list[str]:
    """Every cloud at which a run that may go to several was ever asked for; none of a run that is at one alone."""
    named = (it.data.get("cloud") for it in record.events if it.state in ("provisioning", "provisioned"))
    return sorted({str(name) for name in named if name})


def members(cloud: Cloud) -> Mapping[str, Cloud]:
    """Every cloud that there is a client for, by name."""
    return cloud.members if isinstance(cloud, Fleet) else {cloud.name: cloud}


def member(cloud: Cloud, name: str) -> Cloud:
    """The client for one cloud. Raises CloudAuthFailed where its key is not set."""
    found = members(cloud).get(name)
    if found is None:
        raise CloudAuthFailed(
            f"a run is on {CLOUDS[name].title}, and {CLOUDS[name].key_name} is not set",
            hint=f"set {CLOUDS[name].key_name} for every reconcile of this repository: without it nobody looks there",
        )
    return found


@dataclass(frozen=True)
class Listing:
    """What each cloud lists, and what those said that did not answer: of these nobody knows anything."""

    by_cloud: Mapping[str, Live]
    away: Mapping[str, CloudError] = field(default_factory=dict)

    @property
    def live(self) -> Live:
        """All of it together."""
        return _together(self.by_cloud.values())


def listing(cloud: Cloud, prefix: str) -> Listing:
    """`find` of every cloud. Raises CloudError when none answers."""
    found: dict[str, Live] = {}
    away: dict[str, CloudError] = {}
    for name, one in members(cloud).items():
        try:
            found[name] = one.find(prefix)
        except CloudError as failure:
            away[name] = failure
    if not found:
        raise next(iter(away.values()))
    return Listing(found, away)


class _Refuses:
    """Every call of `pushtrain.cloud.Cloud`, each refused by what `_refusal` says of it."""

    def find(self, prefix: str) -> Live:
        raise self._refusal("what is there")

    def volumes(self) -> list[Volume]:
        raise self._refusal("network volumes")

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        raise self._refusal("offers")

    def gpu_names(self) -> list[str]:
        raise self._refusal("GPU types")

    def create_volume(self, request: VolumeRequest) -> Volume:
        raise self._refusal(f"network volume {request.name}")

    def grow_volume(self, volume_id: str, size_gb: int) -> Volume:
        raise self._refusal(f"network volume {volume_id}")

    def read_volume(self, volume_id: str) -> Volume | None:
        raise self._refusal(f"network volume {volume_id}")

    def delete_volume(self, volume_id: str) -> None:
        raise self._refusal(f"network volume {volume_id}")

    def read_template(self, template_id: str) -> Template | None:
        raise self._refusal(f"template {template_id}")

    def create_pod(self, request: PodRequest) -> Pod:
        raise self._refusal(f"pod {request.name}")

    def read_pod(self, pod_id: str) -> Pod | None:
        raise self._refusal(f"pod {pod_id}")

    def terminate(self, pod_id: str) -> None:
        raise self._refusal(f"pod {pod_id}")

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        raise self._refusal(f"pod {pod_id}")

    def ssh_keys(self) -> list[str]:
        raise self._refusal("ssh keys")

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        raise self._refusal("ssh keys")

    def bill(
        self,
        pod_ids: list[str],
        volume_ids: list[str],
        since: str,
        *,
        until: str | None = None,
        now_s: float | None = None,
    ) -> Bill:
        raise self._refusal("a bill")

    def _refusal(self, what: str) -> CloudError:
        raise NotImplementedError


class NoClient(_Refuses):
    """In the place of a cloud for which no client can be made, by its key or its URL: every call raises `why`, as if it
    were away. Implements `pushtrain.cloud.Cloud`."""

    def __init__(self, name: str, why: CloudError) -> None:
        self.name, self._why = name, why

    def _refusal(self, what: str) -> CloudError:
        return self._why.with_traceback(None)  # the same one each time: it must not gather everybody's frames


class Fleet(_Refuses):
    """`members` by name. Implements `pushtrain.cloud.Cloud` for what can be asked of all clouds at once, which fails as
    a whole where one does not answer: half an answer reads like 'nothing is left'. Everything else is refused: ask
    `member` for the cloud that is meant."""

    name = "fleet"

    def __init__(self, members: Mapping[str, Cloud]) -> None:
        self.members = dict(members)

    def find(self, prefix: str) -> Live:
        return _together(cloud.find(prefix) for cloud in self.members.values())

    def volumes(self) -> list[Volume]:
        return [volume for cloud in self.members.values() for volume in cloud.volumes()]

    def _refusal(self, what: str) -> CloudError:
        clouds = " or ".join(CLOUDS[name].title for name in self.members)
        return RequestRejected(f"{what}: of {clouds}?", hint="this is a mistake of pushtrain's: please report it")


def _together(lives: Iterable[Live]) -> Live:
    lives = list(lives)
    return Live(
        pods=tuple(pod for live in lives for pod in live.pods),
        volumes=tuple(volume for live in lives for volume in live.volumes),
        scripts=tuple(script for live in lives for script in live.scripts),
    )
