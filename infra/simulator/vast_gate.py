"""The envelope of Vast.ai's API: its keys, its limit on requests as plain text, and its errors."""

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.simulator.gate import Call, Gate, Handler, Problem, Reader

_CODES = {
    400: "invalid_args",
    401: "auth_error",
    402: "insufficient_credit",
    403: "forbidden",
    404: "no_such_instance",
    409: "invalid_state",
    410: "not_available",
    422: "invalid_args",
}

# Vast's search of offers takes requests without a key; with one it has to be right.
_TOLD_TO_ALL = ("list_gpus",)


class Refusal(Exception):
    """An error with a code of its own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def response(self) -> Response:
        return JSONResponse({"success": False, "error": self.code, "msg": str(self)}, self.status)


class VastGate(Gate):
    """One account of Vast.ai; faults are those of the simulator."""

    def vast_route(self, method: str, path: str, operation: str, handler: Handler, read: Reader) -> Route:
        async def served(call: Call) -> Response:
            call.render = as_vast
            try:
                if operation not in _TOLD_TO_ALL or "authorization" in call.request.headers:
                    self._authenticate(call)
                call.subject = await read(call)
                response = await self._limited(call, handler)
            except Problem as problem:
                return as_vast(problem)
            except Refusal as refusal:
                return refusal.response()
            for name in ("RateLimit", "RateLimit-Policy"):
                del response.headers[name]
            return response

        return self._route(method, path, f"vast_{operation}", served)

    def open_route(self, path: str, handler: Handler) -> Route:
        """Without a key, as what Vast puts into S3."""
        return self._route("GET", path, "vast_file", handler)


def as_vast(problem: Problem) -> Response:
    if problem.status == 429:
        seconds = float(problem.headers.get("Retry-After", "2"))
        return PlainTextResponse(f"API requests too frequent: endpoint threshold={seconds:.1f}", 429)
    if problem.status >= 500:
        return JSONResponse({"success": False, "msg": problem.detail}, problem.status)
    said = "Invalid user key" if problem.status == 401 else problem.detail
    return Refusal(problem.status, _CODES.get(problem.status, "error"), said).response()
