"""The simulated Modal's port: gRPC without TLS on loopback, the workspace's token, and the board of faults.

It listens from the start and is built when the first client comes: importing Modal's messages takes longer than most
tests want to wait for a simulator.
"""

import asyncio
import hmac
import math
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.simulator.faults import Fault, Kind
from infra.simulator.modal_account import ModalService
from infra.simulator.service import Service

if TYPE_CHECKING:
    from infra.simulator.modal_api import ModalApi

TOKEN_ID = "ak-simulator"
# The newer backend's calls speak the older one's messages.
_SPEAKS = {"SandboxGetFromNameV2": "SandboxGetFromName", "SandboxListV2": "SandboxList"}
# Calls without a message of their own on one of the two sides.
_EMPTY_REQUEST = ("WorkspaceNameLookup",)
_EMPTY_RESPONSE = ("VolumeDelete",)


def serve_when_asked(service: Service, listener: socket.socket) -> None:
    """Needs the running loop, and serves until it ends."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def first() -> None:
        loop.remove_reader(listener)
        tasks.add(loop.create_task(_serve(service, (TOKEN_ID, service.settings.api_key), listener)))

    loop.add_reader(listener, first)


async def _serve(service: Service, credentials: tuple[str, str], listener: socket.socket) -> None:
    from grpclib.encoding.proto import ProtoStatusDetailsCodec
    from grpclib.server import Server

    from infra.simulator.modal_api import ModalApi

    assert isinstance(service, ModalService)
    calls = _Calls(service, ModalApi(service), credentials)
    server = Server([calls], status_details_codec=ProtoStatusDetailsCodec())
    await server.start(sock=listener)
    try:
        await server.wait_closed()
    finally:
        server.close()


class _Calls:
    """What grpclib serves: a handler by path."""

    def __init__(self, service: Service, api: "ModalApi", credentials: tuple[str, str]) -> None:
        self._service, self._api, self._credentials = service, api, credentials

    def __mapping__(self) -> Mapping[str, Any]:
        from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
        from grpclib.const import Cardinality, Handler
        from modal_proto import api_pb2

        found = {}
        for name in self._api.handlers:
            said = _SPEAKS.get(name, name)
            asked = Empty if name in _EMPTY_REQUEST else getattr(api_pb2, f"{said}Request")
            answered = Empty if name in _EMPTY_RESPONSE else getattr(api_pb2, f"{said}Response")
            found[f"/modal.client.ModalClient/{name}"] = Handler(
                self._handler(name, Empty), Cardinality.UNARY_UNARY, asked, answered
            )
        return found

    def _handler(self, name: str, empty: Any) -> Any:
        async def handle(stream: Any) -> None:
            request = await stream.recv_message()
            subject = self._subject(name, request)
            self._check(stream.metadata, subject)
            if slow := self._take("slow", subject):
                await asyncio.sleep(slow.seconds)
            answer = self._api.handlers[name](request)
            if self._take("lost_answer", subject):
                await stream.cancel()
                return
            if subject["operation"].startswith("create_") and self._take("error_after_create", subject):
                raise _refusal("INTERNAL", "Something went wrong.")
            await stream.send_message(answer if answer is not None else empty())

        return handle

    def _subject(self, name: str, request: Any) -> dict[str, str]:
        """What a call is about, in the words of faults: those of the other clouds' APIs."""
        from infra.simulator.modal_api import gpu_of

        operation = _OPERATIONS.get(name, name)
        found = {"operation": operation}
        if name == "SandboxCreate":
            found |= {"pod_name": request.definition.name, "gpu": gpu_of(request)}
        elif name.startswith("Sandbox") and hasattr(request, "sandbox_id"):
            pod = self._service.account.pods.get(request.sandbox_id)
            found |= {"pod_id": request.sandbox_id, "pod_name": pod.name if pod else "", "gpu": pod.gpu if pod else ""}
        elif name == "VolumeGetOrCreate":
            found["volume_name"] = request.deployment_name
        return found

    def _check(self, metadata: Any, subject: dict[str, str]) -> None:
        """What is answered instead, before anything happened."""
        sent = (str(metadata.get("x-modal-token-id", "")), str(metadata.get("x-modal-token-secret", "")))
        known = all(hmac.compare_digest(a.encode(), b.encode()) for a, b in zip(sent, self._credentials, strict=True))
        if not known or self._take("http_401", subject):
            raise _refusal("UNAUTHENTICATED", "Token validation failed. Check your token credentials.")
        if limit := self._take("http_429", subject):
            raise _later(limit.seconds)
        for kind, status, said in _INSTEAD:
            if self._take(kind, subject):
                raise _refusal(status, said)

    def _take(self, kind: Kind, subject: dict[str, str]) -> Fault | None:
        return self._service.faults.take(kind, **subject)


# Calls in the words of the other clouds' operations, which faults name.
_OPERATIONS = {
    "SandboxCreate": "create_pod",
    "VolumeGetOrCreate": "create_volume",
    "SandboxList": "list_pods",
    "SandboxListV2": "list_pods",
    "SandboxTerminate": "delete_pod",
    "SandboxWait": "get_pod",
    "VolumeList": "list_volumes",
    "VolumeDelete": "delete_volume",
    "SandboxGetStats": "list_billing",
    "AppFetchLogs": "get_pod_logs",
    "WorkspaceBillingRates": "list_gpus",
}
_INSTEAD: tuple[tuple[Kind, str, str], ...] = (
    ("http_402", "FAILED_PRECONDITION", "Workspace has reached its spend limit."),
    ("http_403", "PERMISSION_DENIED", "The token may not do this."),
    ("http_410", "UNIMPLEMENTED", "This version of the API has been retired."),
    ("http_500", "INTERNAL", "Something went wrong."),
    ("http_502", "UNAVAILABLE", "Bad gateway."),
)


def _refusal(status: str, said: str) -> Exception:
    from grpclib import GRPCError, Status

    return GRPCError(Status[status], said)


def _later(seconds: float) -> Exception:
    from grpclib import GRPCError, Status
    from modal_proto import api_pb2

    policy = api_pb2.RPCRetryPolicy(retry_after_secs=math.ceil(seconds))
    return GRPCError(Status.RESOURCE_EXHAUSTED, "Rate limit exceeded.", [policy])
