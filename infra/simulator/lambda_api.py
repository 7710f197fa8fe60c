"""Lambda Cloud's REST API over an account of its own: instance types, instances, file systems and ssh keys.

What Lambda does not have is not here: logs, bills, a key of a machine's own, a time of launch.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator.gate import Call, json_body, rfc3339, subject_of
from infra.simulator.lambda_account import start_command
from infra.simulator.lambda_catalog import instance_type, instance_types, of_type, region
from infra.simulator.lambda_gate import LambdaGate, Refusal
from infra.simulator.service import Service
from infra.simulator.state import Pod, PodOrder, Refused, Volume

_NAME = re.compile(r"[a-zA-Z]+[0-9a-zA-Z-]*")
_FIELDS = {
    "region_name",
    "instance_type_name",
    "ssh_key_names",
    "file_system_names",
    "file_system_mounts",
    "hostname",
    "name",
    "image",
    "user_data",
    "tags",
    "firewall_rulesets",
}
_ABSENT, _INVALID = "global/object-does-not-exist", "global/invalid-parameters"


class LambdaApi:
    """`service` is the account's."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self, gate: LambdaGate) -> list[Route]:
        def route(method: str, path: str, operation: str, handler: Callable[[Call], Any]) -> Route:
            return gate.lambda_route(method, f"/api/v1/{path}", operation, handler, lambda call: self._subject(call))

        return [
            route("GET", "instance-types", "list_gpus", self._types),
            route("POST", "instance-operations/launch", "create_pod", self._launch),
            route("POST", "instance-operations/terminate", "delete_pod", self._terminate),
            route("GET", "instances", "list_pods", self._list),
            route("GET", "instances/{id}", "get_pod", self._get),
            route("GET", "file-systems", "list_volumes", self._volumes),
            route("POST", "filesystems", "create_volume", self._create_volume),
            route("DELETE", "filesystems/{id}", "delete_volume", self._delete_volume),
            route("GET", "ssh-keys", "get_ssh_keys", self._keys),
            route("POST", "ssh-keys", "put_ssh_keys", self._add_key),
            route("DELETE", "ssh-keys/{id}", "put_ssh_keys", self._remove_key),
        ]

    async def _subject(self, call: Call) -> dict[str, str]:
        target, name, gpu = str(call.request.path_params.get("id", "")), "", ""
        if call.operation in ("create_pod", "create_volume", "delete_pod"):
            body = await _object(call)
            name, sold = str(body.get("name", "")), of_type(str(body.get("instance_type_name", "")))
            gpu = sold[0] if sold else ""
            target = str((body.get("instance_ids") or [""])[0]) if call.operation == "delete_pod" else ""
        return subject_of(self._service.account, call.operation, target, name, gpu)

    async def _types(self, call: Call) -> Response:
        return _data(instance_types(self._service))

    async def _launch(self, call: Call) -> Response:
        body = await _object(call)
        try:
            pod = self._service.create_pod(self._order(body))
        except Refused as refused:
            if refused.why in ("no_capacity", "no_resources"):
                said = "Not enough capacity to fulfill launch request."
                raise Refusal("instance-operations/launch/insufficient-capacity", said) from refused
            wrong = (
                "instance-operations/launch/file-system-in-wrong-region" if "network" in refused.detail else _INVALID
            )
            raise Refusal(wrong, refused.detail) from refused
        return _data({"instance_ids": [pod.id]})

    async def _terminate(self, call: Call) -> Response:
        ids = [str(each) for each in (await _object(call)).get("instance_ids") or ()]
        found = [self._service.account.pods.get(each) for each in ids]
        if not ids or any(pod is None or not self._is_listed(pod) for pod in found):
            raise Refusal(_ABSENT, "Specified instance does not exist.", 404)
        ended = [pod for pod in found if pod is not None]
        for pod in ended:
            if pod.status != "TERMINATED":
                self._service.terminate_pod(pod.id)
        return _data({"terminated_instances": [self._document(pod) for pod in ended]})

    async def _list(self, call: Call) -> Response:
        return _data([self._document(pod) for pod in self._service.account.pods.values() if self._is_listed(pod)])

    async def _get(self, call: Call) -> Response:
        pod = self._service.account.pods.get(call.id)
        if pod is None or not self._is_listed(pod):
            raise Refusal(_ABSENT, "Specified instance does not exist.", 404)
        return _data(self._document(pod))

    async def _volumes(self, call: Call) -> Response:
        return _data([self._file_system(volume) for volume in self._service.account.live_volumes()])

    async def _create_volume(self, call: Call) -> Response:
        body, account = await _object(call), self._service.account
        name = str(body.get("name", ""))
        if set(body) != {"name", "region"} or not _NAME.fullmatch(name) or len(name) > 60:
            raise Refusal(_INVALID, "name and region, in letters, digits and hyphens")
        if any(volume.name == name for volume in account.live_volumes()):
            raise Refusal("global/duplicate", f"A filesystem named {name} exists already.")
        try:
            volume = self._service.create_volume(name, 1, str(body["region"]), None)
        except Refused as refused:
            raise Refusal(_INVALID, refused.detail) from refused
        return _data(self._file_system(volume))

    async def _delete_volume(self, call: Call) -> Response:
        if self._holders(call.id):
            raise Refusal("filesystems/filesystem-in-use", "The filesystem is in use by an instance.")
        try:
            self._service.delete_volume(call.id)
        except Refused as refused:
            if refused.why == "in_use":
                raise Refusal("filesystems/filesystem-in-use", refused.detail) from refused
            raise Refusal(_ABSENT, "Filesystem was not found.", 404) from refused
        return _data({"deleted_ids": [call.id]})

    async def _keys(self, call: Call) -> Response:
        return _data([json.loads(each) for each in self._service.account.ssh_keys])

    async def _add_key(self, call: Call) -> Response:
        body, keys = await _object(call), self._service.account.ssh_keys
        name, public_key = str(body.get("name", "")), body.get("public_key")
        if any(json.loads(each)["name"] == name for each in keys):
            raise Refusal("global/duplicate", f"An ssh key named {name} exists already.")
        if not name or (public_key is not None and not str(public_key).startswith(("ssh-", "ecdsa-", "sk-"))):
            raise Refusal(_INVALID, "a name and a public key")
        found = {"id": self._service.account.new_id(), "name": name, "public_key": public_key or "ssh-rsa AAAAmade"}
        keys.append(json.dumps(found))
        self._service.save()
        # A pair that Lambda makes: this is the only time it shows the private half.
        return _data(found if public_key else {**found, "private_key": "-----BEGIN simulated PRIVATE KEY-----"})

    async def _remove_key(self, call: Call) -> Response:
        keys = self._service.account.ssh_keys
        if not any(json.loads(each)["id"] == call.id for each in keys):
            raise Refusal(_ABSENT, "SSH key was not found.", 404)
        keys[:] = [each for each in keys if json.loads(each)["id"] != call.id]
        self._service.save()
        return _data({})

    def _order(self, body: dict[str, Any]) -> PodOrder:
        """Raises Refusal for what Lambda would not take."""
        known = {json.loads(each)["name"] for each in self._service.account.ssh_keys}
        keys, sold = body.get("ssh_key_names"), of_type(str(body.get("instance_type_name", "")))
        user_data, name = str(body.get("user_data", "")), str(body.get("name", ""))
        if not isinstance(keys, list) or len(keys) != 1:
            raise Refusal(_INVALID, "exactly one SSH key must be specified")
        if set(body) - _FIELDS or len(name) > 64 or len(user_data) > 1_000_000 or sold is None:
            raise Refusal(_INVALID, "Invalid request data.")
        if keys[0] not in known:
            raise Refusal(_ABSENT, f"SSH key {keys[0]} does not exist.", 404)
        mounts = body.get("file_system_mounts") or [{}]
        tags = {str(tag["key"]): str(tag["value"]) for tag in body.get("tags") or ()}
        return PodOrder(
            name=name,
            image="lambda-stack",
            gpu=sold[0],
            gpu_count=sold[1],
            disk_gb=0,  # in the price of the machine
            args=start_command(),
            env={"USER_DATA": user_data, "TAGS": json.dumps(tags)},
            ports=["22/tcp"] if " -p 22:22 " in user_data or "22" in tags.get("pushtrain-ports", "").split("-") else [],
            data_centers=(str(body.get("region_name")),),
            volume_id=mounts[0].get("file_system_id"),
            mount_path=mounts[0].get("mount_point"),
        )

    def _is_listed(self, pod: Pod) -> bool:
        """A terminated instance is listed until nothing of it runs any more."""
        return pod.status != "TERMINATED" or self._service.machine.has_disk(pod.id)

    def _holders(self, volume_id: str) -> list[Pod]:
        pods = self._service.account.pods.values()
        return [pod for pod in pods if pod.volume_id == volume_id and self._is_listed(pod)]

    def _document(self, pod: Pod) -> dict[str, Any]:
        ended, running = pod.status == "TERMINATED", self._service.running(pod)
        volume = self._service.account.volumes.get(pod.volume_id or "")
        found = {
            "id": pod.id,
            "name": pod.name,
            "status": "terminating" if ended else "active" if running else "booting",
            "ssh_key_names": ["pushtrain"],
            "file_system_names": [volume.name] if volume else [],
            "region": region(pod.data_center),
            "instance_type": instance_type(pod.gpu, pod.gpu_count, pod.usd_per_gpu_hour),
            "actions": {"terminate": {"available": not ended}},
            "tags": [{"key": key, "value": value} for key, value in json.loads(pod.env["TAGS"]).items()],
        }
        if running:
            found |= {"ip": "127.0.0.1", "private_ip": "10.0.0.2", "hostname": "127-0-0-1", "jupyter_token": "hidden"}
        if volume:
            found["file_system_mounts"] = [{"mount_point": pod.mount_path, "file_system_id": volume.id}]
        return found

    def _file_system(self, volume: Volume) -> dict[str, Any]:
        return {
            "id": volume.id,
            "name": volume.name,
            "mount_point": f"/lambda/nfs/{volume.name}",
            "created": rfc3339(volume.spans[0].start),
            "created_by": {"id": "1", "email": "simulator@example.invalid", "status": "active"},
            "is_in_use": bool(self._holders(volume.id)),
            "region": region(volume.data_center),
            "bytes_used": 0,
        }


async def _object(call: Call) -> dict[str, Any]:
    body = await json_body(call.request)
    if not isinstance(body, dict):
        raise Refusal(_INVALID, "Invalid request data.")
    return body


def _data(data: Any) -> Response:
    return JSONResponse({"data": data})
