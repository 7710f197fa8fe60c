"""RunPod's REST v2: pods, network volumes and SSH keys, translated to and from the service."""

import base64
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator import bodies
from infra.simulator.gate import Call, Gate, Problem, invalid, rfc3339
from infra.simulator.machine import Running
from infra.simulator.pod_env import hostname
from infra.simulator.service import Service
from infra.simulator.state import Pod, Refused, Volume
from infra.simulator.templates import PUBLIC


@dataclass(frozen=True, kw_only=True, slots=True)
class Ssh:
    """`port`: what a pod's port 22 is outside. The proxy leads to a terminal on any pod."""

    port: int | None = None
    proxy_host: str = "127.0.0.1"
    proxy_port: int = 22


ItemT = TypeVar("ItemT", Pod, Volume)
_ACTIONS = {"RUNNING": ["stop", "restart", "terminate"], "EXITED": ["start", "terminate"]}
_MOST_A_PAGE = 1000


def routes(gate: Gate) -> list[Route]:
    return [
        gate.route("GET", "/v2/pods", "list_pods", _list_pods),
        gate.route("POST", "/v2/pods", "create_pod", _create_pod),
        gate.route("GET", "/v2/pods/{id}", "get_pod", _get_pod),
        gate.route("DELETE", "/v2/pods/{id}", "delete_pod", _delete_pod),
        gate.route("POST", "/v2/pods/{id}/action", "pod_action", _pod_action),
        gate.route("GET", "/v2/network-volumes", "list_volumes", _list_volumes),
        gate.route("POST", "/v2/network-volumes", "create_volume", _create_volume),
        gate.route("GET", "/v2/network-volumes/{id}", "get_volume", _get_volume),
        gate.route("PATCH", "/v2/network-volumes/{id}", "update_volume", _update_volume),
        gate.route("DELETE", "/v2/network-volumes/{id}", "delete_volume", _delete_volume),
        gate.route("GET", "/v2/templates", "list_templates", _list_templates),
        gate.route("POST", "/v2/templates", "create_template", _create_template),
        gate.route("GET", "/v2/templates/{id}", "get_template", _get_template),
        gate.route("DELETE", "/v2/templates/{id}", "delete_template", _delete_template),
        gate.route("GET", "/v2/account/ssh-keys", "get_ssh_keys", _get_ssh_keys),
        gate.route("PUT", "/v2/account/ssh-keys", "put_ssh_keys", _put_ssh_keys),
    ]


def pod_document(pod: Pod, running: Running | None, now: float, ssh: Ssh = Ssh()) -> dict[str, Any]:
    """A pod as v2 shows it. RUNNING from creation; only `runtime` says that the container really runs."""
    mounts: dict[str, Any] = {}
    if pod.volume_id is not None:
        mounts["network"] = [{"volumeId": pod.volume_id, "path": pod.mount_path}]
    if pod.persistent_gb:
        mounts["persistent"] = {"size": pod.persistent_gb, "path": pod.mount_path}
    proxy = _endpoint(ssh.proxy_host, ssh.proxy_port, hostname(pod.id))
    direct = _endpoint("127.0.0.1", ssh.port, "root") if running and ssh.port else None
    return {
        "id": pod.id,
        "name": pod.name,
        "image": pod.image,
        "args": pod.args,
        "disk": pod.disk_gb,
        "ports": pod.ports,
        "env": pod.env,
        "registry": None,
        "status": pod.status,
        "actions": _ACTIONS[pod.status],
        "mounts": mounts,
        "gpu": {"id": pod.gpu, "count": pod.gpu_count},
        "cloud": pod.tier,
        "dataCenterId": pod.data_center,
        "cudaVersion": pod.cuda_version,
        "ssh": {"proxy": proxy, "direct": direct},
        "template": None,
        "cost": round(pod.usd_per_hour, 6),
        "locked": False,
        "globalNetworking": {"enabled": pod.global_networking},
        "runtime": _runtime(pod, running, now, ssh.port),
        "createdAt": rfc3339(pod.created_at),
        "startedAt": rfc3339(running.started_at) if running else None,
    }


def volume_document(volume: Volume) -> dict[str, Any]:
    return {
        "id": volume.id,
        "name": volume.name,
        "size": volume.size_gb,
        "dataCenter": volume.data_center,
        "type": volume.kind,
    }


def _endpoint(host: str, port: int, user: str) -> dict[str, Any]:
    return {"host": host, "port": port, "username": user, "command": f"ssh {user}@{host} -p {port}"}


def _runtime(pod: Pod, running: Running | None, now: float, ssh_port: int | None) -> dict[str, Any] | None:
    if running is None:
        return None
    return {
        "uptime": max(0, int(now - running.started_at)),
        "gpus": [{"util": 0, "memoryUtil": 0} for _ in range(pod.gpu_count)],
        "cpu": {"util": 0},
        "memory": {"util": 0},
        "ports": [_port(port, ssh_port) for port in pod.ports if port != "22/tcp" or ssh_port],
    }


