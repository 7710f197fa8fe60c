"""The simulator without sockets, processes and disks: its own REST handlers, gates, faults and account.

What is left out of the simulator is the machine: containers are `faults.pod`'s, told by `Containers`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from infra.simulator.app import _problem
from infra.simulator.catalog import VolumeKind
from infra.simulator.faults import Fault as SimulatorFault
from infra.simulator.faults import Faults, Kind
from infra.simulator.machine import STOP_GRACE_S, Running
from infra.simulator.pod_env import pod_key
from infra.simulator.service import Service, Settings
from infra.simulator.state import Account, Pod, PodOrder, Volume
from pushtrain.run import is_kept

from .fault import Fault, Hit
from .rentals import ACCOUNT_KEY, BASE_URL, Rental
from .virtual import Process, Scheduler

LogLine = tuple[float, str, str]
"""Epoch seconds, `container` or `system`, text."""


class Containers(Protocol):
    """The machines under the cloud."""

    def pod_changed(self, pod: Pod, service: "VirtualService") -> None:
        """Created, stopped, started or terminated: make its container match."""
        ...

    def volume_gone(self, volume_id: str) -> None: ...

    def running(self, pod_id: str) -> Running | None: ...

    def log(self, pod_id: str) -> list[LogLine]: ...


class Watcher(Protocol):
    """Who checks promises. Called at the moment itself, with the account as it is then."""

    def pod_made(self, pod: Pod, rental: Rental) -> None: ...

    def volume_made(self, volume: Volume, rental: Rental) -> None: ...

    def gone(self, name: str) -> None: ...

    def kept_gone(self, volume: Volume, rental: Rental) -> None:
        """A volume was deleted whose name says that nobody deletes it."""
        ...


class HeardFaults(Faults):
    """The simulator's board, which tells when a fault strikes. `entries`: the schedule's fault by the board's id."""

    def __init__(self, new_id: Callable[[], str], hit: Hit) -> None:
        super().__init__(new_id)
        self.entries: dict[str, Fault] = {}
        self._hit = hit

    def find(self, kind: Kind, **subject: str) -> SimulatorFault | None:
        found = super().find(kind, **subject)
        if found is not None:
            self._hit(self.entries[found.id])
        return found


