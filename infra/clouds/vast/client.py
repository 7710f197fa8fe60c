"""Vast.ai over its REST API: one member of `pushtrain.cloud.Cloud`.

Facts it stands on (docs.vast.ai, the client vastai 1.9.1, dstack 0.22.5): one offer is one machine, and gone when it is
taken; labels are not unique, so ours are looked up before and after every create; a refused create may have left a
contract all the same, which is destroyed; a volume is tied to one machine, so none is made here; there is no template
that this client reads. The retry table is in `answers`.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import httpx

from infra.clouds.adoption import keep_oldest, look_again
from infra.clouds.answers import Answer
from infra.clouds.requested import at_most, key_changes, secrets_of
from infra.clouds.vast import shapes
from infra.clouds.vast.answers import BASE_URL, SPEAKS, is_absent, is_taken
from infra.clouds.vast.logs import follow
from infra.clouds.vast.names import gpu_ids
from infra.clouds.vast.reads import READING_OFFERS, VastReads
from infra.clouds.wire import Call, Limits, Wire
from pushtrain.cloud import Bill, Live, LogLine, Offer, Pod, PodRequest, Template, Tier, Volume, VolumeRequest
from pushtrain.errors import UNKNOWN_TEMPLATE, CloudUnavailable, NoCapacity, RequestRejected
from pushtrain.events import parse_time

# Offers that are tried for one rung: each may be gone by the time it is asked for.
_OFFERS_TRIED = 5
_OFFERS_FRESH_S = 30.0
# Charges are kept by the day and written as they come; nothing documents how late, so an hour is waited.
_SETTLED_S = 3600.0


class Vast:
    """One Vast.ai account. Safe to use from one thread; `close` when done, or let it go out of scope.

    Without a key it reads offers, which Vast tells everybody, and nothing else. `environ` is where
    `PodRequest.secret_env` is read from at each create; a `clock` that is given counts epoch seconds, and is the only
    one.
    """

    name = "vast"

    def __init__(
        self,
        api_key: str | None,
        base_url: str = BASE_URL,
        *,
        environ: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._limits = limits or Limits()
        self._http = Wire(
            api_key,
            base_url,
            limits=self._limits,
            sleep=sleep,
            clock=clock or time.monotonic,
            transport=transport,
            speaks=SPEAKS,
        )
        self._reads = VastReads(self._http, clock or time.time)
        self._kept: dict[str, tuple[float, list[Offer]]] = {}

    def close(self) -> None:
        self._http.close()

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        """By type and tier, of machines with just so many GPUs; up to 30 s old."""
        asked, now_s = f"{gpu_count} {min_cuda_version}", self._http.clock()
        kept = self._kept.get(asked)
        if kept is None or now_s >= kept[0]:
            tiers: tuple[Tier, ...] = ("SECURE", "COMMUNITY")
            found: list[Offer] = []
            for tier in tiers:
                machines = self._reads.machines(shapes.search_body(gpu_count, tier, min_cuda_version))
                with SPEAKS.expected_shape(READING_OFFERS):
                    found += shapes.offers(machines, tier)
            kept = self._kept[asked] = (now_s + _OFFERS_FRESH_S, found)
        return list(kept[1])

    def gpu_names(self) -> list[str]:
        return gpu_ids()

    def create_volume(self, request: VolumeRequest) -> NoReturn:
        """Raises RequestRejected."""
        raise RequestRejected(
            f"creating network volume {request.name}: a volume of Vast.ai is tied to one machine",
            hint="a pod has a disk of its own there; compute.cloud runpod has volumes that outlive it",
        )

    def grow_volume(self, volume_id: str, size_gb: int) -> NoReturn:
        """Raises RequestRejected."""
        raise RequestRejected(f"growing network volume {volume_id}: Vast.ai has none", hint="see docs/clouds.md")

    def volumes(self) -> list[Volume]:
        """None: what is tied to one machine is not what the seam calls a volume."""
        return []

    def read_volume(self, volume_id: str) -> Volume | None:
        return None

    def delete_volume(self, volume_id: str) -> None:
        """There is none, and absent is success."""

    def read_template(self, template_id: str) -> Template | None:
        return None

    def create_pod(self, request: PodRequest) -> Pod:
        """Create or adopt by label; a pod of that name that ended is destroyed first, of several the oldest stays.

        Asks offer after offer, cheapest first. Raises NoCapacity when none was to be had, RequestRejected for what Vast
        does not have: a network volume, a template, an HTTP proxy.
        """
        doing = f"creating pod {request.name} ({request.gpu_count} x {request.gpu}, {request.tier}) at Vast.ai"
        self._check(request, doing)
        adopted = partial(self._adopt, request.name, None)
        if (found := adopted()) is not None:
            return found
        secrets = secrets_of(request, self._environ)
        self._http.keep_secret(secrets.values())
        body = shapes.create_body(request, secrets, self.ssh_keys() if request.ssh else [])
        machines = self._reads.machines(shapes.search_for(request))
        with SPEAKS.expected_shape(doing):
            machines = shapes.matching(machines, request)[:_OFFERS_TRIED]
        taken = "no machine is offered" + at_most(request)
        for machine in machines:
            answer = self._ask(int(machine["id"]), body)
            contract = answer.json.get("new_contract") if isinstance(answer.json, dict) else None
            if contract and answer.ok:
                return self._settled(request, str(contract), machine)
            if contract:
                self.terminate(str(contract))  # refused, and rented all the same: stopped, and billed for its disk
                taken = answer.said
            elif is_taken(answer):
                taken = answer.said
            elif not (answer.ok or answer.ambiguous):
                raise SPEAKS.failure(answer, doing)
            elif (found := look_again(self._limits.look_pauses_s, self._http.sleep, adopted)) is not None:
                return found
            else:
                taken = answer.said
        if machines and taken and answer.ambiguous:
            raise CloudUnavailable(f"{doing}: {taken}, and nothing of that name appeared", hint="the next look goes on")
        raise NoCapacity(f"{doing}: {taken}", hint="another GPU, a higher price, or later")

    def read_pod(self, pod_id: str) -> Pod | None:
        return self._reads.pod(pod_id)

    def terminate(self, pod_id: str) -> None:
        """Destroyed, its disk too; what is gone, or never was, is success."""
        answer = self._http.ask("DELETE", shapes.instance_path(pod_id), ends_something=True)
        if not answer.ok and not is_absent(answer):
            raise SPEAKS.failure(answer, f"terminating pod {pod_id}")

    def find(self, prefix: str) -> Live:
        return Live(pods=tuple(pod for pod in self._reads.pods() if pod.name.startswith(prefix)), volumes=())

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        """The container's lines; see `logs.follow`."""
        path = f"/api/v0/instances/request_logs/{shapes.instance_path(pod_id).rpartition('instances/')[2]}"
        return follow(self._http, path, f"reading the logs of pod {pod_id}", last_event_id, timeout_s)

    def ssh_keys(self) -> list[str]:
        return [str(it["public_key"]).strip() for it in self._reads.key_records()]

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        """Adds what is missing first, then removes what is not named: one by one, there is no call for all."""
        there = {str(it["public_key"]).strip(): it["id"] for it in self._reads.key_records()}
        added, removed = key_changes(there, keys)
        for key in added:
            self._reads.write("POST", "/api/v0/ssh/", "adding an ssh key to the account", {"ssh_key": key})
        for key in removed:
            path = f"/api/v0/ssh/{int(there[key])}/"
            self._reads.write("DELETE", path, "removing an ssh key of the account", None)

    def bill(
        self,
        pod_ids: list[str],
        volume_ids: list[str],
        since: str,
        *,
        until: str | None = None,
        now_s: float | None = None,
    ) -> Bill:
        """Charges by the day from the one that holds `since`; final an hour after `until`."""
        results = self._reads.charges(since) if pod_ids else []
        with SPEAKS.expected_shape("reading what pods cost"):
            usd = sum(shapes.charged_usd(results, pod_id) for pod_id in pod_ids)
        final = until is not None and now_s is not None and now_s >= parse_time(until) + _SETTLED_S
        return Bill(pods_usd=usd, volumes_usd=0.0, final=final)

    def _check(self, request: PodRequest, doing: str) -> None:
        if request.template is not None or request.image is None:
            raise RequestRejected(
                f"{doing}: template {request.template}: pushtrain reads no templates of Vast.ai",
                hint="write image and env into the spec",
                reason=UNKNOWN_TEMPLATE,
            )
        if request.volume_id is not None:
            raise RequestRejected(f"{doing}: Vast.ai mounts no network volumes", hint="see docs/clouds.md")
        if any(not port.endswith("/tcp") for port in request.ports):
            raise RequestRejected(
                f"{doing}: Vast.ai has no HTTP proxy: {', '.join(request.ports)}", hint="ask for /tcp"
            )

    def _ask(self, offer_id: int, body: Any) -> Answer:
        limit_s = self._limits.create_s
        path = f"/api/v0/asks/{offer_id}/"
        return self._http.send(Call(method="PUT", path=path, body=body, timeout_s=limit_s, repeatable=False))

    def _settled(self, request: PodRequest, contract: str, machine: Any) -> Pod:
        """What was made, once more by its label; a list that is behind leaves what the offer says."""
        made = self.read_pod(contract) or Pod(
            id=contract,
            name=request.name,
            status="STARTING",
            gpu=request.gpu,
            gpu_count=request.gpu_count,
            usd_per_hour=float(machine["dph_total"]),
            data_center=None,
            uptime_s=None,
            created_at=None,
            tier=request.tier,
            ports=request.ports,
        )
        return self._adopt(request.name, made) or made

    def _adopt(self, name: str, created: Pod | None) -> Pod | None:
        return keep_oldest(self._reads.pods(), name, created, self.terminate)
