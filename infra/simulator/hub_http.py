"""One shape for every Hub endpoint: a function from a call to an answer; refusals are worded as the Hub words them."""

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from infra.simulator.hub_access import HubUser, Kind, RepoId
from infra.simulator.hub_commit import Refused
from infra.simulator.hub_store import HubStore
from pushtrain.redact import redact

MAX_BODY_BYTES = 16 * 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request whose token is known to be good. `body` is empty for endpoints that read `chunks`."""

    store: HubStore
    request: Request
    user: HubUser | None
    kind: Kind | None
    chunks: AsyncIterator[bytes]
    body: bytes = b""

    @property
    def base_url(self) -> str:
        return str(self.request.base_url).rstrip("/")

    @property
    def repo_id(self) -> RepoId:
        params = self.request.path_params
        return RepoId(self.kind or cast(Kind, params["kind"]), params["namespace"], params["name"])

    @property
    def revision(self) -> str:
        return str(self.request.path_params.get("revision", "main"))

    def refuse_pull_request(self) -> None:
        if self.request.query_params.get("create_pr"):
            raise Refused(400, "Pull requests are not served here; commit to a branch.")

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            raise Refused(400, "The body is not JSON.") from None
        if not isinstance(value, dict):
            raise Refused(400, "The body is not a JSON object.")
        return value

    def revision_and_path(self) -> tuple[str, str]:
        """`{rest}` of the route. Branches may hold slashes: only the undecoded URL tells where they end."""
        before = self.request.scope["path"].removesuffix(self.request.path_params["rest"])
        rest = self.request.scope["raw_path"].decode("ascii").split("/", before.count("/"))[-1]
        revision, _, path = rest.partition("/")
        return unquote(revision), unquote(path)


Handler = Callable[[Call], Response] | Callable[[Call], Awaitable[Response]]


def endpoint(store: HubStore, handler: Handler, kind: Kind | None) -> Callable[[Request], Awaitable[Response]]:
    """`handler` as a Starlette endpoint for repositories of one kind, or of the kind its path names.

    A coroutine function reads the chunks of the body itself; others get the whole body and run in a thread.
    """

    async def answer(request: Request) -> Response:
        chunks = request.stream()
        try:
            try:
                return await served(request, chunks)
            except Refused as refused:
                # A client that is still sending would see a broken connection instead of this answer.
                async for _ in chunks:
                    continue
                return refusal(refused)
        except ClientDisconnect:
            return Response(status_code=400)

    async def served(request: Request, chunks: AsyncIterator[bytes]) -> Response:
        if store.take_fault("hub_down"):
            raise Refused(503, "Service Unavailable")
        call = Call(store=store, request=request, user=store.user(_token(request)), kind=kind, chunks=chunks)
        if inspect.iscoroutinefunction(handler):
            return cast(Response, await handler(call))
        call = replace(call, body=await _whole(chunks))
        return await run_in_threadpool(cast(Callable[[Call], Response], handler), call)

    return answer


def refusal(refused: Refused, headers: dict[str, str] | None = None) -> Response:
    """The Hub's error answer: the message in the body and in a header, because a HEAD has no body."""
    message = redact(str(refused))
    headers = {"X-Error-Message": message.encode("ascii", "replace").decode().replace("\n", " "), **(headers or {})}
    if refused.code is not None:
        headers["X-Error-Code"] = refused.code
    return JSONResponse({"error": message}, status_code=refused.status, headers=headers)


def field(value: Any, name: str, kind: type[T]) -> T:
    """`value[name]` when it is of that type. Raises Refused 400 otherwise."""
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise Refused(400, f"{name!r} is missing or not of type {kind.__name__}.")
    return found


class CutConnection(Response):
    """Begins an answer and never ends it: the server then closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b" ", "more_body": True})


def _token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
    return bytes(body)
