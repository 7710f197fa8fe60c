"""Several clouds as one: what is asked by id goes to the cloud that gave it, what is looked for by name to all.

A cloud that does not answer makes a search fail as a whole: half an answer reads like 'nothing is left'.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Bill, Cloud, Live, LogLine, Offer, Pod, PodRequest, Template, Volume, VolumeRequest
from pushtrain.errors import CloudAuthFailed, RequestRejected

# Vast.ai counts its instances; RunPod's ids are 14 letters and digits.
_VAST_ID = re.compile(r"[0-9]{1,12}")


def member(cloud: Cloud, name: str) -> Cloud:
    """The client for one cloud. Raises CloudAuthFailed where its key is not set."""
    found = cloud.members.get(name) if isinstance(cloud, Fleet) else (cloud if cloud.name == name else None)
    if found is None:
        raise CloudAuthFailed(
            f"a run is on {CLOUDS[name].title}, and {CLOUDS[name].key_name} is not set",
            hint=f"set {CLOUDS[name].key_name} for every reconcile of this repository: without it nobody looks there",
        )
    return found


class Fleet:
    """`members` by name, two at least. Implements `pushtrain.cloud.Cloud`; what depends on the cloud and has no id
    (offers, creates, ssh keys) is refused: ask `member` for the one that is meant."""

    name = "fleet"

    def __init__(self, members: Mapping[str, Cloud]) -> None:
        self.members = dict(members)

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        raise self._which("offers")

    def gpu_names(self) -> list[str]:
        raise self._which("GPU types")

    def create_volume(self, request: VolumeRequest) -> Volume:
        return self._with_volumes().create_volume(request)

    def grow_volume(self, volume_id: str, size_gb: int) -> Volume:
        return self._with_volumes().grow_volume(volume_id, size_gb)

    def volumes(self) -> list[Volume]:
        return [volume for cloud in self.members.values() for volume in cloud.volumes()]

    def read_template(self, template_id: str) -> Template | None:
        raise self._which("templates")

    def read_volume(self, volume_id: str) -> Volume | None:
        return self._with_volumes().read_volume(volume_id)

    def delete_volume(self, volume_id: str) -> None:
        self._with_volumes().delete_volume(volume_id)

    def create_pod(self, request: PodRequest) -> Pod:
        raise self._which("a pod")

    def read_pod(self, pod_id: str) -> Pod | None:
        return self._of(pod_id).read_pod(pod_id)

    def terminate(self, pod_id: str) -> None:
        self._of(pod_id).terminate(pod_id)

    def find(self, prefix: str) -> Live:
        found = [cloud.find(prefix) for cloud in self.members.values()]
        return Live(
            pods=tuple(pod for live in found for pod in live.pods),
            volumes=tuple(volume for live in found for volume in live.volumes),
        )

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        return self._of(pod_id).logs(pod_id, last_event_id, timeout_s)

    def ssh_keys(self) -> list[str]:
        raise self._which("ssh keys")

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        raise self._which("ssh keys")

    def bill(
        self,
        pod_ids: list[str],
        volume_ids: list[str],
        since: str,
        *,
        until: str | None = None,
        now_s: float | None = None,
    ) -> Bill:
        bills = []
        for name, cloud in self.members.items():
            pods = [pod_id for pod_id in pod_ids if self._name_of(pod_id) == name]
            volumes = volume_ids if CLOUDS[name].volume_tiers else []
            if pods or volumes:
                bills.append(cloud.bill(pods, volumes, since, until=until, now_s=now_s))
        return Bill(
            pods_usd=sum(bill.pods_usd for bill in bills),
            volumes_usd=sum(bill.volumes_usd for bill in bills),
            final=bool(bills) and all(bill.final for bill in bills),
        )

    def _name_of(self, pod_id: str) -> str:
        return "vast" if _VAST_ID.fullmatch(pod_id) else "runpod"

    def _of(self, pod_id: str) -> Cloud:
        return member(self, self._name_of(pod_id))

    def _with_volumes(self) -> Cloud:
        return member(self, next(name for name, can in CLOUDS.items() if can.volume_tiers))

    def _which(self, what: str) -> RequestRejected:
        clouds = " and ".join(self.members)
        return RequestRejected(f"{what} of which cloud: {clouds}?", hint="this is a mistake of pushtrain's")
