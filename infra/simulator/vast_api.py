"""Vast.ai's REST API over an account of its own: offers, instances, logs, charges and ssh keys.

Instances are containers on the same machine as RunPod's pods. What Vast does not have is not here: volumes that outlive
a machine, and a log that streams.
"""

import json
import re
import shlex
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.simulator import billing
from infra.simulator.container_log import read_log
from infra.simulator.gate import Call, json_body, subject_of
from infra.simulator.service import Service
from infra.simulator.state import Pod, PodOrder, Refused
from infra.simulator.vast_gate import Refusal, VastGate
from infra.simulator.vast_market import Machine, fits, machines, storage_usd_per_hour, vast_name

_PORT = re.compile(r"-p (\d+):(\d+)(/tcp)?")
_MOST_A_PAGE = 25
# A log is copied to where it can be fetched: until then its address answers 403, as S3 does.
_COPY_S = 0.3
_KEEP_COPIES_S = 600.0


class VastApi:
    """`service` is the account's; who is on which machine is known to this process alone."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._machines: Mapping[int, Machine] = {it.id: it for it in machines(service.account.catalog)}
        self._taken: dict[int, str] = {}
        self._bids: set[str] = set()
        self._copies: dict[str, tuple[float, str]] = {}

    def routes(self, gate: VastGate) -> list[Route]:
        def route(method: str, path: str, operation: str, handler: Callable[[Call], Any]) -> Route:
            return gate.vast_route(method, path, operation, handler, lambda call: self._subject(call, operation))

        return [
            route("POST", "/api/v0/bundles/", "list_gpus", self._search),
            route("PUT", "/api/v0/asks/{id}/", "create_pod", self._create),
            route("GET", "/api/v1/instances/", "list_pods", self._list),
            route("PUT", "/api/v0/instances/request_logs/{id}/", "get_pod_logs", self._request_logs),
            route("GET", "/api/v0/instances/{id}/", "get_pod", self._get),
            route("DELETE", "/api/v0/instances/{id}/", "delete_pod", self._destroy),
            route("GET", "/api/v0/charges/", "list_billing", self._charges),
            route("GET", "/api/v0/ssh/", "get_ssh_keys", self._keys),
            route("POST", "/api/v0/ssh/", "put_ssh_keys", self._add_key),
            route("DELETE", "/api/v0/ssh/{id}/", "put_ssh_keys", self._remove_key),
            route("GET", "/api/v0/users/current/", "get_account", self._user),
            gate.open_route("/vast-files/{id}", self._copy),
        ]

    async def _subject(self, call: Call, operation: str) -> dict[str, str]:
        call.operation = operation
        target, name, gpu = str(call.request.path_params.get("id", "")), "", ""
        if operation == "create_pod":
            machine = self._machines.get(_number(target))
            gpu, target = machine.gpu if machine else "", ""
            body = await json_body(call.request)
            name = str(body.get("label", "")) if isinstance(body, dict) else ""
        return subject_of(self._service.account, operation, target, name, gpu)

    async def _search(self, call: Call) -> Response:
        query = await json_body(call.request)
        if not isinstance(query, dict):
            raise Refusal(400, "invalid_args", "the query is an object")
        disk_gb = float(query.get("allocated_storage", 5.0))
        catalog, service = self._service.account.catalog, self._service
        found = []
        for machine in self._machines.values():
            where = {"gpu": machine.gpu, "data_center": machine.place if machine.tier == "SECURE" else ""}
            if not self._is_rented(machine.id) and not service.faults.find("no_stock", operation="list_gpus", **where):
                found.append(machine.document(catalog, disk_gb))
        offers = sorted((it for it in found if fits(it, query)), key=lambda it: (it["dph_total"], it["id"]))
        return JSONResponse({"offers": offers[: int(query.get("limit", 64))]})

    async def _create(self, call: Call) -> Response:
        machine, body = self._machines.get(_number(call.id)), await json_body(call.request)
        if machine is None or self._is_rented(machine.id):
            raise Refusal(404, "no_such_ask", f"error 404/3603: no_such_ask Instance type by id {call.id} not found")
        bid = body.get("price")
        if bid is not None and bid < machine.document(self._service.account.catalog, 0)["min_bid"]:
            raise Refusal(400, "invalid_price", f"bid {bid} is below the minimum bid")
        try:
            pod = self._service.create_pod(_order(machine, body))
        except Refused as refused:
            if refused.why in ("no_capacity", "no_resources"):
                raise Refusal(410, "no_such_ask", "the offer is no longer available") from refused
            raise Refusal(400, "invalid_args", refused.detail) from refused
        self._taken[machine.id] = pod.id
        if bid is not None:
            self._bids.add(pod.id)
            pod.usd_per_gpu_hour = bid / pod.gpu_count
        if self._service.faults.take("refused_but_rented", **call.subject):
            self._service.stop_pod(pod.id)
            return JSONResponse({"success": False, "error": "bid_failed", "msg": "outbid", "new_contract": int(pod.id)})
        return JSONResponse({"success": True, "new_contract": int(pod.id)})

    async def _list(self, call: Call) -> Response:
        query, pods = call.request.query_params, self._service.account.live_pods()
        limit = min(int(query.get("limit", _MOST_A_PAGE)), _MOST_A_PAGE)
        begin = int(query.get("after_token", 0))
        later = [pod for pod in pods if int(pod.created_at * 1e6) > begin]
        page = later[:limit]
        token = str(int(page[-1].created_at * 1e6)) if len(later) > limit else None
        shown = [self._document(pod) for pod in page]
        return JSONResponse({"success": True, "instances": shown, "total_instances": len(pods), "next_token": token})

    async def _get(self, call: Call) -> Response:
        pod = self._service.account.pods.get(call.id)
        alive = pod is not None and pod.status != "TERMINATED"
        return JSONResponse({"instances": self._document(pod) if pod is not None and alive else None})

    async def _destroy(self, call: Call) -> Response:
        self._service.terminate_pod(call.id)
        return JSONResponse({"success": True})

    async def _request_logs(self, call: Call) -> Response:
        pod, now = self._service.account.pod(call.id), time.monotonic()
        tail = int((await json_body(call.request)).get("tail", 1000))
        lines = [it.line for it in read_log(self._service.machine.log_path(pod.id)) if it.source == "container"]
        self._copies = {name: copy for name, copy in self._copies.items() if now - copy[0] < _KEEP_COPIES_S}
        name = f"{self._service.account.new_id()}.log"
        self._copies[name] = (now + _COPY_S, "".join(f"{line}\n" for line in lines[-tail:]))
        return JSONResponse({"success": True, "result_url": f"{self._service.settings.base_url}/vast-files/{name}"})

    async def _copy(self, call: Call) -> Response:
        ready_at, text = self._copies.get(call.id, (0.0, None))
        if text is None or time.monotonic() < ready_at:
            return PlainTextResponse("<Error><Code>AccessDenied</Code></Error>", 403)
        return PlainTextResponse(text)

    async def _charges(self, call: Call) -> Response:
        try:
            day = json.loads(call.request.query_params["select_filters"])["day"]
            begin, end = float(day["gte"]), float(day["lte"])
        except (KeyError, TypeError, ValueError) as error:
            raise Refusal(400, "invalid_args", "select_filters needs day with gte and lte") from error
        now = self._service.clock()
        results = [
            {
                "start": int(pod.created_at),
                "end": int(pod.ended_at or now),
                "type": "instance",
                "source": f"instance-{pod.id}",
                "description": f"Instance {pod.id} Charges",
                "amount": billing.pod_cost(pod, 0.0, now).total,
                "metadata": {"label": pod.name},
                "items": [],
            }
            for pod in self._service.account.pods.values()
            if pod.created_at <= end and (pod.ended_at or now) >= begin
        ]
        return JSONResponse({"success": True, "count": len(results), "total": len(results), "results": results})

    async def _user(self, call: Call) -> Response:
        return JSONResponse(
            {"id": 1, "credit": billing.balance_usd(self._service.account, self._service.clock()), "balance": 0.0}
        )

    async def _keys(self, call: Call) -> Response:
        return JSONResponse([{"id": _key_id(key), "public_key": key} for key in self._service.account.ssh_keys])

    async def _add_key(self, call: Call) -> Response:
        key = str((await json_body(call.request)).get("ssh_key", "")).strip()
        if not key.startswith(("ssh-", "ecdsa-", "sk-")):
            raise Refusal(400, "invalid_args", "not a public key")
        self._service.account.ssh_keys.append(key)
        self._service.save()
        return JSONResponse({"success": True, "key": {"id": _key_id(key), "public_key": key}})

    async def _remove_key(self, call: Call) -> Response:
        keys = self._service.account.ssh_keys
        keys[:] = [key for key in keys if str(_key_id(key)) != call.id]
        self._service.save()
        return JSONResponse({"success": True})

    def _is_rented(self, machine_id: int) -> bool:
        """A machine rented as a whole or in part is not offered in any other size."""
        pods = self._service.account.pods
        same = [offer for offer in self._taken if offer // 10 == machine_id // 10]
        return any(pods[self._taken[offer]].status != "TERMINATED" for offer in same)

    def _document(self, pod: Pod) -> dict[str, Any]:
        running, port = self._service.running(pod), self._service.ssh_port(pod)
        name, memory_mb = vast_name(pod.gpu)
        stopped = pod.status == "EXITED"
        mapped = {it: [{"HostIp": "0.0.0.0", "HostPort": it.partition("/")[0]}] for it in pod.ports if it != "22/tcp"}
        if port is not None:
            mapped["22/tcp"] = [{"HostIp": "0.0.0.0", "HostPort": str(port)}]
        return {
            "id": int(pod.id),
            "label": pod.name,
            "actual_status": "exited" if stopped else "running" if running else "loading",
            "intended_status": "stopped" if stopped else "running",
            "cur_state": "stopped" if stopped else "running",
            "next_state": "stopped" if stopped else "running",
            "status_msg": "",
            "gpu_name": name,
            "gpu_ram": memory_mb,
            "num_gpus": pod.gpu_count,
            "dph_base": pod.usd_per_hour,
            "dph_total": pod.usd_per_hour + storage_usd_per_hour(pod.disk_gb),
            "storage_cost": 0.15,
            "start_date": pod.created_at,
            "hosting_type": 1 if pod.tier == "SECURE" else 0,
            "image_uuid": pod.image,
            "is_bid": pod.id in self._bids,
            "extra_env": [[key, value] for key, value in pod.env.items()] + [[_published(it), "1"] for it in pod.ports],
            "ports": mapped if running else {},
            "public_ipaddr": "127.0.0.1",
            "ssh_host": "ssh.simulator.invalid",
            "ssh_port": 22,
            "geolocation": "Sweden, SE",
            "machine_id": 1,
        }


def _order(machine: Machine, body: Any) -> PodOrder:
    """Raises Refusal for what Vast would not take."""
    if not isinstance(body, dict) or not body.get("image") or body.get("runtype") != "args":
        raise Refusal(400, "invalid_args", "image and runtype args are needed here")
    env = {str(name): str(value) for name, value in (body.get("env") or {}).items()}
    ports = [f"{found[2]}/tcp" for name in env if (found := _PORT.fullmatch(name))]
    return PodOrder(
        name=str(body.get("label") or ""),
        image=str(body["image"]),
        gpu=machine.gpu,
        gpu_count=machine.count,
        tier=machine.tier,
        args=shlex.join(str(word) for word in body.get("args") or ()),
        disk_gb=int(body.get("disk") or 10),
        env={name: value for name, value in env.items() if not name.startswith("-")},
        ports=ports,
        data_centers=(machine.place,) if machine.tier == "SECURE" else (),
    )


def _published(port: str) -> str:
    number = port.partition("/")[0]
    return f"-p {number}:{number}"


def _key_id(key: str) -> int:
    return zlib.crc32(key.encode())


def _number(text: str) -> int:
    return int(text) if text.isdigit() else -1
