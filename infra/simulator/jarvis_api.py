"""JarvisLabs' REST API over an account of its own: what is free, instances, file systems, start scripts and ssh keys.

Instances are containers on the same machine as RunPod's pods. What JarvisLabs does not have is not here: logs, bills,
images of one's own, and anything an instance could end itself with.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator import billing
from infra.simulator.gate import Call, json_body, subject_of
from infra.simulator.jarvis_account import ScriptStore
from infra.simulator.jarvis_files import FileSystems
from infra.simulator.jarvis_gate import JarvisGate, Refusal, host_of
from infra.simulator.jarvis_market import FRAMEWORKS, HOSTS, row
from infra.simulator.service import Service
from infra.simulator.state import Pod, PodOrder, Refused

_NAME_CHARS = 40


class JarvisApi:
    """`service` is the account's."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._scripts = ScriptStore(service.settings.state_dir / "scripts")
        self._files = FileSystems(service)
        self._listed: set[str] = set()
        self._spot: set[str] = set()

    def routes(self, gate: JarvisGate) -> list[Route]:
        def route(method: str, path: str, operation: str, handler: Callable[[Call], Any]) -> Route:
            return gate.jarvis_route(method, path, operation, handler, lambda call: self._subject(call, operation))

        return [
            route("GET", "/misc/", "get_account", self._currency),
            route("GET", "/misc/server_meta", "list_gpus", self._server_meta),
            route("GET", "/misc/frameworks", "list_templates", self._frameworks),
            route("GET", "/misc/status", "get_pod_status", self._status),
            route("GET", "/users/balance", "get_balance", self._balance),
            route("GET", "/users/fetch", "list_pods", self._list),
            route("GET", "/users/fetch/{id}", "get_pod", self._get),
            route("POST", "/templates/{id}/create", "create_pod", self._create),
            route("POST", "/templates/{id}/resume", "create_pod", self._resume),
            route("POST", "/misc/pause", "stop_pod", self._pause),
            route("POST", "/misc/destroy", "delete_pod", self._destroy),
            route("GET", "/filesystem/list", "list_volumes", self._files.list),
            route("POST", "/filesystem/create", "create_volume", self._files.create),
            route("POST", "/filesystem/edit", "update_volume", self._files.edit),
            route("POST", "/filesystem/delete", "delete_volume", self._files.delete),
            route("GET", "/scripts/", "list_scripts", self._list_scripts),
            route("POST", "/scripts/add", "put_script", self._add_script),
            route("POST", "/scripts/update", "put_script", self._update_script),
            route("DELETE", "/scripts/", "delete_script", self._remove_script),
            route("GET", "/ssh/", "get_ssh_keys", self._keys),
            route("POST", "/ssh/", "put_ssh_keys", self._add_key),
            route("DELETE", "/ssh/{id}", "put_ssh_keys", self._remove_key),
        ]

    async def _subject(self, call: Call, operation: str) -> dict[str, str]:
        query = call.request.query_params
        target = query.get("machine_id") or query.get("fs_id") or ""
        if operation == "get_pod":
            target = call.id
        name = gpu = ""
        if operation.startswith("create_"):
            body = await json_body(call.request)
            if isinstance(body, dict):
                name, gpu = str(body.get("name") or body.get("fs_name") or ""), str(body.get("gpu_type", ""))
        return subject_of(self._service.account, operation, target, name, gpu)

    async def _currency(self, call: Call) -> Response:
        """Success says that the account pays in rupees."""
        return JSONResponse({"success": self._service.faults.take("pays_in_rupees", **call.subject) is not None})

    async def _balance(self, call: Call) -> Response:
        return JSONResponse(
            {"balance": billing.balance_usd(self._service.account, self._service.clock()), "grants": 0.0}
        )

    async def _server_meta(self, call: Call) -> Response:
        catalog, rows = self._service.account.catalog, list[Any]()
        for gpu in catalog.gpus.values():
            levels = self._service.stock(gpu, "SECURE")
            rows += [row(gpu, region, levels[region]) for region in gpu.stock]
        return JSONResponse({"server_meta": rows, "cpu_meta": {"combinations": []}})

    async def _frameworks(self, call: Call) -> Response:
        return JSONResponse({"frameworks": [{"id": name, "title": title} for name, title in FRAMEWORKS.items()]})

    async def _list(self, call: Call) -> Response:
        shown = [self._document(pod) for pod in self._service.account.live_pods() if self._is_listed(pod)]
        return JSONResponse({"success": "true", "instances": shown})

    async def _get(self, call: Call) -> Response:
        pod = self._service.account.pods.get(call.id)
        if pod is None or pod.status == "TERMINATED" or not self._is_listed(pod):
            return JSONResponse({"success": False, "message": "Instance not found"})
        return JSONResponse({"success": True, "instance": self._document(pod)})

    async def _status(self, call: Call) -> Response:
        """Of what was just made, too, which no list has before it runs."""
        pod = self._mine(call.request.query_params.get("machine_id", ""), call.request)
        if pod.never_starts:
            return JSONResponse({"status": "Failed", "error": "No free GPUs on the node", "code": 7})
        status = "Running" if self._service.running(pod) else "Creating"
        return JSONResponse({"status": status, "error": "None", "code": None})

    async def _create(self, call: Call) -> Response:
        body = await json_body(call.request)
        if call.id not in FRAMEWORKS or not isinstance(body, dict):
            raise Refusal("Not Found", 404)
        if len(str(body.get("name", ""))) > _NAME_CHARS:
            raise Refusal("Instance name must be 40 characters or fewer")
        if body.get("region") != region_of(call.request):
            raise Refusal(f"region {body.get('region')} is not served here")
        spot_usd = self._spot_usd(body) if body.get("is_spot") else None
        pod = self._place(body, call)
        if spot_usd is not None:
            pod.usd_per_gpu_hour = spot_usd
            self._spot.add(pod.id)
        if self._service.faults.take("refused_but_rented", **call.subject):
            raise Refusal("Instance creation failed")
        return JSONResponse({"machine_id": int(pod.id)})

    async def _resume(self, call: Call) -> Response:
        """What was kept goes on under another number."""
        body = await json_body(call.request)
        old = self._mine(str(body.get("machine_id", "")), call.request)
        if old.status != "EXITED":
            raise Refusal(f"Can only resume a Paused instance (current status: {old.status})")
        order = {"gpu_type": old.gpu, "num_gpus": old.gpu_count, "hdd": old.persistent_gb, "region": old.data_center}
        held = {"name": old.name, "fs_id": old.volume_id, "http_ports": _http_ports(old)}
        service = self._service
        service.account.terminate_pod(old.id, service.clock())
        pod = self._place({**order, **held, "script_id": body.get("script_id")}, call)
        return JSONResponse({"machine_id": int(pod.id)})

    async def _pause(self, call: Call) -> Response:
        pod = self._mine(call.request.query_params.get("machine_id", ""), call.request)
        if pod.status == "RUNNING":
            self._service.stop_pod(pod.id)
        return JSONResponse({"success": True})

    async def _destroy(self, call: Call) -> Response:
        self._service.terminate_pod(self._mine(call.request.query_params.get("machine_id", ""), call.request).id)
        return JSONResponse({"success": True})

    async def _list_scripts(self, call: Call) -> Response:
        rows = [{"script_id": number, "script_name": name} for number, name in self._scripts.all().items()]
        return JSONResponse({"success": True, "script_meta": rows})

    async def _add_script(self, call: Call) -> Response:
        self._scripts.add(call.request.query_params.get("name", ""), await _uploaded(call.request))
        return JSONResponse({"success": True})

    async def _update_script(self, call: Call) -> Response:
        self._scripts.write(self._script(call.request.query_params.get("script_id")), await _uploaded(call.request))
        return JSONResponse({"success": True})

    async def _remove_script(self, call: Call) -> Response:
        self._scripts.remove(self._script(call.request.query_params.get("script_id")))
        return JSONResponse({"success": True})

    async def _keys(self, call: Call) -> Response:
        keys = self._service.account.ssh_keys
        return JSONResponse([{"ssh_key": key, "key_name": "key", "key_id": _key_id(key)} for key in keys])

    async def _add_key(self, call: Call) -> Response:
        key = str((await json_body(call.request)).get("ssh_key", "")).strip()
        if not key.startswith(("ssh-", "ecdsa-", "sk-")):
            raise Refusal("Invalid ssh key")
        self._service.account.ssh_keys.append(key)
        self._service.save()
        return JSONResponse({"success": True})

    async def _remove_key(self, call: Call) -> Response:
        keys = self._service.account.ssh_keys
        keys[:] = [key for key in keys if _key_id(key) != call.id]
        self._service.save()
        return JSONResponse({"success": True})

    def _spot_usd(self, body: dict[str, Any]) -> float:
        """Raises Refusal where the type has no spot instances, or none is free, in the region."""
        gpu, region = self._service.account.catalog.gpus.get(str(body.get("gpu_type"))), str(body["region"])
        level = self._service.stock(gpu, "SECURE").get(region, "NONE") if gpu else "NONE"
        usd = row(gpu, region, level)["spot_price"] if gpu and level != "NONE" else None
        if usd is None:
            raise Refusal(f"Spot is not available for {body.get('gpu_type')} in {region} right now")
        return float(usd)

    def _place(self, body: dict[str, Any], call: Call) -> Pod:
        """Raises Refusal for what JarvisLabs would not take, in its words for 'nothing is free'."""
        service = self._service
        script = body.get("script_id")
        number = None if script in (None, "") else self._script(str(script))
        held = None if body.get("fs_id") in (None, "") else str(body["fs_id"])
        try:
            return service.create_pod(
                PodOrder(
                    name=str(body.get("name") or ""),
                    image="",
                    gpu=str(body.get("gpu_type")),
                    gpu_count=int(body.get("num_gpus") or 1),
                    args=self._scripts.command(number, Path(service.settings.state_dir / "started")),
                    disk_gb=0 if held is None else int(body.get("hdd") or 100),
                    persistent_gb=int(body.get("hdd") or 100) if held is None else 0,
                    ports=[f"{port}/http" for port in str(body.get("http_ports") or "").split(",") if port],
                    data_centers=(str(body["region"]),),
                    volume_id=held,
                )
            )
        except Refused as refused:
            if refused.why in ("no_capacity", "no_resources"):
                raise Refusal(f"{body.get('gpu_type')} is not available in {body['region']} right now") from refused
            raise Refusal(refused.detail) from refused

    def _mine(self, machine_id: str, request: Request) -> Pod:
        """An instance of this host's region. Raises Refusal."""
        pod = self._service.account.pods.get(machine_id)
        if pod is None or pod.status == "TERMINATED" or pod.data_center != region_of(request):
            raise Refusal("Instance not found", 404)
        return pod

    def _is_listed(self, pod: Pod) -> bool:
        """From its first start on."""
        if pod.status == "EXITED" or self._service.running(pod):
            self._listed.add(pod.id)
        return pod.id in self._listed

    def _script(self, number: str | None) -> int:
        if number is None or not number.isdigit() or int(number) not in self._scripts.all():
            raise Refusal("Script not found", 404)
        return int(number)

    def _document(self, pod: Pod) -> dict[str, Any]:
        running = self._service.running(pod)
        paused = pod.status == "EXITED"
        return {
            "machine_id": int(pod.id),
            "instance_name": pod.name,
            "status": "Paused" if paused else "Running" if running else "Creating",
            "framework": "pytorch",
            "gpu_type": pod.gpu,
            "num_gpus": pod.gpu_count,
            "region": pod.data_center,
            "hdd": f"{pod.persistent_gb or pod.disk_gb}",
            "fs_id": None if pod.volume_id is None else int(pod.volume_id),
            "http_ports": _http_ports(pod),
            "cost": round(billing.pod_cost(pod, 0.0, self._service.clock()).total, 4),
            "runtime": "",
            "is_spot": pod.id in self._spot,
            "frequency": "hour",
            "ssh_str": "ssh -o StrictHostKeyChecking=no -p 22 root@127.0.0.1" if running else "",
            "endpoints": [],
        }


def region_of(request: Request) -> str:
    return HOSTS.get(host_of(request), "")


def _http_ports(pod: Pod) -> str:
    return ",".join(port.partition("/")[0] for port in pod.ports)


def _key_id(key: str) -> str:
    return f"{zlib.crc32(key.encode()):08x}"


async def _uploaded(request: Request) -> bytes:
    """The one file of a form."""
    kind, _, border = request.headers.get("content-type", "").partition("boundary=")
    body = await request.body()
    if not kind.startswith("multipart/form-data") or not border:
        raise Refusal("field required: script", 422)
    head, _, rest = body.partition(b"\r\n\r\n")
    if b'name="script"' not in head:
        raise Refusal("field required: script", 422)
    return rest.rpartition(f"\r\n--{border}--".encode())[0]
