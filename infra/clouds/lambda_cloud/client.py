"""Lambda Cloud over its REST API: one member of `pushtrain.cloud.Cloud`.

Facts it stands on (Lambda's API reference as lambda-ai-cloud-api-client 2.4.1 has it, docs.lambda.ai, SkyPilot): what
is rented is a machine, not a container; names are not unique, so ours are looked up before and after every launch; a
launch names exactly one ssh key; a file system belongs to a region and has no size; a machine is billed by the minute
until it is terminated, also while it is powered off; there is no key that is good for one machine, no log, no bill, no
template.
The retry table is in `answers`, what a machine does in `boot`.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import httpx

from infra.clouds.adoption import keep_oldest, look_again
from infra.clouds.answers import Answer
from infra.clouds.lambda_cloud import shapes
from infra.clouds.lambda_cloud.answers import BASE_URL, DUPLICATE, SPEAKS, code, is_absent
from infra.clouds.lambda_cloud.boot import MOST_BYTES, user_data
from infra.clouds.lambda_cloud.names import gpu_ids
from infra.clouds.lambda_cloud.pace import LambdaLimits, Pace
from infra.clouds.lambda_cloud.reads import LambdaReads
from infra.clouds.requested import at_most, key_changes, secrets_of
from infra.clouds.wire import Wire
from pushtrain.cloud import Bill, Live, LogLine, Offer, Pod, PodRequest, Template, Volume, VolumeRequest
from pushtrain.errors import UNKNOWN_TEMPLATE, CloudUnavailable, NoCapacity, RequestRejected

_OFFERS_FRESH_S = 30.0


class Lambda:
    """One Lambda Cloud account. Safe to use from one thread; `close` when done, or let it go out of scope.

    `environ` is where `PodRequest.secret_env` is read from at each launch; a `clock` that is given
    counts epoch seconds, and is the only one.
    """

    name = "lambda"

    def __init__(
        self,
        api_key: str,
        base_url: str = BASE_URL,
        *,
        environ: Mapping[str, str] | None = None,
        limits: LambdaLimits | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._limits = limits or LambdaLimits()
        self._wall = clock or time.time
        self._http = Wire(
            api_key,
            base_url,
            limits=self._limits,
            sleep=sleep,
            clock=clock or time.monotonic,
            transport=transport,
            speaks=SPEAKS,
        )
        pace = Pace(request_s=self._limits.request_s, launch_s=self._limits.launch_s)
        self._reads = LambdaReads(self._http, pace, self._wall)
        self._kept: dict[int, tuple[float, list[Offer]]] = {}

    def close(self) -> None:
        self._http.close()

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        """By type and region, of machines with just so many GPUs; up to 30 s old. The driver is that of Lambda's image,
        the same everywhere, and no request tells which."""
        now_s = self._http.clock()
        kept = self._kept.get(gpu_count)
        if kept is None or now_s >= kept[0]:
            types = self._reads.types()
            with SPEAKS.expected_shape("reading Lambda's offers"):
                kept = self._kept[gpu_count] = (now_s + _OFFERS_FRESH_S, shapes.offers(types, gpu_count))
        return list(kept[1])

    def gpu_names(self) -> list[str]:
        return gpu_ids()

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create or adopt by name, which Lambda gives to one file system only. `size_gb` is not sent: what is on it is
        billed. Raises NoCapacity (reason VolumeElsewhere) while another region has the name."""
        doing = f"creating file system {request.name} in {request.data_center}"
        adopted = partial(self._adopt_volume, request)
        if (found := adopted()) is not None:
            return found
        body = {"name": request.name, "region": request.data_center}
        for _ in range(self._limits.create_attempts):
            answer = self._reads.send("POST", f"{shapes.API}/filesystems", body, repeatable=False)
            if answer.ok:
                with SPEAKS.expected_shape(doing):
                    return self._only(request, shapes.volume(answer.json["data"]))
            if not answer.ambiguous and code(answer) != DUPLICATE:
                raise SPEAKS.failure(answer, doing)
            if (found := look_again(self._limits.look_pauses_s, self._http.sleep, adopted)) is not None:
                return found
        raise SPEAKS.failure(answer, doing)

    def grow_volume(self, volume_id: str, size_gb: int) -> Volume:
        """It is as large as what is on it."""
        found = self.read_volume(volume_id)
        if found is None:
            raise RequestRejected(f"growing file system {volume_id}: it is gone", hint="`pushtrain volumes` lists all")
        return found

    def volumes(self) -> list[Volume]:
        return self._reads.volumes()

    def read_volume(self, volume_id: str) -> Volume | None:
        return next((volume for volume in self._reads.volumes() if volume.id == volume_id), None)

    def delete_volume(self, volume_id: str) -> None:
        answer = self._reads.send("DELETE", shapes.path("filesystems", volume_id))
        if not answer.ok and not is_absent(answer):
            raise SPEAKS.failure(answer, f"deleting file system {volume_id}")

    def read_template(self, template_id: str) -> Template | None:
        return None

    def create_pod(self, request: PodRequest) -> Pod:
        """Create or adopt by name; one of that name that ended is terminated first, of several the oldest stays.

        Raises NoCapacity where no region has the machine, or only for more than it may cost; RequestRejected for what
        Lambda does not have: a template, an HTTP proxy, other people's machines.
        """
        doing = f"creating pod {request.name} ({request.gpu_count} x {request.gpu}) at Lambda"
        self._check(request, doing)
        adopted = partial(self._adopt, request.name, None)
        if (found := adopted()) is not None:
            return found
        volume = self._volume_of(request, doing)
        kind, region = self._place(request, volume, doing)
        self._our_key()
        for _ in range(self._limits.create_attempts):
            answer, launch = self._launch(request, kind, region, volume, doing)
            if answer.ok:
                with SPEAKS.expected_shape(doing):
                    (made,) = answer.json["data"]["instance_ids"]
                return self._settled(request, str(made), region, launch)
            if answer.status == 429:
                continue  # the pace makes the next one wait
            if not answer.ambiguous:
                raise SPEAKS.failure(answer, doing)
            if (found := look_again(self._limits.look_pauses_s, self._http.sleep, adopted)) is not None:
                return found
        raise SPEAKS.failure(answer, doing)

    def read_pod(self, pod_id: str) -> Pod | None:
        return self._reads.pod(pod_id)

    def terminate(self, pod_id: str) -> None:
        """What is gone, or never was, is success."""
        shapes.path("instances", pod_id)
        answer = self._reads.send("POST", f"{shapes.API}/instance-operations/terminate", {"instance_ids": [pod_id]})
        if not answer.ok and not is_absent(answer):
            raise SPEAKS.failure(answer, f"terminating pod {pod_id}")

    def find(self, prefix: str) -> Live:
        return Live(
            pods=tuple(pod for pod in self._reads.pods() if pod.name.startswith(prefix)),
            volumes=tuple(volume for volume in self._reads.volumes() if volume.name.startswith(prefix)),
        )

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        """None: a machine's console is not to be had. So nothing but the ledger tells that a pod lives, and one that is
        silent there for longer than its phase may last, and five minutes, counts as lost."""
        return iter(())

    def ssh_keys(self) -> list[str]:
        """Without the one that launches name, which opens nothing."""
        return [str(it["public_key"]).strip() for it in self._reads.key_records() if it["name"] != shapes.OUR_KEY]

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        """Adds what is missing first, then removes what is not named: one by one, there is no call for all."""
        there = {str(it["public_key"]).strip(): it for it in self._reads.key_records()}
        added, removed = key_changes(there, keys)
        names = [str(it["name"]) for it in there.values()]
        for key in added:
            names.append(shapes.key_name(key, names))
            body = {"name": names[-1], "public_key": key}
            self._reads.write("POST", f"{shapes.API}/ssh-keys", "adding an ssh key to the account", body)
        for it in (there[key] for key in removed):
            if it["name"] != shapes.OUR_KEY:
                path = shapes.path("ssh-keys", str(it["id"]))
                self._reads.write("DELETE", path, f"removing the account's ssh key {it['name']}")

    def bill(
        self,
        pod_ids: list[str],
        volume_ids: list[str],
        since: str,
        *,
        until: str | None = None,
        now_s: float | None = None,
    ) -> Bill:
        """Not told: Lambda sends its invoices by the week, and has no request for them."""
        return Bill(pods_usd=0.0, volumes_usd=0.0, final=True, is_told=False)

    def _check(self, request: PodRequest, doing: str) -> None:
        if request.template is not None or request.image is None:
            raise RequestRejected(
                f"{doing}: template {request.template}: Lambda has no templates",
                hint="write image and env into the spec",
                reason=UNKNOWN_TEMPLATE,
            )
        if request.tier != "SECURE":
            raise RequestRejected(f"{doing}: Lambda rents out its own machines alone", hint="use tier SECURE")
        if any(not port.endswith("/tcp") for port in request.ports):
            raise RequestRejected(f"{doing}: Lambda has no HTTP proxy: {', '.join(request.ports)}", hint="use /tcp")

    def _volume_of(self, request: PodRequest, doing: str) -> Volume | None:
        if request.volume_id is None:
            return None
        found = self.read_volume(request.volume_id)
        if found is None:
            raise CloudUnavailable(f"{doing}: file system {request.volume_id} is gone", hint="the next look goes on")
        return found

    def _place(self, request: PodRequest, volume: Volume | None, doing: str) -> tuple[str, str]:
        """The instance type and the region."""
        if request.gpu not in gpu_ids():
            raise RequestRejected(f"{doing}: Lambda has no such GPU", hint=f"it has {', '.join(gpu_ids())}")
        types = self._reads.types()
        with SPEAKS.expected_shape(doing):
            found = shapes.matching(types, request)
        wanted = request.data_center or (volume.data_center if volume else None)
        for kind, regions in found:
            for region in regions:
                if wanted in (None, region):
                    return kind, region
        where = f" in {wanted}" if wanted else ""
        raise NoCapacity(
            f"{doing}: no machine is free{where}{at_most(request)}", hint="another GPU, another region, or later"
        )

    def _launch(
        self, request: PodRequest, kind: str, region: str, volume: Volume | None, doing: str
    ) -> tuple[Answer, str]:
        secrets = secrets_of(request, self._environ)
        self._http.keep_secret(secrets.values())
        launch = shapes.launch_name(self._wall(), self._limits.jitter())
        text = user_data(request, secrets, self.ssh_keys() if request.ssh else [], launch)
        if len(text) > MOST_BYTES:
            raise RequestRejected(f"{doing}: its start takes {len(text)} bytes", hint=f"Lambda takes {MOST_BYTES}")
        body = shapes.launch_body(request, kind=kind, region=region, user_data=text, launch=launch, volume=volume)
        path = f"{shapes.API}/instance-operations/launch"
        return self._reads.send("POST", path, body, repeatable=False, launch=True), launch

    def _our_key(self) -> None:
        """A launch has to name one key. Ours is made by Lambda, and its private half forgotten as it comes."""
        doing = f"making the ssh key {shapes.OUR_KEY}"
        if any(it["name"] == shapes.OUR_KEY for it in self._reads.key_records()):
            return
        answer = self._reads.send("POST", f"{shapes.API}/ssh-keys", {"name": shapes.OUR_KEY}, repeatable=False)
        if not answer.ok and code(answer) != DUPLICATE:
            raise SPEAKS.failure(answer, doing)

    def _settled(self, request: PodRequest, pod_id: str, region: str, launch: str) -> Pod:
        """What was made, once more by its name; a list that is behind leaves what the launch says."""
        launched = shapes.launched_s(launch) or self._wall()
        made = self.read_pod(pod_id) or Pod(
            id=pod_id,
            name=request.name,
            status="STARTING",
            gpu=request.gpu,
            gpu_count=request.gpu_count,
            usd_per_hour=request.max_usd_per_hour or 0.0,
            data_center=region,
            uptime_s=None,
            created_at=time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(launched)),
            ports=request.ports,
            volume_id=request.volume_id,
        )
        return self._adopt(request.name, made) or made

    def _adopt(self, name: str, created: Pod | None) -> Pod | None:
        return keep_oldest(self._reads.pods(), name, created, self.terminate)

    def _only(self, request: VolumeRequest, made: Volume) -> Volume:
        """Should two regions take one name, the first by id stays, and each creator takes back its own."""
        first = min((it for it in [*self.volumes(), made] if it.name == request.name), key=lambda it: it.id)
        if first.id == made.id:
            return made
        self.delete_volume(made.id)
        return self._here(request, first)

    def _adopt_volume(self, request: VolumeRequest) -> Volume | None:
        first = min((it for it in self.volumes() if it.name == request.name), key=lambda it: it.id, default=None)
        return None if first is None else self._here(request, first)

    def _here(self, request: VolumeRequest, found: Volume) -> Volume:
        if found.data_center != request.data_center:
            raise NoCapacity(
                f"file system {request.name} is in {found.data_center}, not in {request.data_center}",
                hint=f"place the run in {found.data_center}, or delete that file system, and what is on it, first",
                reason="VolumeElsewhere",
            )
        return found
