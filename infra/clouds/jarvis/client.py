"""JarvisLabs over its REST API: one member of `pushtrain.cloud.Cloud`.

Facts it stands on (the client jarvislabs 0.2.19, dstack 0.22.5): a container is made from one of JarvisLabs'
frameworks, never from an image of one's own; what runs in it, and its variables, come by a start script that is stored
in the account; nothing inside knows which instance it is or has a key, so nothing there can end it; instances are
paused when the balance is used up, and a paused one is billed for its disk: it is destroyed like a running one.
Resuming may change its number: by name it is found again. A spot instance costs the `spot_price` of its type and
region; JarvisLabs pauses it when somebody on demand needs its GPUs. The table of answers is in `answers`.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import Any

import httpx

from infra.clouds.adoption import keep_oldest, look_again, nothing_appeared
from infra.clouds.answers import Answer
from infra.clouds.jarvis import shapes
from infra.clouds.jarvis.answers import BASE_URL, SPEAKS, is_clear
from infra.clouds.jarvis.hosts import Hosts
from infra.clouds.jarvis.names import HOSTS, gpu_ids
from infra.clouds.jarvis.reads import READING_OFFERS, Reads
from infra.clouds.jarvis.scripts import Scripts
from infra.clouds.jarvis.volumes import Volumes
from infra.clouds.requested import key_changes, secrets_of
from infra.clouds.wire import Limits
from pushtrain.cloud import Bill, Live, LogLine, Offer, Pod, PodRequest, Template, Volume, VolumeRequest
from pushtrain.errors import UNKNOWN_TEMPLATE, CloudAuthFailed, CloudUnavailable, NoCapacity, RequestRejected
from pushtrain.events import parse_time

DEFAULT_FRAMEWORK = "pytorch"
NO_LOG = "JarvisLabs gives out no log of an instance; what a pod of pushtrain says is on it, in pushtrain.log"
# An instance's own figure is by the minute; nothing says when the last one is counted.
_SETTLED_S = 3600.0


class JarvisLabs:
    """One account. Safe to use from one thread; `close` when done, or let it go out of scope.

    `environ` is where `PodRequest.secret_env` is read from at each create.
    """

    name = "jarvislabs"

    def __init__(
        self,
        api_key: str,
        url: str = BASE_URL,
        *,
        environ: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._hosts = Hosts(api_key, url, limits=limits or Limits(), sleep=sleep, clock=clock, transport=transport)
        self._scripts = Scripts(self._hosts)
        self._reads = Reads(self._hosts, self._scripts)
        self._volumes = Volumes(self._hosts, self._reads, self._scripts)

    def close(self) -> None:
        self._hosts.close()

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        """By type and region; nobody says which driver an instance will have. Up to 30 s old."""
        rows = self._reads.rows()
        with SPEAKS.expected_shape(READING_OFFERS):
            return shapes.offers(rows, gpu_count)

    def gpu_names(self) -> list[str]:
        return gpu_ids()

    def create_volume(self, request: VolumeRequest) -> Volume:
        """See `volumes.Volumes.create`: 50 GB at least."""
        return self._volumes.create(request)

    def grow_volume(self, volume_id: str, size_gb: int) -> Volume:
        return self._volumes.grow(volume_id, size_gb)

    def volumes(self) -> list[Volume]:
        return self._reads.volumes()

    def read_volume(self, volume_id: str) -> Volume | None:
        return self._volumes.read(volume_id)

    def delete_volume(self, volume_id: str) -> None:
        self._volumes.delete(volume_id)

    def read_template(self, template_id: str) -> Template | None:
        """A framework: there are no other templates."""
        title = self._reads.frameworks().get(template_id)
        if title is None:
            return None
        return Template(
            id=template_id,
            name=title,
            image=f"JarvisLabs' framework {template_id}",
            disk_gb=0,
            args="",
            variables=(),
            ports=(),
            cuda_versions=(),
            is_serverless=False,
        )

    def create_pod(self, request: PodRequest) -> Pod:
        """Create or adopt by name; a pod of that name that ended is destroyed first, of several one stays.

        Raises NoCapacity when no region has the GPUs, or for no more than the request allows, RequestRejected for what
        JarvisLabs does not have: an image of one's own, TCP ports, community machines.
        """
        where = request.data_center or "any region"
        doing = f"creating pod {request.name} ({request.gpu_count} x {request.gpu}, {where}) at JarvisLabs"
        self._check(request, doing)
        adopted = partial(self._adopt, request.name, None)
        self._reads.forget_rows()
        if (found := adopted()) is not None:
            return found
        row, fs_id = self._row(request, doing), self._fs_id(request, doing)
        secrets = secrets_of(request, self._environ)
        self._hosts.keep_secret(secrets.values())
        script_id = self._scripts.put(request.name, shapes.start_script(request, secrets, token_hex(8)))
        body = shapes.create_body(request, row, script_id=script_id, fs_id=fs_id)
        limits, answer = self._hosts.limits, Answer(status=None, said="")
        for _ in range(limits.create_attempts):
            path = f"/templates/{request.template or DEFAULT_FRAMEWORK}/create"
            answer = self._hosts.send("POST", path, region=row["region"], body=body, timeout_s=limits.create_s)
            number = _number(answer)
            if number is not None:
                try:
                    return self._settled(request, number, row, doing)
                except NoCapacity:
                    self._scripts.remove(lambda name: name == request.name)
                    raise
            # What was refused in words nobody knows may be there all the same, and billed.
            pauses_s = (0.0,) if is_clear(answer) else self._reads.patience_s
            if (found := look_again(pauses_s, self._hosts.sleep, adopted)) is not None:
                return found
            if not (answer.ok or answer.ambiguous):
                self._scripts.remove(lambda name: name == request.name)
                raise SPEAKS.not_created(answer, doing)
        raise nothing_appeared(doing, answer.said)

    def read_pod(self, pod_id: str) -> Pod | None:
        """None also for one that is being destroyed; `find` has it for as long as JarvisLabs lists it."""
        number = shapes.machine_number(pod_id)
        raw = None if number is None else self._reads.instance(number)
        found = None if raw is None else self._reads.as_pods([raw])[0]
        return None if found is None or found.status == "TERMINATED" else found

    def terminate(self, pod_id: str) -> None:
        """Destroyed with its disk, paused or not, and its start script with it; what is gone, or never was, is
        success. What refuses to go is looked at: an instance that is gone, or on its way, was ended."""
        number = shapes.machine_number(pod_id)
        raw = None if number is None else self._reads.instance(number)
        if number is None:
            return
        if raw is None:
            # In no list before its first start, and billed all the same.
            answer = self._hosts.end_anywhere("/misc/destroy", {"machine_id": str(number)})
            if not (answer.ok or answer.absent):
                raise SPEAKS.failure(answer, f"terminating pod {pod_id}")
            return
        answer = self._hosts.end(raw.get("region"), shapes.destroy_path(raw), {"machine_id": str(number)})
        if not (answer.ok or answer.absent):
            left = self._reads.instance(number)
            if left is not None and not shapes.is_going(left):
                raise SPEAKS.failure(answer, f"terminating pod {pod_id}")
        self._reads.forget(raw)

    def find(self, prefix: str) -> Live:
        return Live(
            pods=tuple(pod for pod in self._reads.pods() if pod.name.startswith(prefix)),
            # One that was made late, when its label was gone already, is the run's own all the same.
            volumes=tuple(it for it in self._reads.volumes((prefix, f"{prefix}v")) if it.name.startswith(prefix)),
            scripts=tuple(name for _, name in self._scripts.all() if name.startswith(prefix)),
        )

    def delete_script(self, name: str) -> None:
        self._scripts.remove(lambda its: its == name)

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        """One line that says there is none, without a time: a log without times proves no silence."""
        if last_event_id is None and self.read_pod(pod_id) is not None:
            yield LogLine(event_id="none", time="", source="container", line=NO_LOG)

    def ssh_keys(self) -> list[str]:
        return [str(it["ssh_key"]).strip() for it in self._reads.key_records()]

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        """Adds what is missing first, then removes what is not named: one by one, there is no call for all."""
        there = {str(it["ssh_key"]).strip(): str(it["key_id"]) for it in self._reads.key_records()}
        added, removed = key_changes(there, keys)
        for key in added:
            name = (key.split(maxsplit=2)[2:] or ["pushtrain"])[0]
            self._write("POST", "/ssh/", "adding an ssh key to the account", {"ssh_key": key, "key_name": name})
        for key in removed:
            self._write("DELETE", f"/ssh/{there[key]}", "removing an ssh key of the account", None)

    def bill(
        self,
        pod_ids: list[str],
        volume_ids: list[str],
        since: str,
        *,
        until: str | None = None,
        now_s: float | None = None,
    ) -> Bill:
        """What instances that still exist have cost by their own count. Of what is gone, and of file systems,
        JarvisLabs says nothing: then it is no bill (`is_told`), and time × price is all there is."""
        rows = {f"jl-{it['machine_id']}": it for it in self._reads.instances()} if pod_ids else {}
        there = [rows[pod_id] for pod_id in pod_ids if pod_id in rows]
        with SPEAKS.expected_shape("reading what pods cost"):
            usd = sum(float(raw.get("cost") or 0.0) for raw in there)
        settled = until is not None and now_s is not None and now_s >= parse_time(until) + _SETTLED_S
        return Bill(pods_usd=usd, volumes_usd=0.0, final=settled or not there, is_told=bool(there))

    def _check(self, request: PodRequest, doing: str) -> None:
        if request.image is not None:
            raise RequestRejected(
                f"{doing}: JarvisLabs runs no image of one's own: {request.image}",
                hint="leave out compute.image; compute.template names one of its frameworks",
            )
        if request.tier != "SECURE":
            raise RequestRejected(f"{doing}: JarvisLabs has no {request.tier} machines", hint="use tier SECURE")
        if any(not port.endswith("/http") for port in request.ports):
            raise RequestRejected(
                f"{doing}: JarvisLabs opens HTTP ports only: {', '.join(request.ports)}", hint="ask for /http"
            )
        if request.template is not None and self.read_template(request.template) is None:
            raise RequestRejected(
                f"{doing}: compute.template {request.template}: JarvisLabs has no such framework",
                hint=f"leave it out for {DEFAULT_FRAMEWORK}",
                reason=UNKNOWN_TEMPLATE,
            )

    def _row(self, request: PodRequest, doing: str) -> Any:
        """What it is made of: the first region that has the GPUs, for what the request allows."""
        regions = [request.data_center] if request.data_center is not None else list(HOSTS)
        rows = self._reads.rows()
        with SPEAKS.expected_shape(doing):
            found = shapes.rows_for(rows, request.gpu, [region for region in regions if region in HOSTS])
            roomy = [it for it in found if shapes.has_room(it, request)]
            limit = request.max_usd_per_hour if request.bid_usd_per_hour is None else request.bid_usd_per_hour
            most = float("inf") if limit is None else limit + 1e-6
            cheap = [it for it in roomy if shapes.usd_per_hour(it, request) <= most]
        if not cheap:
            what = "none" if request.bid_usd_per_hour is None else "no spot instance"
            why = f"{what} is offered for ${limit:.3f} an hour or less" if roomy else f"{what} is free"
            raise NoCapacity(f"{doing}: {why}", hint="another GPU, another region, or later")
        return cheap[0]

    def _fs_id(self, request: PodRequest, doing: str) -> int | None:
        if request.volume_id is None:
            return None
        numbers = self._volumes.numbers(request.volume_id)
        if not numbers:
            raise CloudUnavailable(
                f"{doing}: network volume {request.volume_id} is gone", hint="the next look makes it again"
            )
        return numbers[0]

    def _settled(self, request: PodRequest, number: int, row: Any, doing: str) -> Pod:
        """What was made, once more by its name; a list that stays behind, or is refused by now, leaves what was asked
        for: it is there, and billed.

        No answer says what price it was made at: it is none above what the list says after it was made."""
        raw = self._reads.appeared(number, str(row["region"]), doing)
        self._reads.forget_rows()
        made = Pod(
            id=f"jl-{number}",
            name=request.name,
            status="STARTING",
            gpu=request.gpu,
            gpu_count=request.gpu_count,
            usd_per_hour=self._reads.usd_per_hour(row, request),
            data_center=str(row["region"]),
            uptime_s=None,
            created_at=None,
            ports=request.ports,
            volume_id=request.volume_id,
            is_spot=request.bid_usd_per_hour is not None,
        )
        try:
            made = self._reads.as_pods([raw])[0] if raw is not None else made
            return self._adopt(request.name, made) or made
        except (CloudAuthFailed, CloudUnavailable):
            return made

    def _adopt(self, name: str, created: Pod | None) -> Pod | None:
        return keep_oldest(self._reads.pods(), name, created, self.terminate)

    def _write(self, method: str, path: str, doing: str, body: Any) -> None:
        answer = self._hosts.send(method, path, body=body)
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)


def _number(answer: Answer) -> int | None:
    """What a create made; None where its answer does not say: then the name is looked up."""
    made = str(answer.json.get("machine_id")) if answer.ok and isinstance(answer.json, dict) else ""
    return int(made) if re.fullmatch(r"[0-9]{1,18}", made) else None