class ListedAccount(Account):
    """An account whose lists may be behind: `hides` says whether a pod is not in them yet."""

    hides: Callable[[Pod], bool] | None = None

    def live_pods(self) -> list[Pod]:
        live = super().live_pods()
        return live if self.hides is None else [pod for pod in live if not self.hides(pod)]


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where a cloud stands: the machines under it, who checks promises, who hears of faults, the way to it."""

    containers: Containers
    watcher: Watcher
    hit: Hit
    way: "Network"


class VirtualService(Service):
    """One cloud: the simulator's service on a virtual machine and clock; nothing is saved."""

    def __init__(
        self, scheduler: Scheduler, rental: Rental, seat: "Seat", *, page_size: int | None, folder: Path
    ) -> None:
        ids = (rental.ids(number) for number in count(1))
        settings = Settings(
            state_dir=folder,
            base_url=BASE_URL,
            api_key=ACCOUNT_KEY,
            expires_at=float("inf"),
            page_size=page_size,
        )
        account = ListedAccount(rental.catalog, lambda: next(ids))
        self.board = HeardFaults(lambda: next(ids), seat.hit)
        super().__init__(settings, account, self.board, None, clock=lambda: scheduler.now)  # type: ignore[arg-type]
        self.containers, self._watcher = seat.containers, seat.watcher
        self.rental, self.way, self.scheduler = rental, seat.way, scheduler
        self.api = RestApi(self)
        self.under_way = 0
        """Requests that their sender has given up, and that are carried out nevertheless."""

    def running(self, pod: Pod) -> Running | None:
        return self.containers.running(pod.id) if pod.status == "RUNNING" else None

    def ssh_port(self, pod: Pod) -> int | None:
        return None

    def create_pod(self, order: PodOrder) -> Pod:
        pod = super().create_pod(order)
        self._watcher.pod_made(pod, self.rental)
        return pod

    def create_volume(self, name: str, size_gb: int, data_center: str, kind: VolumeKind | None) -> Volume:
        volume = self.account.create_volume(name, size_gb, data_center, kind, self.clock())
        self.machine.create_volume(volume.id)
        self._watcher.volume_made(volume, self.rental)
        return volume

    def lose(self, pod_id: str) -> None:
        """The machine is gone, as with RunPod's spot pods and its failures."""
        self._changed(self.account.terminate_pod(pod_id, self.clock()))

    def pause(self, pod_id: str) -> None:
        """The cloud stops it, or ends it where nothing of it can be stopped and go on."""
        if self.rental.ending == "leaves":
            return self.lose(pod_id)
        self.stop_pod(pod_id)

    def save(self) -> None:
        pass

    def arm(self, kind: Kind, times: int | None, match: dict[str, str], seconds: float, entry: Fault) -> str:
        """Put a fault on the board; returns its id there."""
        made = self.faults.add(kind, times, match, seconds)
        self.board.entries[made.id] = entry
        return made.id

    def _settle_soon(self, pod_id: str, delay_s: float = 0.0, grace_s: float = STOP_GRACE_S) -> None:
        pod = self.account.pods[pod_id]
        if pod.status == "TERMINATED":
            self._watcher.gone(pod.name)
        self.containers.pod_changed(pod, self)

    def _remove_soon(self, volume_id: str) -> None:
        volume = self.account.volumes[volume_id]
        if is_kept(volume.name):
            self._watcher.kept_gone(volume, self.rental)
        else:
            self._watcher.gone(volume.name)
        self.containers.volume_gone(volume_id)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class RestApi:
    """The simulator's own routes, called as ASGI without an event loop: nothing in them ever waits here."""

    def __init__(self, service: VirtualService) -> None:
        self.service, rental = service, service.rental
        self.hides: Callable[[Pod], bool] | None = None
        """Pods that a list does not show yet."""
        self._aborted = False
        routes = rental.routes(service, {("client", 1): self}, service.containers.log)
        self._app = Starlette(routes=routes, exception_handlers={HTTPException: _problem})

    def abort(self) -> None:
        """What the gate does to a connection whose answer gets lost."""
        self._aborted = True

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """None: carried out, and the answer lost."""
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("client", 1),
            "server": ("server", 1),
        }
        incoming: Iterator[dict[str, Any]] = iter([{"type": "http.request", "body": body, "more_body": False}])
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return next(incoming, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        self._aborted = False
        account = self.service.account
        assert isinstance(account, ListedAccount)
        account.hides = self.hides if method == "GET" and "pod" in self.service.rental.lists.get(path, ()) else None
        handling = self._app(scope, receive, send)
        try:
            handling.send(None)  # type: ignore[attr-defined]
        except StopIteration:
            pass
        else:
            raise AssertionError(f"{method} {path} waits for something that is not there")
        finally:
            account.hides = None
        if self._aborted:
            return None
        return Answer(sent[0]["status"], sent[0]["headers"], b"".join(part.get("body", b"") for part in sent[1:]))

    def from_pod(self, pod_id: str, method: str, path: str, body: Mapping[str, str] | None) -> int | None:
        """The status a pod gets that speaks with its own key; None for no answer."""
        key = pod_key(ACCOUNT_KEY, pod_id)
        headers = {"Authorization": f"Bearer {key}", "User-Agent": "pod", "Content-Type": "application/json"}
        answer = self.answer(method, path, headers, json.dumps(body).encode() if body is not None else b"")
        return None if answer is None else answer.status


class Network(Protocol):
    """How the way to the cloud is at this moment. `pace` gives each process latencies of its own."""

    pace: Callable[[str], Callable[[], float]]

    def is_open(self) -> bool:
        """False: nothing gets through."""
        ...

    def slowness_s(self, operation: str) -> float | None: ...


class Wire(httpx.BaseTransport):
    """One control plane's connection to the cloud: a moment to die before and after each request is carried out."""

    def __init__(self, who: str, process: Process, scheduler: Scheduler, service: VirtualService) -> None:
        self._process, self._scheduler, self._service = process, scheduler, service
        self._latency_s = service.way.pace(f"cloud {who} {service.rental.name}")

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._process.point()
        patience_s = float(request.extensions["timeout"]["read"])
        self._process.sleep(self._latency_s())
        if not self._service.way.is_open():
            raise httpx.ConnectError("connection refused")
        if (slow := self._service.way.slowness_s(self._operation(request))) is not None:
            self._wait_for(slow, patience_s, request)
        answer = self._carry_out(request)
        self._process.point()
        self._process.sleep(self._latency_s())
        if answer is None:
            raise httpx.RemoteProtocolError("server disconnected without sending a response")
        return httpx.Response(answer.status, headers=answer.headers, content=answer.body)

    def _wait_for(self, slow_s: float, patience_s: float, request: httpx.Request) -> None:
        """A server slower than the client's patience carries the request out after the client has given up."""
        if slow_s < patience_s:
            return self._process.sleep(slow_s)
        self._service.under_way += 1
        self._scheduler.after(slow_s, lambda: self._arrive(request))
        self._process.sleep(patience_s)
        raise httpx.ReadTimeout("timed out")

    def _arrive(self, request: httpx.Request) -> None:
        self._service.under_way -= 1
        self._carry_out(request)

    def _carry_out(self, request: httpx.Request) -> Answer | None:
        target = request.url.raw_path.decode()
        return self._service.api.answer(request.method, target, request.headers, request.read())

    def _operation(self, request: httpx.Request) -> str:
        return self._service.rental.operation(request.method, request.url.path)
