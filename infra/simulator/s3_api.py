"""RunPod's S3 API of network volumes: an endpoint for each data center that has one, with keys of its own.

On the simulator's one port, `/s3/DATA-CENTER/VOLUME-ID/PATH` stands for `https://s3api-DATA-CENTER.runpod.io/…`.
"""

import asyncio
from collections.abc import Callable

from starlette.requests import Request as WebRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from infra.simulator import s3
from infra.simulator.gate import Gate, LostAnswer
from infra.simulator.loopback import Request
from infra.simulator.s3_folder import FolderObjects
from infra.simulator.service import Service
from infra.simulator.state import Refused
from pushtrain.volumes.endpoints import S3_DATA_CENTERS

_METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]
_GB = 10**9


def routes(gate: Gate) -> list[Route]:
    async def serve(request: WebRequest) -> Response:
        return await _serve(gate, request)

    return [
        Route("/s3/{data_center}/{bucket}", serve, methods=_METHODS, name="s3_bucket"),
        Route("/s3/{data_center}/{bucket}/{key:path}", serve, methods=_METHODS, name="s3_object"),
    ]


class _CutAnswer(Response):
    """Half of a body, then the connection is gone."""

    def __init__(self, whole: s3.Answer, abort: Callable[[], None]) -> None:
        super().__init__(whole.body, whole.status, dict(whole.headers))
        self._abort = abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await asyncio.sleep(0.05)
        self._abort()
        while (await receive())["type"] != "http.disconnect":
            continue


async def _serve(gate: Gate, request: WebRequest) -> Response:
    service, params = gate.service, request.path_params
    asked = Request(
        method=request.method,
        path=request.scope["raw_path"].decode(),
        query=request.url.query,
        headers={name.lower(): value for name, value in request.headers.items()},
        body=await request.body(),
    )
    subject = {"operation": f"s3_{request.method.lower()}", "volume_id": params["bucket"]}
    try:
        objects = _volume(service, asked, params["data_center"], params["bucket"])
        if service.faults.take("volume_full", **subject):
            raise s3.Refused(507, "InsufficientStorage")
        if service.faults.take("http_502", **subject):
            return Response("<html><body><h1>502 Bad Gateway</h1></body></html>", 502, media_type="text/html")
        cut = service.faults.take("transfer_cut", **subject)
        if cut and request.method != "GET":
            return LostAnswer(lambda: gate.abort(request))
        said = await asyncio.to_thread(s3.answer, asked, params["bucket"], params.get("key", ""), objects)
        if cut:
            return _CutAnswer(said, lambda: gate.abort(request))
    except s3.Refused as refused:
        said = s3.refusal(refused)
    return Response(b"" if request.method == "HEAD" else said.body, said.status, dict(said.headers))


def _volume(service: Service, asked: Request, data_center: str, volume_id: str) -> FolderObjects:
    """Raises s3.Refused: a key nobody has, a region that is another data center, a volume that is not there."""
    region = s3.check_signature(asked, service.s3_secrets)
    if data_center.upper() not in S3_DATA_CENTERS or region.upper() != data_center.upper():
        raise s3.Refused(400, "AuthorizationHeaderMalformed")
    try:
        volume = service.account.volume(volume_id)
    except Refused:
        raise s3.Refused(404, "NoSuchBucket") from None
    if volume.data_center != data_center.upper():
        raise s3.Refused(404, "NoSuchBucket")
    return FolderObjects(service.machine.volume_dir(volume_id), volume.size_gb * _GB)
