"""The envelope of Lambda Cloud's API: its key, and its errors."""

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator.gate import Call, Gate, Handler, Problem, Reader

_CODES = {
    400: "global/invalid-parameters",
    401: "global/invalid-api-key",
    402: "global/account-inactive",
    403: "global/forbidden",
    404: "global/object-does-not-exist",
    429: "global/too-many-requests",
}
_SAID = {401: "API key was invalid, expired, or deleted.", 402: "Your account is inactive."}


class Refusal(Exception):
    """An error with a code of its own."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def response(self) -> Response:
        body = {"code": self.code, "message": str(self), "suggestion": "See the API reference."}
        return JSONResponse({"error": body}, self.status)


class LambdaGate(Gate):
    """One account of Lambda Cloud; faults are those of the simulator."""

    def lambda_route(self, method: str, path: str, operation: str, handler: Handler, read: Reader) -> Route:
        async def served(call: Call) -> Response:
            call.render, call.operation = as_lambda, operation
            try:
                self._authenticate(call)
                call.subject = await read(call)
                response = await self._limited(call, handler)
            except Problem as problem:
                return as_lambda(problem)
            except Refusal as refusal:
                return refusal.response()
            for name in ("RateLimit", "RateLimit-Policy"):
                del response.headers[name]
            return response

        return self._route(method, path, f"lambda_{operation}", served)


def as_lambda(problem: Problem) -> Response:
    """402 is not Lambda's: an account that does not pay is inactive, 403."""
    status = 403 if problem.status == 402 else problem.status
    code = "global/internal-error" if status >= 500 else _CODES.get(problem.status, "global/invalid-parameters")
    return Refusal(code, _SAID.get(problem.status, problem.detail), status).response()
