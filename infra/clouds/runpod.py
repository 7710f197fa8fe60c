"""RunPod over REST v2: one member of `pushtrain.cloud.Cloud`.

Facts it stands on (vendor's OpenAPI of August 2026 and live answers): a create may answer 500 and still rent; names are
not unique, so ours are looked up before and after every create; `status` says RUNNING before the container exists;
no idempotency key, no capacity code, no server-side deadline that works. The retry table is in `runpod_answers`.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import httpx

from infra.clouds import runpod_shapes as shapes
from infra.clouds.runpod_answers import Answer, expected_shape, failure
from infra.clouds.runpod_http import Call, Limits, RunPodHttp
from infra.clouds.runpod_logs import follow
from pushtrain.cloud import Bill, Live, LogLine, Offer, Pod, PodRequest, Volume, VolumeRequest
from pushtrain.errors import CloudUnavailable, NoCapacity, RequestRejected

BASE_URL = "https://api.runpod.io"
_PODS, _VOLUMES = "/v2/pods", "/v2/network-volumes"
T = TypeVar("T")


class RunPod:
    """One RunPod account. Safe to use from one thread; `close` when done, or let it go out of scope.

    `environ` is where `PodRequest.secret_env` is read from at each create. `transport` replaces the network in tests.
    """

    name = "runpod"

    def __init__(
        self,
        api_key: str,
        base_url: str = BASE_URL,
        *,
        environ: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._limits = limits or Limits()
        self._http = RunPodHttp(api_key, base_url, limits=self._limits, sleep=sleep, clock=clock, transport=transport)

    def close(self) -> None:
        self._http.close()

    def offers(self, gpu_count: int = 1) -> list[Offer]:
        """Secure offers by data center, then community offers. A catalogue read reserves nothing."""
        doing = "reading RunPod's catalogue"
        stock = {"include": "AVAILABILITY", "product": "POD", "count": str(gpu_count)}
        secure = self._get(doing, "/v2/catalog/gpus", {**stock, "cloud": "SECURE"})
        community = self._get(doing, "/v2/catalog/gpus", {**stock, "cloud": "COMMUNITY"})
        centers = self._get(doing, "/v2/catalog/datacenters")
        with expected_shape(doing):
            return shapes.secure_offers(secure, shapes.volume_kinds(centers)) + shapes.community_offers(community)

    def gpu_names(self) -> list[str]:
        doing = "reading RunPod's GPU types"
        catalog = self._get(doing, "/v2/catalog/gpus")
        with expected_shape(doing):
            return [str(gpu["id"]) for gpu in catalog["gpus"]]

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create or adopt by name. Raises NoCapacity (reason VolumeElsewhere) while another data center has the name.

        Of several with the name, the one a pod mounts is kept (volumes carry no creation time), else the first listed.
        """
        doing = f"creating network volume {request.name} in {request.data_center}"
        call = self._create_call(_VOLUMES, shapes.volume_body(request))
        return self._create(doing, call, shapes.volume, lambda created: self._adopt_volume(request, created))

    def read_volume(self, volume_id: str) -> Volume | None:
        return self._read(f"reading network volume {volume_id}", _path(_VOLUMES, volume_id), shapes.volume)

    def delete_volume(self, volume_id: str) -> None:
        """Absent is success. A refusal can only mean that it is held: a bare DELETE has no other rule to break."""
        doing = f"deleting network volume {volume_id}"
        answer = self._send("DELETE", _path(_VOLUMES, volume_id))
        if answer.ok or answer.absent:
            return
        if answer.status in (400, 409):
            holders = ", ".join(self._mounts().get(volume_id, [])) or "none that is still listed"
            raise CloudUnavailable(
                f"{doing}: {answer.said} Pods that mount it: {holders}.",
                hint="terminate the pods that mount it, wait some seconds, then delete it again",
            )
        raise failure(answer, doing)

    def create_pod(self, request: PodRequest) -> Pod:
        """Create or adopt by name; a pod of that name that ended is terminated first, of several the oldest stays."""
        where = request.data_center or "any data center"
        doing = f"creating pod {request.name} ({request.gpu_count} x {request.gpu}, {request.tier}, {where})"
        if request.tier == "COMMUNITY" and request.volume_id is not None:
            raise RequestRejected(f"{doing}: RunPod mounts network volumes on SECURE pods only", hint="use tier SECURE")
        secrets = {name: self._environ[name] for name in request.secret_env if self._environ.get(name)}
        self._http.keep_secret(secrets.values())
        call = self._create_call(_PODS, shapes.pod_body(request, secrets))
        return self._create(doing, call, shapes.pod, lambda created: self._adopt_pod(request.name, created))

    def read_pod(self, pod_id: str) -> Pod | None:
        found = self._read(f"reading pod {pod_id}", _path(_PODS, pod_id), shapes.pod)
        return None if found is None or found.status == shapes.GONE else found

    def terminate(self, pod_id: str) -> None:
        """By action, then by DELETE; a pod that is gone, or never was, is success."""
        path = _path(_PODS, pod_id)
        answer = self._send("POST", f"{path}/action", body={"action": "terminate"})
        if answer.ok or answer.absent:
            return
        if answer.status != 401:
            answer = self._send("DELETE", path)
            if answer.ok or answer.absent or (answer.status == 409 and self.read_pod(pod_id) is None):
                return
        raise failure(answer, f"terminating pod {pod_id}")

    def find(self, prefix: str) -> Live:
        return Live(
            pods=tuple(pod for pod in self._pods() if pod.name.startswith(prefix)),
            volumes=tuple(volume for volume in self._volumes() if volume.name.startswith(prefix)),
        )

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        """Container and system lines; see `runpod_logs.follow`."""
        path = f"{_path(_PODS, pod_id)}/logs"
        return follow(
            self._http, path, f"reading the logs of pod {pod_id}", last_event_id=last_event_id, timeout_s=timeout_s
        )

    def bill(self, pod_ids: list[str], volume_ids: list[str], since: str, until: str | None = None) -> Bill:
        """Hour buckets from the one that holds `since`; final when the bucket of `until` is closed and settled."""
        return Bill(
            pods_usd=sum(self._billed("pods", "podId", pod_id, since) for pod_id in pod_ids),
            volumes_usd=sum(
                self._billed("network-volumes", "networkVolumeId", volume_id, since) for volume_id in volume_ids
            ),
            final=until is not None and self._limits.now() >= shapes.billed_by_s(until),
        )

    def _create(self, doing: str, call: Call, read: Callable[[Any], T], adopt: Callable[[T | None], T | None]) -> T:
        """Looks, sends, looks again; after a lost answer it waits and looks before it sends once more.

        `adopt(created)` finds what bears the name, `created` included, and leaves exactly one of it.
        """
        found, said = adopt(None), ""
        for _ in range(self._limits.create_attempts):
            if found is not None:
                return found
            answer = self._http.send(call)
            if answer.ok and answer.json is not None:
                with expected_shape(doing):
                    created = read(answer.json)
                return adopt(created) or created
            if not (answer.ok or answer.ambiguous):
                raise failure(answer, doing)
            found, said = self._look_again(adopt), answer.said
        if found is not None:
            return found
        raise CloudUnavailable(
            f"{doing}: {said}, and nothing of that name appeared",
            hint="run the same command again: it looks the name up before it creates",
        )

    def _look_again(self, adopt: Callable[[T | None], T | None]) -> T | None:
        for pause in self._limits.look_pauses_s:
            self._http.sleep(pause)
            found = adopt(None)
            if found is not None:
                return found
        return None

    def _adopt_pod(self, name: str, created: Pod | None) -> Pod | None:
        """The oldest living pod of that name; its twins, and those that ended, are terminated."""
        same = {pod.id: pod for pod in self._pods() if pod.name == name}
        if created is not None:
            same.setdefault(created.id, created)
        oldest = min((pod for pod in same.values() if pod.is_alive), key=lambda pod: pod.age_key, default=None)
        for pod in same.values():
            if pod is not oldest:
                self.terminate(pod.id)
        return oldest

    def _adopt_volume(self, request: VolumeRequest, created: Volume | None) -> Volume | None:
        """The one volume of that name; of several a mounted one, else the first listed, and the others are deleted."""
        same = {volume.id: volume for volume in self._volumes() if volume.name == request.name}
        if created is not None:
            same.setdefault(created.id, created)
        here = request.data_center.upper()
        elsewhere = ", ".join(
            f"{found.id} in {found.data_center}" for found in same.values() if found.data_center.upper() != here
        )
        if elsewhere:
            raise NoCapacity(
                f"creating network volume {request.name} in {here}: the name is taken by {elsewhere}",
                hint="place the run in that data center, or delete that volume, and what is on it, first",
                reason="VolumeElsewhere",
            )
        if len(same) < 2:
            return next(iter(same.values()), None)
        mounts = self._mounts()
        keep = next((volume for volume in same.values() if volume.id in mounts), next(iter(same.values())))
        for volume in same.values():
            if volume is not keep:
                self.delete_volume(volume.id)
        return keep

    def _mounts(self) -> dict[str, list[str]]:
        """Ids of the listed pods that mount a network volume, by volume id."""
        mounts: dict[str, list[str]] = {}
        listed = self._list(_PODS, "pods")
        with expected_shape("listing pods"):
            for raw in listed:
                for volume_id in shapes.mounted_volume_ids(raw):
                    mounts.setdefault(volume_id, []).append(str(raw["id"]))
        return mounts

    def _pods(self) -> list[Pod]:
        listed = self._list(_PODS, "pods")
        with expected_shape("listing pods"):
            pods = [shapes.pod(raw) for raw in listed]
        return [pod for pod in pods if pod.status != shapes.GONE]

    def _volumes(self) -> list[Volume]:
        listed = self._list(_VOLUMES, "networkVolumes")
        with expected_shape("listing network volumes"):
            return [shapes.volume(raw) for raw in listed]

    def _list(self, path: str, key: str) -> list[Any]:
        """Every item of a list, whether the server pages it (by cursor, since October 2026) or not.

        Raises CloudUnavailable for a list that cannot be had whole: half a list reads like 'nothing is left'.
        """
        doing, items, cursor, asked = f"listing {path.rpartition('/')[2]}", list[Any](), "", set[str]()
        while True:
            page = self._get(doing, path, {"cursor": cursor} if cursor else {})
            with expected_shape(doing):
                items += page[key] or []
                pages = page.get("pagination") or {}
                cursor = pages.get("nextCursor") or ""
                more = pages.get("hasNextPage", bool(cursor))
            if not more:
                return items
            if not cursor or cursor in asked:
                raise CloudUnavailable(f"{doing}: RunPod says there is more, but not where", hint="try again later")
            asked.add(cursor)

    def _billed(self, kind: str, key: str, resource_id: str, since: str) -> float:
        doing = f"reading what {resource_id} cost"
        billing = self._get(doing, f"/v2/billing/{kind}", {"startTime": since, "bucketSize": "hour", key: resource_id})
        with expected_shape(doing):
            return shapes.billed_usd(billing, key, resource_id)

    def _read(self, doing: str, path: str, read: Callable[[Any], T]) -> T | None:
        answer = self._send("GET", path)
        if answer.absent:
            return None
        if not answer.ok:
            raise failure(answer, doing)
        with expected_shape(doing):
            return read(answer.json)

    def _get(self, doing: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        answer = self._send("GET", path, query=query)
        if not answer.ok:
            raise failure(answer, doing)
        return answer.json

    def _send(self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None) -> Answer:
        """Reads and deletes: carrying one of these out twice is the same as once."""
        call = Call(
            method=method, path=path, query=query or {}, body=body, timeout_s=self._limits.read_s, repeatable=True
        )
        return self._http.send(call)

    def _create_call(self, path: str, body: Any) -> Call:
        return Call(method="POST", path=path, body=body, timeout_s=self._limits.create_s, repeatable=False)


def _path(collection: str, resource_id: str) -> str:
    """An id RunPod never gave would turn into another URL, and 'absent' into a lie."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", resource_id):
        raise RequestRejected(f"{resource_id!r} is not a RunPod id", hint="ids are letters, digits, - and _")
    return f"{collection}/{resource_id}"
