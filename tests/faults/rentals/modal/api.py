"""Modal's calls over the virtual service, as the SDK makes them. On the way they are HTTP with JSON in it, so that the
board's faults, lost answers and slow ones strike them as they strike another cloud's.

A sandbox that there is no machine for is queued, and placed when there is one, whether or not somebody waits. It is in
no list and under no name then; its name is taken all the same. Every pod of the account is a sandbox of the one app.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.clouds.modal.names import CORE_USD, CORES, GIB_USD, MEMORY_GIB, find
from infra.simulator import billing
from infra.simulator.gate import Call, Gate, Problem, json_body, subject_of
from infra.simulator.modal_account import ANYWHERE, task_id
from infra.simulator.service import Service
from infra.simulator.state import Pod, PodOrder, Refused, Volume

from ..rental import Log

PATH = "/modal.client.ModalClient"
BESIDE_USD = CORES * CORE_USD + MEMORY_GIB * GIB_USD
"""An hour of the cores and the memory that come with each GPU; the account's prices have them in."""
# How often somebody looks whether there is a machine by now for what is queued.
_LOOKS_S = 10.0
# What is answered where the board says that the account does not pay: gRPC's FAILED_PRECONDITION.
UNPAID = 402
_ENDED = {"succeeded": 0, "timed out": 124, "terminated": 137}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a sandbox was asked to be: its end in epoch seconds, the price of that moment, and by how much later than
    it was asked."""

    order: PodOrder
    tags: Mapping[str, str]
    ends_at: float
    usd: float
    late_s: float


class ModalGate(Gate):
    """One workspace; what it says no with is a status and a text."""

    def call(self, method: str, name: str, operation: str, handler: Callable[[Mapping[str, Any]], Any]) -> Route:
        async def handle(call: Call) -> Response:
            return JSONResponse(handler(await json_body(call.request) | dict(call.request.query_params)))

        async def served(call: Call) -> Response:
            call.render, call.operation = _refusal, operation
            try:
                self._authenticate(call)
                said = await json_body(call.request)
                sandbox_id = str(said.get("sandbox_id", ""))
                gpu, named = str(said.get("gpu", "")), str(said.get("name", ""))
                call.subject = subject_of(self.service.account, operation, sandbox_id, named, gpu)
                return await self._limited(call, handle)
            except Problem as problem:
                return _refusal(problem)

        return self._route(method, f"{PATH}/{name}", name, served)


def _refusal(problem: Problem) -> Response:
    said = "Workspace has reached its spend limit." if problem.status == UNPAID else problem.detail
    return JSONResponse({"said": said}, problem.status, problem.headers)


class VirtualModal:
    """One workspace. Of what Modal has beside pods and volumes here is what a process of ours could not know."""

    def __init__(self, service: Any, log: Log) -> None:
        self._service, self._log = service, log
        self.asked: dict[str, Asked] = {}
        """By the ids of their sandboxes."""
        self.queued: dict[str, None] = {}
        self._secrets: dict[str, Mapping[str, str]] = {}
        self._ends: dict[str, str] = {}
        self._numbers = count(1)

    def routes(self, gate: ModalGate) -> list[Route]:
        return [
            # It is there: other people's sandboxes are in it.
            gate.call("POST", "AppGetOrCreate", "read_app", lambda said: {"app_id": "ap-1"}),
            gate.call("GET", "AppGetOrCreate", "read_app", lambda said: {"app_id": "ap-1"}),
            gate.call("POST", "ImageGetOrCreate", "read_image", lambda said: {"image_id": said["image"]}),
            gate.call("POST", "SecretGetOrCreate", "keep_secret", self._secret),
            gate.call("GET", "WorkspaceBillingRates", "list_gpus", self._rates),
            gate.call("POST", "VolumeGetOrCreate", "create_volume", self._volume),
            gate.call("GET", "VolumeGetOrCreate", "get_volume", self._volume),
            gate.call("GET", "VolumeGetById", "get_volume", lambda said: _told(self._volume_of(said["volume_id"]))),
            gate.call("GET", "VolumeList", "list_volumes", self._volumes),
            gate.call("POST", "VolumeDelete", "delete_volume", self._delete_volume),
            gate.call("POST", "SandboxCreate", "create_pod", self._create),
            gate.call("GET", "SandboxGetTaskId", "get_pod", self._task),
            gate.call("GET", "SandboxGetFromName", "get_pod", self._named),
            gate.call("GET", "SandboxList", "list_pods", self._list),
            gate.call("GET", "SandboxTagsGet", "get_pod", self._tags),
            gate.call("GET", "SandboxWait", "get_pod", self._wait),
            gate.call("POST", "SandboxTerminate", "delete_pod", self._terminate),
            gate.call("GET", "SandboxGetStats", "list_billing", self._stats),
            gate.call("GET", "AppFetchLogs", "get_pod_logs", self._logs),
        ]

    def _secret(self, said: Mapping[str, Any]) -> Any:
        secret_id = f"st-{next(self._numbers)}"
        self._secrets[secret_id] = said["env"]
        return {"secret_id": secret_id}

    def _rates(self, said: Mapping[str, Any]) -> Any:
        gpus = self._service.account.catalog.gpus.values()
        rates = {it.word: gpu.secure_usd - BESIDE_USD for gpu in gpus if (it := find(gpu.id)) is not None}
        return {"rates": {**rates, "CPU": CORE_USD, "Memory": GIB_USD}}

    # Volumes.

    def _volume(self, said: Mapping[str, Any]) -> Any:
        """Of a name there is one."""
        found = next((it for it in self._service.account.live_volumes() if it.name == said["name"]), None)
        if found is None and not said["create"]:
            raise Problem(404, f"Volume '{said['name']}' not found")
        return _told(found or self._service.create_volume(said["name"], 0, ANYWHERE, None))

    def _volumes(self, said: Mapping[str, Any]) -> Any:
        return {"items": [_told(it) for it in self._service.account.live_volumes()]}

    def _delete_volume(self, said: Mapping[str, Any]) -> Any:
        """It is gone, whoever mounts it."""
        volume = self._volume_of(said["volume_id"])
        volume.spans[-1].end = self._service.clock()
        self._service._remove_soon(volume.id)
        return {}

    def _volume_of(self, volume_id: str) -> Volume:
        live = self._service.account.live_volumes()
        found: Volume | None = next((it for it in live if outside(it) == volume_id), None)
        if found is None:
            raise Problem(404, f"Volume '{volume_id}' not found")
        return found

    # Sandboxes.

    def _create(self, said: Mapping[str, Any]) -> Any:
        name, now = str(said["name"]), self._service.clock()
        taken = {it.name for it in self._service.account.live_pods()}
        if name in taken | {self.asked[it].order.name for it in self.queued}:
            raise Problem(409, f"Sandbox with name '{name}' already exists.")
        volumes = [self._volume_of(it) for it in said["volumes"].values()]
        env = {key: value for it in said["secret_ids"] for key, value in self._secrets[it].items()}
        order = PodOrder(
            name=name,
            image=said["image_id"],
            gpu=said["gpu"],
            gpu_count=said["gpu_count"],
            args=shlex.join(said["args"]),
            env=env,
            disk_gb=0,
            volume_id=volumes[0].id if volumes else None,
            mount_path=next(iter(said["volumes"]), None),
        )
        sandbox_id = self._service.account.new_id()
        self.asked[sandbox_id] = Asked(
            order=order,
            tags=said["tags"],
            ends_at=now + said["timeout"],
            usd=self._service.account.catalog.gpus[order.gpu].secure_usd,
            late_s=now - said["sent_s"],
        )
        self.queued[sandbox_id] = None
        self._place(sandbox_id)
        return {"sandbox_id": sandbox_id}

    def _place(self, sandbox_id: str) -> None:
        """Now, or when there is a machine; until its time is over, or its volume gone."""
        asked, account = self.asked[sandbox_id], self._service.account
        if sandbox_id not in self.queued:
            return
        if self._service.clock() >= asked.ends_at:
            return self._drop(sandbox_id, "timed out")
        own, account.new_id = account.new_id, lambda: sandbox_id
        try:
            self._service.create_pod(asked.order).usd_per_gpu_hour = asked.usd
        except Refused as refused:
            if refused.why == "not_found":
                return self._drop(sandbox_id, "terminated")
            return self._service.scheduler.after(_LOOKS_S, partial(self._place, sandbox_id))
        finally:
            account.new_id = own
        del self.queued[sandbox_id]
        self._service.scheduler.at(asked.ends_at, partial(self._time_out, sandbox_id))

    def _drop(self, sandbox_id: str, how: str) -> None:
        del self.queued[sandbox_id]
        self._ends[sandbox_id] = how

    def _time_out(self, sandbox_id: str) -> None:
        if self._service.account.pods[sandbox_id].status != "TERMINATED":
            self._ends[sandbox_id] = "timed out"
            self._service.lose(sandbox_id)

    def _task(self, said: Mapping[str, Any]) -> Any:
        """Nothing for one in the queue: that it will never be placed Modal does not say."""
        sandbox_id = said["sandbox_id"]
        if sandbox_id in self._service.account.pods:
            return {"task_id": task_id(sandbox_id)}
        if sandbox_id not in self.queued:
            raise Problem(412, "Sandbox already finished")
        return {"task_id": ""}

    def _named(self, said: Mapping[str, Any]) -> Any:
        """The one that lives, or the last one that ended."""
        account = self._service.account
        found = next((it for it in account.live_pods() if it.name == said["name"]), None)
        if found is None and said["ended_too"]:
            found = next((it for it in reversed(account.pods.values()) if it.name == said["name"]), None)
        if found is None:
            raise Problem(404, f"Sandbox with name '{said['name']}' not found")
        return {"sandbox_id": found.id}

    def _list(self, said: Mapping[str, Any]) -> Any:
        """Newest first; the next page begins before the last one's creation."""
        before = float(said.get("before", "inf"))
        found = [pod for pod in self._service.account.live_pods() if pod.created_at < before]
        found.sort(key=lambda pod: -pod.created_at)
        page = found[: self._service.settings.page_size]
        return {"sandboxes": [{"sandbox_id": pod.id, "created_at": pod.created_at} for pod in page]}

    def _tags(self, said: Mapping[str, Any]) -> Any:
        """Of somebody else's as if it had been made by another pushtrain."""
        sandbox_id = said["sandbox_id"]
        if sandbox_id in self.asked:
            return {"tags": self.asked[sandbox_id].tags}
        return {"tags": {"pushtrain": self._pod(sandbox_id).name}}

    def _wait(self, said: Mapping[str, Any]) -> Any:
        sandbox_id = said["sandbox_id"]
        if sandbox_id in self.queued or (sandbox_id not in self._ends and self._pod(sandbox_id).status != "TERMINATED"):
            return {"returncode": None}
        return {"returncode": _ENDED[self._ends.get(sandbox_id, "succeeded")]}

    def _terminate(self, said: Mapping[str, Any]) -> Any:
        sandbox_id = said["sandbox_id"]
        if sandbox_id in self.queued:
            self._drop(sandbox_id, "terminated")
        elif sandbox_id not in self._ends and self._pod(sandbox_id).status != "TERMINATED":
            self._ends[sandbox_id] = "terminated"
            self._service.terminate_pod(sandbox_id)
        return {}

    def _stats(self, said: Mapping[str, Any]) -> Any:
        pod = self._pod(said["sandbox_id"])
        return {"cost": billing.pod_cost(pod, 0.0, self._service.clock()).total}

    def _logs(self, said: Mapping[str, Any]) -> Any:
        lines = self._log(self._pod(said["sandbox_id"]).id)
        return {"lines": [[at, text] for at, source, text in lines if source == "container" and at >= said["since"]]}

    def _pod(self, sandbox_id: str) -> Pod:
        found: Pod | None = self._service.account.pods.get(sandbox_id)
        if found is None:
            raise Problem(404, f"Sandbox '{sandbox_id}' not found")
        return found


def outside(volume: Volume) -> str:
    """Ids of the account are of one kind; Modal's say what they are of."""
    return f"vo-{volume.id[3:]}"


def routes(service: Service, transports: dict[Any, Any], log: Log) -> list[Route]:
    its: Any = service
    its.modal = VirtualModal(service, log)
    made: VirtualModal = its.modal
    return made.routes(ModalGate(service, transports))


def _told(volume: Volume) -> dict[str, str]:
    return {"volume_id": outside(volume), "name": volume.name}
