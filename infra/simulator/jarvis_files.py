"""File systems of the simulated JarvisLabs: in one region, of 50 to 2048 GB, under another number after each growth."""

from starlette.responses import JSONResponse, Response

from infra.simulator.gate import Call, json_body
from infra.simulator.jarvis_account import renumber
from infra.simulator.jarvis_gate import Refusal, host_of
from infra.simulator.jarvis_market import HOSTS, LEAST_GB, MOST_GB
from infra.simulator.service import Service
from infra.simulator.state import Refused, Volume

_NAME_CHARS = 30


class FileSystems:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def list(self, call: Call) -> Response:
        return JSONResponse(
            [
                {"fs_id": int(it.id), "fs_name": it.name, "storage": it.size_gb, "region": it.data_center}
                for it in self._service.account.live_volumes()
            ]
        )

    async def create(self, call: Call) -> Response:
        body = await json_body(call.request)
        name, size_gb = str(body.get("fs_name", "")), int(body.get("storage", 0))
        if not 0 < len(name) <= _NAME_CHARS:
            raise Refusal("Filesystem name must be 30 characters or fewer")
        _check_size(size_gb)
        if body.get("region") != HOSTS.get(host_of(call.request)):
            raise Refusal(f"region {body.get('region')} is not served here")
        volume = self._service.create_volume(name, size_gb, str(body["region"]), None)
        return JSONResponse({"fs_id": int(volume.id)})

    async def edit(self, call: Call) -> Response:
        body = await json_body(call.request)
        size_gb, volume = int(body.get("storage", 0)), self._mine(str(body.get("fs_id")), call)
        _check_size(size_gb)
        if size_gb <= volume.size_gb:
            raise Refusal("Filesystem storage can only be increased")
        self._service.update_volume(volume.id, None, size_gb)
        held = any(pod.volume_id == volume.id for pod in self._service.account.live_pods())
        return JSONResponse({"fs_id": int(volume.id if held else renumber(self._service, volume).id)})

    async def delete(self, call: Call) -> Response:
        volume = self._mine(call.request.query_params.get("fs_id", ""), call)
        try:
            self._service.delete_volume(volume.id)
        except Refused as refused:
            raise Refusal("Filesystem is attached to an instance") from refused
        return JSONResponse({"success": True})

    def _mine(self, fs_id: str, call: Call) -> Volume:
        volume = self._service.account.volumes.get(fs_id)
        if volume is None or volume.deleted or volume.data_center != HOSTS.get(host_of(call.request)):
            raise Refusal("Filesystem not found", 404)
        return volume


def _check_size(size_gb: int) -> None:
    if not LEAST_GB <= size_gb <= MOST_GB:
        raise Refusal(f"storage: must be between {LEAST_GB} and {MOST_GB}", 422)
