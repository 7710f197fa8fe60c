"""The envelope of JarvisLabs' API: one key for all its hosts, and errors of which many come inside an HTTP 200."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator.gate import Call, Gate, Handler, Problem, Reader

BALANCE = "Insufficient balance: please recharge your account"


class Refusal(Exception):
    """An error with a text of its own; `status` 200: inside an answer that looks like any other."""

    def __init__(self, said: str, status: int = 200) -> None:
        super().__init__(said)
        self.status = status

    def response(self) -> Response:
        if self.status != 200:
            return JSONResponse({"detail": str(self)}, self.status)
        return JSONResponse({"success": False, "message": str(self)})


class JarvisGate(Gate):
    """One account of JarvisLabs; faults are those of the simulator."""

    def jarvis_route(self, method: str, path: str, operation: str, handler: Handler, read: Reader) -> Route:
        async def served(call: Call) -> Response:
            call.render = as_jarvis
            try:
                self._authenticate(call)
                call.subject = await read(call)
                response = await self._limited(call, handler)
            except Problem as problem:
                return as_jarvis(problem)
            except Refusal as refusal:
                return refusal.response()
            for name in ("RateLimit", "RateLimit-Policy"):
                del response.headers[name]
            return response

        return self._route(method, f"/jarvislabs/{{host}}{path}", f"jarvis_{operation}", served)


def host_of(request: Request) -> str:
    return str(request.path_params["host"])


def as_jarvis(problem: Problem) -> Response:
    """A fault of the server answers 200 with the flag as some of its endpoints spell it."""
    if problem.status >= 500:
        return JSONResponse({"sucess": False, "error": problem.detail})
    if problem.status == 402:
        return Refusal(BALANCE, 403).response()
    if problem.status == 401:
        return Refusal("Invalid token", 401).response()
    response = Refusal(problem.detail, problem.status if problem.status != 409 else 200).response()
    response.headers.update(problem.headers)
    return response
