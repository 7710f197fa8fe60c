"""Modal over its own SDK: one member of `pushtrain.cloud.Cloud`. A pod is a sandbox, a network volume a Modal Volume.

Facts it stands on (modal 1.6.4): the name of a living sandbox is unique in its app, so a second create of it is refused
by Modal itself; a volume's name is unique; a create waits for capacity and never says that there is none; a sandbox and
its bill end with its command, and at its own timeout; a volume has neither a size nor a place. What the SDK raises is
sorted in `answers`.
"""

import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

from infra.clouds.adoption import look_again
from infra.clouds.modal import logs, names, shapes, works
from infra.clouds.modal.answers import Said, failure
from infra.clouds.modal.sdk import PUBLIC_URL, TOKEN_ID, ModalSdk
from infra.clouds.modal.works import APP, checked
from infra.clouds.refusals import Why
from infra.clouds.requested import secrets_of
from infra.clouds.wire import Limits
from pushtrain.clock import CloudClock
from pushtrain.cloud import Bill, Live, LogLine, Offer, Pod, PodRequest, Template, Volume, VolumeRequest
from pushtrain.errors import CloudUnavailable, NoCapacity, RequestRejected
from pushtrain.events import parse_time

_RATES_FRESH_S = 60.0
# Modal's own words: figures may be some minutes late, and change in between.
_SETTLED_S = 3600.0
# The first sandbox of an image waits until Modal has pulled it: so long at most, and so long out of the run's own time.
_BUILD_S, _SHORT_BUILD_S = 1800.0, 60.0


