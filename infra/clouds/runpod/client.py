"""RunPod over REST v2: one member of `pushtrain.cloud.Cloud`.

Facts it stands on (vendor's OpenAPI of August 2026 and live answers): a create may answer 500 and still rent; names are
not unique, so ours are looked up before and after every create; `status` says RUNNING before the container exists;
no idempotency key, no capacity code, no server-side deadline that works. The retry table is in `answers`.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import httpx

from infra.clouds.adoption import keep_oldest, look_again, nothing_appeared
from infra.clouds.answers import Answer
from infra.clouds.requested import secrets_of
from infra.clouds.runpod import shapes
from infra.clouds.runpod.answers import SPEAKS, says_no_capacity
from infra.clouds.runpod.keys import SshKeys
from infra.clouds.runpod.logs import follow
from infra.clouds.runpod.reads import PODS, VOLUMES, Reads
from infra.clouds.wire import Call, Limits, Wire
from pushtrain.cloud import Bill, Live, LogLine, Offer, Pod, PodRequest, Template, Volume, VolumeRequest
from pushtrain.errors import UNKNOWN_TEMPLATE, CloudUnavailable, NoCapacity, RequestRejected
from pushtrain.run import is_kept

BASE_URL = SPEAKS.can.pod.public_api
T = TypeVar("T")


class RunPod(SshKeys):
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
        self._http = Wire(
            api_key,
            base_url,
            speaks=SPEAKS,
            limits=self._limits,
            sleep=sleep,
            clock=clock,
            transport=transport,
        )
        self._reads = Reads(self._http)

    def close(self) -> None:
        self._http.close()

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        return self._reads.offers(gpu_count, min_cuda_version)

    def gpu_names(self) -> list[str]:
        return self._reads.gpu_names()

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create or adopt by name. Raises NoCapacity (reason VolumeElsewhere) while another data center has the name.

        Of several with the name, the one a pod mounts is left (volumes carry no creation time), else the first by id.
        Kept volumes: always the first by id, and nothing is deleted but what this call made.
        """
        adopt_volume = self._adopt_kept if is_kept(request.name) else self._adopt_volume
        doing = f"creating network volume {request.name} in {request.data_center}"
        call = self._create_call(VOLUMES, shapes.volume_body(request))
        return self._create(doing, call, shapes.volume, lambda created: adopt_volume(request, created))

    def read_volume(self, volume_id: str) -> Volume | None:
        return self._reads.volume(volume_id)

    def grow_volume(self, volume_id: str, size_gb: int) -> Volume:
        """PATCH with the size; RunPod takes no smaller one, so one that is large enough is not asked about."""
        doing = f"growing network volume {volume_id} to {size_gb} GB"
        known = self.read_volume(volume_id)
        if known is not None and known.size_gb >= size_gb:
            return known
        answer = self._http.ask("PATCH", shapes.path(VOLUMES, volume_id), body={"size": size_gb})
        if known is None or answer.absent:
            raise RequestRejected(f"{doing}: it is gone", hint="`pushtrain volumes` lists what there is")
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        with SPEAKS.expected_shape(doing):
            return shapes.volume(answer.json)

    def volumes(self) -> list[Volume]:
        return self._reads.volumes()

    def read_template(self, template_id: str) -> Template | None:
        return self._reads.template(template_id)

    def delete_volume(self, volume_id: str) -> None:
        """Absent is success. A refusal can only mean that it is held: a bare DELETE has no other rule to break."""
        doing = f"deleting network volume {volume_id}"
        answer = self._http.ask("DELETE", shapes.path(VOLUMES, volume_id), ends_something=True)
        if answer.ok or answer.absent:
            return
        if answer.status in (400, 409):
            holders = ", ".join(self._reads.mounts().get(volume_id, [])) or "none that is still listed"
            raise CloudUnavailable(
                f"{doing}: {answer.said} Pods that mount it: {holders}.",
                hint="terminate the pods that mount it, wait some seconds, then delete it again",
            )
        raise SPEAKS.failure(answer, doing)

    def create_pod(self, request: PodRequest) -> Pod:
        """Create or adopt by name; a pod of that name that ended is terminated first, of several the oldest stays.

        What is adopted may be on another GPU than asked for, made by somebody who died: the answer says which.
        """
        where = request.data_center or "any data center"
        doing = f"creating pod {request.name} ({request.gpu_count} x {request.gpu}, {request.tier}, {where})"
        if request.tier == "COMMUNITY" and request.volume_id is not None:
            raise RequestRejected(f"{doing}: RunPod mounts network volumes on SECURE pods only", hint="use tier SECURE")
        secrets = secrets_of(request, self._environ)
        self._http.keep_secret(secrets.values())
        call = self._create_call(PODS, shapes.pod_body(request, secrets))
        if request.template is not None:
            self._check_template(request.template, doing)
        return self._create(doing, call, shapes.pod, lambda created: self._adopt_pod(request.name, created))

    def read_pod(self, pod_id: str) -> Pod | None:
        return self._reads.pod(pod_id)

    def terminate(self, pod_id: str) -> None:
        """By action, then by DELETE; a pod that is gone, or never was, is success."""
        path = shapes.path(PODS, pod_id)
        answer = self._http.ask("POST", f"{path}/action", body={"action": "terminate"}, ends_something=True)
        if answer.ok or answer.absent:
            return
        if answer.status != 401:
            answer = self._http.ask("DELETE", path, ends_something=True)
            if answer.ok or answer.absent or (answer.status == 409 and self.read_pod(pod_id) is None):
                return
        raise SPEAKS.failure(answer, f"terminating pod {pod_id}")

    def find(self, prefix: str) -> Live:
        return Live(
            pods=tuple(pod for pod in self._reads.pods() if pod.name.startswith(prefix)),
            volumes=tuple(volume for volume in self._reads.volumes() if volume.name.startswith(prefix)),
        )

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        """Container and system lines; see `logs.follow`."""
        path, doing = f"{shapes.path(PODS, pod_id)}/logs", f"reading the logs of pod {pod_id}"
        return follow(self._http, path, doing, last_event_id=last_event_id, timeout_s=timeout_s)

    def bill(
        self,
        pod_ids: list[str],
        volume_ids: list[str],
        since: str,
        *,
        until: str | None = None,
        now_s: float | None = None,
    ) -> Bill:
        """Hour buckets from the one that holds `since`; final when the bucket of `until` is closed and settled."""
        billed = self._reads.billed_usd
        return Bill(
            pods_usd=sum(billed("pods", "podId", pod_id, since) for pod_id in pod_ids),
            volumes_usd=sum(billed("network-volumes", "networkVolumeId", volume_id, since) for volume_id in volume_ids),
            final=until is not None and now_s is not None and now_s >= shapes.billed_by_s(until),
        )

    def _create(self, doing: str, call: Call, read: Callable[[Any], T], adopt: Callable[[T | None], T | None]) -> T:
        """Looks, sends, looks again; after a lost answer it waits and looks before it sends once more.

        `adopt(created)` finds what bears the name, `created` included, and leaves exactly one of it. Nothing is sent
        again before a look that was answered: then there would be two.
        """
        found = adopt(None)
        answer: Answer | None = None
        for _ in range(self._limits.create_attempts):
            if found is not None:
                return found
            answer = self._http.send(call)
            created = _read_created(answer, read)
            if created is not None:
                return adopt(created) or created
            if not (answer.ok or answer.ambiguous):
                raise SPEAKS.not_created(answer, doing)
            found = look_again(self._limits.look_pauses_s, self._http.sleep, lambda: adopt(None))
            if found is None and says_no_capacity(answer):
                raise NoCapacity(f"{doing}: {answer.said}", hint="another GPU, another data center, or later")
        if found is not None:
            return found
        raise nothing_appeared(doing, answer.said if answer else "")

    def _adopt_pod(self, name: str, created: Pod | None) -> Pod | None:
        return keep_oldest(self._reads.pods(), name, created, self.terminate)

    def _adopt_volume(self, request: VolumeRequest, created: Volume | None) -> Volume | None:
        """The one volume of that name; of several a mounted one, else the first by id, and the others are deleted."""
        same = {volume.id: volume for volume in self._reads.volumes() if volume.name == request.name}
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
        mounts = self._reads.mounts()
        keep = min(same.values(), key=lambda volume: (volume.id not in mounts, volume.id))
        for volume in same.values():
            if volume is not keep:
                self.delete_volume(volume.id)
        return keep

    def _adopt_kept(self, request: VolumeRequest, created: Volume | None) -> Volume | None:
        """The first of that name by id. What this call made beside another one goes again: nobody was told of it.

        Raises NoCapacity (reason VolumeElsewhere) where the first is in another data center.
        """
        others = self._of_name(request.name, created)
        if created is not None and others and (others[0].id < created.id or self._stays(request.name, created)):
            self.delete_volume(created.id)
            created, others = None, self._of_name(request.name, created)
            if not others:
                raise CloudUnavailable(
                    f"{request.name} was made twice at once, and taken back", hint="the next look makes it"
                )
        found = created or next(iter(others), None)
        if found is not None and found.data_center.upper() != request.data_center.upper():
            raise NoCapacity(
                f"the kept volume {request.name} is in {found.data_center}, not in {request.data_center}",
                hint="it pins whoever mounts it to its data center; `pushtrain volumes copy` makes another elsewhere",
                reason="VolumeElsewhere",
            )
        return found

    def _stays(self, name: str, created: Volume) -> bool:
        """Whether the other one was there first: a creator who saw this smaller id takes its own back at once."""
        for pause_s in self._limits.look_pauses_s:
            self._http.sleep(pause_s)
            if not self._of_name(name, created):
                return False
        return True

    def _of_name(self, name: str, but: Volume | None) -> list[Volume]:
        """By id."""
        same = [it for it in self._reads.volumes() if it.name == name and (but is None or it.id != but.id)]
        return sorted(same, key=lambda volume: volume.id)

    def _check_template(self, template_id: str, doing: str) -> None:
        """Raises RequestRejected (reason UnknownTemplate) for one the account may not read, or that is for serverless:
        RunPod's own 404 to that reads like something that went away."""
        found = self.read_template(template_id)
        if found is None or found.is_serverless:
            what = (
                "this RunPod account sees no template of that id" if found is None else "it is for serverless workers"
            )
            raise RequestRejected(
                f"{doing}: compute.template {template_id}: {what}",
                hint="the id is in the address of the template's page in RunPod's console",
                reason=UNKNOWN_TEMPLATE,
            )

    def _create_call(self, path: str, body: Any) -> Call:
        return Call(method="POST", path=path, body=body, timeout_s=self._limits.create_s, repeatable=False)


def _read_created(answer: Answer, read: Callable[[Any], T]) -> T | None:
    """What a 2xx brought; None where its body cannot be read: then it may have been made, and is looked up."""
    if not answer.ok or answer.json is None:
        return None
    try:
        with SPEAKS.expected_shape("reading what was created"):
            return read(answer.json)
    except CloudUnavailable:
        return None
