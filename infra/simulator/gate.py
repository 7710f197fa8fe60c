"""The envelope of the REST API: who may call, how often, which fault strikes, and errors as RFC 9457 problems."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from infra.simulator.bodies import violations
from infra.simulator.faults import Kind
from infra.simulator.service import Service
from infra.simulator.state import Account, Refused, Why

BodyT = TypeVar("BodyT", bound=BaseModel)

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    410: "Gone",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
}
_STATUS: dict[Why, int] = {
    "no_capacity": 400,
    "no_resources": 400,
    "rule": 400,
    "in_use": 400,
    "not_found": 404,
    "wrong_status": 409,
}
NO_BALANCE = "Your account balance is too low to rent a pod. Please add funds to your account."


class Problem(Exception):
    def __init__(self, status: int, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors
        self.headers: dict[str, str] = {}

    def response(self) -> Response:
        body: dict[str, Any] = {"title": _TITLES[self.status], "status": self.status, "detail": self.detail}
        if self.errors:
            body["errors"] = self.errors
        return JSONResponse(body, self.status, self.headers, media_type="application/problem+json")


def invalid(*errors: str) -> Problem:
    """422: the request does not match the contract."""
    return Problem(422, "Request validation failed.", list(errors))


def rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class LostAnswer(Response):
    """Closes the connection without a byte. `transports` maps client address → transport, kept by the HTTP server."""

    def __init__(self, abort: Callable[[], None]) -> None:
        super().__init__()
        self._abort = abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._abort()
        while (await receive())["type"] != "http.disconnect":
            continue


@dataclass
class Call:
    """One authenticated request on its way through a handler. `render` makes an answer of a problem."""

    request: Request
    service: Service
    operation: str
    caller: str = "account"
    subject: dict[str, str] = field(default_factory=dict)
    render: Callable[[Problem], Response] = Problem.response

    @property
    def id(self) -> str:
        return str(self.request.path_params["id"])

    async def body(self, model: type[BodyT]) -> BodyT:
        """Raises Problem: 400 for what is no JSON, 422 with one line a violation."""
        try:
            return model.model_validate(await json_body(self.request))
        except ValidationError as error:
            raise invalid(*violations(error)) from error


Handler = Callable[[Call], Awaitable[Response]]
Reader = Callable[[Call], Awaitable[dict[str, str]]]
"""Finds out what a call is about, for the `match` of faults; may set its operation, too."""


class RateLimit:
    """Counts requests of the account by minute, hour and day, and says so in RunPod's two headers."""

    _WINDOWS = (("minute", 60), ("hour", 3600), ("day", 86400))

    def __init__(self, per_minute: int) -> None:
        self._quota = {"minute": per_minute, "hour": per_minute * 50, "day": per_minute * 800}
        self._used: dict[str, tuple[int, int]] = {}

    def count(self, now: float) -> str | None:
        """Count one request. Returns the name of the window it exceeds."""
        exceeded = None
        for name, length_s in self._WINDOWS:
            window, used = self._used.get(name, (0, 0))
            used = used + 1 if window == int(now) // length_s else 1
            self._used[name] = (int(now) // length_s, used)
            exceeded = exceeded or (name if used > self._quota[name] else None)
        return exceeded

    def retry_after_s(self, window: str, now: float) -> int:
        length_s = dict(self._WINDOWS)[window]
        return length_s - int(now) % length_s

    def headers(self, now: float) -> dict[str, str]:
        left = {name: max(0, self._quota[name] - self._used.get(name, (0, 0))[1]) for name, _ in self._WINDOWS}
        return {
            "RateLimit": ", ".join(f'"{n}";r={left[n]};t={self.retry_after_s(n, now)}' for n, _ in self._WINDOWS),
            "RateLimit-Policy": ", ".join(f'"{n}";q={self._quota[n]};w={s}' for n, s in self._WINDOWS),
        }


class Gate:
    """Wraps handlers into routes: everything an API of the account has in common."""

    def __init__(self, service: Service, transports: dict[Any, asyncio.Transport]) -> None:
        self.service = service
        self._transports = transports
        self._limit = RateLimit(service.settings.requests_per_minute)

    def route(self, method: str, path: str, operation: str, handler: Handler, read: Reader | None = None) -> Route:
        """A route of RunPod's API: behind Cloudflare, with quota and faults. `read` defaults to REST's own way."""
        read_subject = read or _rest_subject

        async def served(call: Call) -> Response:
            agent = call.request.headers.get("user-agent", "")
            if not agent or agent.startswith("Python-urllib"):
                return PlainTextResponse("error code: 1010\nerror 1010: banned browser signature\n", 403)
            self._authenticate(call)
            call.subject = await read_subject(call)
            return await self._limited(call, handler)

        return self._route(method, path, operation, served)

    def control_route(self, method: str, path: str, handler: Handler) -> Route:
        """A route of the simulator itself: with the account key, and never struck by what it controls."""

        async def served(call: Call) -> Response:
            self._authenticate(call)
            if call.caller != "account":
                raise Problem(403, "access denied")
            return await handler(call)

        return self._route(method, path, "simulator", served)

    def _route(self, method: str, path: str, operation: str, served: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return await served(Call(request, self.service, operation))
            except Problem as problem:
                return problem.response()

        return Route(path, endpoint, methods=[method], name=operation)

    def _authenticate(self, call: Call) -> None:
        scheme, _, bearer = call.request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not bearer:
            raise Problem(401, "missing bearer token")
        caller = self.service.caller(bearer.strip())
        if caller is None:
            raise Problem(401, "invalid bearer token")
        call.caller = caller

    async def _limited(self, call: Call, handler: Handler) -> Response:
        if self._fault("http_401", call):
            raise Problem(401, "invalid bearer token")
        now = self.service.clock()
        window = self._limit.count(now)
        try:
            if window is not None:
                problem = Problem(429, f"rate limit exceeded for the {window} window")
                problem.headers["Retry-After"] = str(self._limit.retry_after_s(window, now))
                raise problem
            response = await self._answered(call, handler)
        except Problem as problem:
            response = call.render(problem)
        response.headers.update(self._limit.headers(now))
        return response

    async def _answered(self, call: Call, handler: Handler) -> Response:
        if call.caller != "account" and not await _is_pods_own_end(call):
            raise Problem(403, "access denied")
        if slow := self._fault("slow", call):
            await asyncio.sleep(slow)
        if failed := self._failure(call):
            return failed
        try:
            response = await handler(call)
        except Refused as refusal:
            raise Problem(_STATUS[refusal.why], refusal.detail) from refusal
        if call.operation.startswith("create_") and self._fault("error_after_create", call):
            raise Problem(500, "Something went wrong. Please try again later or contact support.")
        if self._fault("lost_answer", call):
            return LostAnswer(lambda: self.abort(call.request))
        return response

    def _failure(self, call: Call) -> Response | None:
        """A fault that answers instead of the handler, before anything happened."""
        if seconds := self._fault("http_429", call):
            problem = Problem(429, "rate limit exceeded for the minute window")
            problem.headers["Retry-After"] = str(math.ceil(seconds))
            raise problem
        if self._fault("http_402", call):
            raise Problem(402, NO_BALANCE)
        if self._fault("http_403", call):
            raise Problem(403, "access denied")
        if self._fault("http_410", call):
            raise Problem(410, "this API version has been retired")
        if self._fault("http_500", call):
            raise Problem(500, "Something went wrong. Please try again later or contact support.")
        if self._fault("http_502", call):
            return Response("<html><body><h1>502 Bad Gateway</h1></body></html>", 502, media_type="text/html")
        return None

    def _fault(self, kind: Kind, call: Call) -> float | None:
        """Seconds of the fault that strikes now, never 0; None when none does."""
        fault = self.service.faults.take(kind, **call.subject)
        return None if fault is None else max(fault.seconds, 1e-3)

    def abort(self, request: Request) -> None:
        """Cut the client's connection off."""
        client = request.client
        transport = self._transports.get((client.host, client.port)) if client else None
        if transport is None:
            raise RuntimeError("no transport to abort: the app does not run under infra.simulator.server")
        transport.abort()


def subject_of(account: Account, operation: str, target: str = "", name: str = "", gpu: str = "") -> dict[str, str]:
    """What a call is about, for the `match` of faults: names as well as ids. `target` is an id, `name` and `gpu` what
    a create asks for."""
    subject = {"operation": operation}
    if operation.endswith("_volume"):
        volume = account.volumes.get(target)
        subject |= {"volume_id": target, "volume_name": volume.name if volume else ""}
    elif target:
        pod = account.pods.get(target)
        subject |= {"pod_id": target, "pod_name": pod.name if pod else "", "gpu": pod.gpu if pod else ""}
    if operation.startswith("create_"):
        subject |= {f"{operation.removeprefix('create_')}_name": name, "gpu": gpu}
    return subject


async def _rest_subject(call: Call) -> dict[str, str]:
    name = gpu = ""
    if call.operation.startswith("create_"):
        body = await json_body(call.request)
        if isinstance(body, dict):
            asked = body.get("gpu")
            name, gpu = str(body.get("name", "")), str(asked.get("id", "")) if isinstance(asked, dict) else ""
    target = str(call.request.path_params.get("id", ""))
    return subject_of(call.service.account, call.operation, target, name, gpu)


async def json_body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise Problem(400, "request body is not valid JSON") from error


async def _is_pods_own_end(call: Call) -> bool:
    """A pod's key may terminate its own pod and nothing else, not even read it."""
    if call.subject.get("pod_id") != call.caller:
        return False
    if call.operation == "delete_pod":
        return True
    if call.operation != "pod_action":
        return False
    body = await json_body(call.request)
    return isinstance(body, dict) and body.get("action") == "terminate"