class Modal:
    """One Modal workspace. Safe to use from one thread; `close` when done, or let it go with the process.

    `environ` is where `PodRequest.secret_env` is read from at each create. `wall` gives epoch seconds by the clock that
    deadlines are made of, or a sandbox would end before or after its run: this machine's, or Modal's where that is off.
    `sdk` stands for Modal's own, whose token and URL are then its affair.
    """

    name = "modal"

    def __init__(
        self,
        token_secret: str,
        server_url: str = PUBLIC_URL,
        *,
        environ: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] | None = None,
        sdk: ModalSdk | None = None,
    ) -> None:
        """The token's id is read from MODAL_TOKEN_ID of `environ`. Raises CloudAuthFailed where there is none."""
        self._environ = os.environ if environ is None else environ
        token_id = self._environ.get(TOKEN_ID, "").strip()
        self._limits, self._sleep = limits or Limits(), sleep
        self._wall = wall or CloudClock(server_url.split(",")[0].strip(), say=lambda text: None)
        self._sdk = sdk or ModalSdk(token_id, token_secret, server_url, self._limits)
        self._kept: tuple[float, Mapping[str, float]] | None = None

    def close(self) -> None:
        self._sdk.close()

    def offers(self, gpu_count: int = 1, min_cuda_version: str | None = None) -> list[Offer]:
        """At the workspace's own rates, else at the list's. Modal says nothing of its stock: it queues."""
        rates = self._rates()
        return [
            Offer(
                gpu=gpu,
                gpu_memory_gb=it.memory_gb,
                data_center=shapes.ANYWHERE,
                tier="SECURE",
                usd_per_gpu_hour=names.usd_per_gpu_hour(gpu, rates),
                stock="MEDIUM",
                volume_kinds=("STANDARD",),
                max_count=it.most,
            )
            for gpu in names.gpu_ids()
            if (it := names.find(gpu)) is not None and it.most >= gpu_count
        ]

    def gpu_names(self) -> list[str]:
        return names.gpu_ids()

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create or adopt by name: Modal has one of a name. Its size is 0: it has none, what is stored is billed."""
        doing = f"creating volume {request.name} at Modal"
        if request.data_center != shapes.ANYWHERE:
            raise NoCapacity(
                f"{doing}: there are no data centers, not {request.data_center}", hint="leave data_centers out"
            )

        async def made(modal: Any, client: Any) -> str:
            volume = modal.Volume.from_name(request.name, create_if_missing=True, client=client)
            await volume.hydrate.aio(client)
            return str(volume.object_id)

        return _volume(self._sdk.ask(doing, made), request.name)

    def grow_volume(self, volume_id: str, size_gb: int) -> Volume:
        """It is as large as what is in it."""
        if (found := self.read_volume(volume_id)) is None:
            raise RequestRejected(f"growing volume {volume_id}: Modal has none of that id", hint="it was deleted")
        return found

    def volumes(self) -> list[Volume]:
        async def listed(modal: Any, client: Any) -> list[tuple[str, str]]:
            found = await modal.Volume.objects.list.aio(client=client)
            return [(str(volume.object_id), str(volume.name or "")) for volume in found]

        return [_volume(*found) for found in self._sdk.ask("listing volumes", listed)]

    def read_template(self, template_id: str) -> Template | None:
        return None

    def read_volume(self, volume_id: str) -> Volume | None:
        return next((volume for volume in self.volumes() if volume.id == volume_id), None)

    def delete_volume(self, volume_id: str) -> None:
        """Modal would delete one that a sandbox of ours still writes to: that is asked first."""
        doing = f"deleting volume {volume_id}"
        if (found := self.read_volume(volume_id)) is None:
            return
        if holders := [pod.id for pod in self._pods() if pod.volume_id == volume_id]:
            raise CloudUnavailable(f"{doing}: {', '.join(holders)} mounts it", hint="end it first, then delete again")

        async def deleted(modal: Any, client: Any) -> None:
            await modal.Volume.objects.delete.aio(found.name, allow_missing=True, client=client)

        self._sdk.ask(doing, deleted)

    def create_pod(self, request: PodRequest) -> Pod:
        """Create or adopt by name. Modal queues a sandbox that it has no machine for: one that was not placed within
        the deadline of a create is ended, and that is NoCapacity. The first of an image waits for its build.

        One of that name that ended by itself is the answer, too: whoever made it died before anybody heard of it, and
        what it cost would be on no bill."""
        doing = f"creating pod {request.name} ({request.gpu_count} x {request.gpu}) at Modal"
        named = partial(self._named, request.name)
        if (found := named() or self._came_and_went(request.name)) is not None:
            return found
        gpu = shapes.check(request, doing)
        secrets = secrets_of(request, self._environ)
        self._sdk.keep_secret(secrets.values())
        app, image, volumes = self._prepared(request, doing)
        self._kept = None  # a create is made at the rates of its moment
        usd_per_hour = names.usd_per_gpu_hour(request.gpu, self._rates()) * request.gpu_count
        if request.max_usd_per_hour is not None and usd_per_hour > request.max_usd_per_hour:
            most = f"${request.max_usd_per_hour:.3f}"
            raise NoCapacity(f"{doing}: it costs ${usd_per_hour:.3f} an hour by now, and not {most} or less")
        made_s = self._wall()
        tagged = shapes.tags(request, gpu, usd_per_hour, made_s)
        asked = shapes.words(request, gpu, tagged, made_s)

        async def made(modal: Any, client: Any) -> str:
            hidden = [modal.Secret.from_dict(secrets)] if secrets else []
            sandbox = await modal.Sandbox.create.aio(
                *asked.args, **asked.options, app=app, image=image, volumes=volumes, secrets=hidden, client=client
            )
            return str(sandbox.object_id)

        try:
            return shapes.pod(self._sdk.attempt(made, self._limits.create_s), tagged, self._wall())
        except Said as said:
            refusal = said
        if refusal.why in ("exists", "late", "lost"):
            if (found := look_again(self._limits.look_pauses_s, self._sleep, named)) is not None:
                return found
            if refusal.why == "late":
                raise NoCapacity(f"{doing}: not placed ({refusal})", hint="another GPU, or later: Modal queues")
        if refusal.why in ("exists", "absent"):
            raise CloudUnavailable(f"{doing}: {refusal}", hint="something it needs was just removed: the next look")
        raise failure(refusal, doing)

    def _prepared(self, request: PodRequest, doing: str) -> tuple[Any, Any, dict[str, Any]]:
        """Raises CloudUnavailable after a build that took long: the deadline was counted without it."""
        began_s = self._sdk.clock()
        found = self._sdk.ask(doing, partial(works.prepared, request), _BUILD_S)
        if (took_s := self._sdk.clock() - began_s) > _SHORT_BUILD_S:
            raise CloudUnavailable(
                f"{doing}: its image took {took_s:.0f} s to build, which its deadline was counted without",
                hint="the next look plans anew, and has the image",
            )
        return found

    def read_pod(self, pod_id: str) -> Pod | None:
        """None for one that ended, too: nothing of it exists, or is billed, any more."""

        async def read(modal: Any, client: Any) -> dict[str, str] | None:
            sandbox = await modal.Sandbox.from_id.aio(checked(pod_id), client=client)
            return None if sandbox.returncode is not None else await sandbox.get_tags.aio()

        tagged = self._unless_absent(f"reading pod {pod_id}", read)
        return None if tagged is None else shapes.pod(pod_id, tagged, self._wall())

    def terminate(self, pod_id: str) -> None:
        async def terminated(modal: Any, client: Any) -> None:
            sandbox = await modal.Sandbox.from_id.aio(checked(pod_id), client=client)
            await sandbox.terminate.aio()

        self._unless_absent(f"terminating pod {pod_id}", terminated)

    def find(self, prefix: str) -> Live:
        return Live(
            pods=tuple(pod for pod in self._pods() if pod.name.startswith(prefix)),
            volumes=tuple(volume for volume in self.volumes() if volume.name.startswith(prefix)),
        )

    def logs(self, pod_id: str, last_event_id: str | None = None, timeout_s: float = 10.0) -> Iterator[LogLine]:
        """What Modal has by now, of a pod that ended, too; it does not wait for more."""

        async def read(modal: Any, client: Any) -> list[logs.Piece]:
            sandbox = await modal.Sandbox.from_id.aio(checked(pod_id), client=client)
            now = datetime.fromtimestamp(self._wall(), timezone.utc)
            entries = sandbox.logs.fetch.aio(since=logs.since(last_event_id, now), until=now)
            return [logs.Piece(it.timestamp, it.source, it.message) async for it in entries]

        pieces = self._unless_absent(f"reading the logs of pod {pod_id}", read) or []
        for line in logs.lines(pieces, last_event_id):
            yield LogLine(event_id=line.event_id, time=line.time, source=line.source, line=self._sdk.clean(line.line))

    def ssh_keys(self) -> list[str]:
        """A workspace has none."""
        return []

    def replace_ssh_keys(self, keys: Sequence[str]) -> None:
        """Raises RequestRejected for any key."""
        if keys:
            raise RequestRejected("a Modal workspace has no ssh keys", hint="`modal shell SANDBOX_ID` opens a shell")

    def bill(
        self,
        pod_ids: list[str],
        volume_ids: list[str],
        since: str,
        *,
        until: str | None = None,
        now_s: float | None = None,
    ) -> Bill:
        """Modal's own estimate of each sandbox, at the workspace's rates, over its whole life; final an hour after
        `until`. Of a single volume Modal tells no cost."""
        usd = sum(
            self._unless_absent(f"reading what {pod_id} cost", partial(works.cost, pod_id)) or 0.0 for pod_id in pod_ids
        )
        final = until is not None and now_s is not None and now_s >= parse_time(until) + _SETTLED_S
        return Bill(pods_usd=usd, volumes_usd=0.0, final=final)

    def _pods(self) -> list[Pod]:
        """Every living sandbox of the app."""

        async def listed(modal: Any, client: Any) -> list[tuple[str, dict[str, str]]]:
            app = await modal.App.lookup.aio(APP, client=client)
            found = []
            async for sandbox in modal.Sandbox.list.aio(app_id=app.app_id, client=client):
                if sandbox.returncode is None:
                    found.append((str(sandbox.object_id), await sandbox.get_tags.aio()))
            return found

        found = self._unless_absent("listing pods", listed) or []
        return [shapes.pod(pod_id, tagged, self._wall()) for pod_id, tagged in found]

    def _named(self, name: str) -> Pod | None:
        async def read(modal: Any, client: Any) -> tuple[str, dict[str, str]]:
            sandbox = await modal.Sandbox.from_name.aio(APP, name, client=client)
            return str(sandbox.object_id), await sandbox.get_tags.aio()

        found = self._unless_absent(f"looking for pod {name}", read)
        return None if found is None else shapes.pod(found[0], found[1], self._wall())

    def _came_and_went(self, name: str) -> Pod | None:
        """As far as Modal tells: that it does so of sandboxes with a GPU is not documented."""
        work = partial(works.came_and_went, name)
        found = self._unless_absent(f"looking for pod {name}", work, ("absent", "denied", "retired", "invalid"))
        if found is None:
            return None
        return replace(shapes.pod(found[0], found[1], self._wall()), status="TERMINATED", uptime_s=None)

    def _unless_absent(self, doing: str, work: Callable[[Any, Any], Any], absent: Container[Why] = ("absent",)) -> Any:
        """None where Modal says that there is no such thing, which is never said of a failed read."""
        try:
            return self._sdk.attempt(work)
        except Said as said:
            if said.why in absent:
                return None
            raise failure(said, doing) from None

    def _rates(self) -> Mapping[str, float]:
        """Of the workspace, up to a minute old; none where the token may not read them, or Modal has none."""
        now_s = self._sdk.clock()
        if self._kept is None or not 0 <= now_s - self._kept[0] < _RATES_FRESH_S:
            try:
                self._kept = (now_s, self._sdk.attempt(works.rates))
            except Said as said:
                if said.why not in ("denied", "retired", "absent"):
                    raise failure(said, "reading Modal's rates") from None
                self._kept = (now_s, {})
        return self._kept[1]


def _volume(volume_id: str, name: str) -> Volume:
    return Volume(id=volume_id, name=name, size_gb=0, data_center=shapes.ANYWHERE)