def _port(port: str, ssh_port: int | None) -> dict[str, Any]:
    """HTTP is reached by the proxy alone: RunPod shows no public port for it."""
    number, _, kind = port.partition("/")
    outside = ssh_port if port == "22/tcp" else int(number)
    public = {"public": outside, "ip": "127.0.0.1"} if kind == "tcp" else {"public": None, "ip": None}
    return {"private": int(number), "type": kind, **public}


def _show(service: Service, pod: Pod) -> dict[str, Any]:
    ssh = Ssh(port=service.ssh_port(pod), proxy_port=service.settings.ssh_proxy_port or 22)
    return pod_document(pod, service.running(pod), service.clock(), ssh)


async def _list_pods(call: Call) -> Response:
    pods, pagination = _page(call, call.service.account.live_pods())
    return JSONResponse({"pods": [_show(call.service, pod) for pod in pods], **pagination})


async def _create_pod(call: Call) -> Response:
    body = await call.body(bodies.CreatePod)
    if body.templateId is None and body.image is None:
        raise invalid("$: missing property 'image'")
    order = body.resolved(call.service.account.templates).order()
    return JSONResponse(_show(call.service, call.service.create_pod(order)), 201)


async def _get_pod(call: Call) -> Response:
    return JSONResponse(_show(call.service, call.service.account.pod(call.id)))


async def _delete_pod(call: Call) -> Response:
    call.service.terminate_pod(call.id)
    return Response(status_code=204)


async def _pod_action(call: Call) -> Response:
    body = await call.body(bodies.PodAction)
    if body.action == "terminate":
        return await _delete_pod(call)
    act = {"start": call.service.start_pod, "stop": call.service.stop_pod, "restart": call.service.restart_pod}
    return JSONResponse(_show(call.service, act[body.action](call.id)))


async def _list_volumes(call: Call) -> Response:
    volumes, pagination = _page(call, call.service.account.live_volumes())
    return JSONResponse({"networkVolumes": [volume_document(volume) for volume in volumes], **pagination})


async def _create_volume(call: Call) -> Response:
    body = await call.body(bodies.CreateVolume)
    volume = call.service.create_volume(body.name, body.size, body.dataCenter, body.type)
    return JSONResponse(volume_document(volume), 201)


async def _get_volume(call: Call) -> Response:
    return JSONResponse(volume_document(call.service.account.volume(call.id)))


async def _update_volume(call: Call) -> Response:
    body = await call.body(bodies.UpdateVolume)
    if not body.model_fields_set:
        raise invalid("$: minProperties: got 0, want 1")
    return JSONResponse(volume_document(call.service.update_volume(call.id, body.name, body.size)))


async def _delete_volume(call: Call) -> Response:
    call.service.delete_volume(call.id)
    return Response(status_code=204)


async def _list_templates(call: Call) -> Response:
    """Only the account's own; public ones are in the catalogue, and read by their id."""
    own = [it.document() for it in call.service.account.templates.values() if it.id not in PUBLIC]
    return JSONResponse({"templates": own})


async def _create_template(call: Call) -> Response:
    made = (await call.body(bodies.CreateTemplate)).template(call.service.account.new_id())
    call.service.account.templates[made.id] = made
    call.service.save()
    return JSONResponse(made.document(), 201)


async def _get_template(call: Call) -> Response:
    found = call.service.account.templates.get(call.id)
    if found is None:
        raise Refused("not_found", "template not found")
    return JSONResponse(found.document())


async def _delete_template(call: Call) -> Response:
    if call.id in PUBLIC or call.service.account.templates.pop(call.id, None) is None:
        raise Refused("not_found", "template not found")
    call.service.save()
    return Response(status_code=204)


async def _get_ssh_keys(call: Call) -> Response:
    return JSONResponse({"keys": call.service.account.ssh_keys})


async def _put_ssh_keys(call: Call) -> Response:
    body = await call.body(bodies.UpdateSshKeys)
    call.service.account.ssh_keys = body.keys
    call.service.save()
    return JSONResponse({"keys": body.keys})


def _page(call: Call, items: list[ItemT]) -> tuple[list[ItemT], dict[str, Any]]:
    """One page in order of creation. The cursor names the last id shown, so a deletion in between skips nothing."""
    default = call.service.settings.page_size
    if default is None:
        return items, {}
    query = call.request.query_params
    limit_text = query.get("limit", str(default))
    if not limit_text.isdigit() or not 1 <= int(limit_text) <= _MOST_A_PAGE:
        raise invalid(f"limit: must be between 1 and {_MOST_A_PAGE}")
    order = list(call.service.account.pods if items and isinstance(items[0], Pod) else call.service.account.volumes)
    if cursor := query.get("cursor"):
        after = _decode_cursor(cursor)
        if after not in order and items:
            raise Problem(400, "invalid cursor")
        later = set(order[order.index(after) + 1 :]) if items else set()
        items = [item for item in items if item.id in later]
    page = items[: int(limit_text)]
    more = len(items) > len(page)
    next_cursor = base64.urlsafe_b64encode(page[-1].id.encode()).decode() if more else None
    return page, {"pagination": {"hasNextPage": more, "nextCursor": next_cursor}}


def _decode_cursor(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor.encode()).decode()
    except ValueError as error:
        raise Problem(400, "invalid cursor") from error
