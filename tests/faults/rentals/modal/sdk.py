"""The door to Modal's SDK in virtual time: what the client hands over is carried out at once, on the process's own
stack, within the deadline of the call."""

from typing import Any, TypeVar

import httpx

from infra.clouds.modal.answers import Said
from infra.clouds.modal.sdk import ModalSdk, Work
from pushtrain.errors import CloudUnavailable

from ..rental import ACCOUNT_KEY, BASE_URL, LIMITS, Seams
from . import module
from .api import PATH
from .module import STATUSES, TRANSIENT, Hanging, Late

T = TypeVar("T")
# The SDK's own: three more tries of what got no answer.
_PAUSES_S = (0.1, 0.2, 0.4)


class VirtualSdk(ModalSdk):
    """`ModalSdk` without a thread, a loop and a connection."""

    def __init__(self, seams: Seams) -> None:
        super().__init__("ak-of-the-proof", ACCOUNT_KEY, BASE_URL, LIMITS)
        self.clock = seams.clock
        self._calls = _Calls(seams)
        self._module = module.package(self._calls)

    def close(self) -> None:
        """There is nothing open."""

    def attempt(self, work: Work[T], limit_s: float | None = None) -> T:
        limit_s = self.limits.read_s if limit_s is None else limit_s
        self._calls.allow(limit_s)
        running: Any = work(self._module, None)
        try:
            running.send(None)
        except StopIteration as done:
            value: T = done.value
            return value
        except Hanging:
            raise CloudUnavailable("Modal's SDK does not come back", hint="run the same command again") from None
        except Late:
            raise Said("late", f"no answer in {limit_s:g} s") from None
        except module.Error as error:
            raise self.refusal(error) from None
        raise AssertionError("it waits for something that is not there")


class _Calls:
    """One client: each call with the SDK's own patience, over the process's wire."""

    def __init__(self, seams: Seams) -> None:
        self._process, self._clock, self._wire = seams.process, seams.clock, seams.transport
        self._until = 0.0

    def allow(self, seconds: float) -> None:
        self._until = self._clock() + seconds

    def wait(self, seconds: float) -> None:
        self._process.sleep(min(seconds, max(0.0, self._until - self._clock())))
        if self._clock() >= self._until:
            raise Late

    def __call__(self, name: str, /, *, writes: bool = False, query: Any = None, **said: Any) -> Any:
        pauses = iter(_PAUSES_S)
        while True:
            try:
                answer = self._sent(name, writes, query, said)
                if answer.status_code == 200:
                    return answer.json()
                if answer.status_code == 429:
                    self.wait(max(0.1, float(answer.headers["retry-after"])))
                    continue
                raise STATUSES[answer.status_code](_text(answer))
            except TRANSIENT:
                if (pause := next(pauses, None)) is None:
                    raise
            self.wait(pause)

    def _sent(self, name: str, writes: bool, query: Any, said: Any) -> httpx.Response:
        if (left_s := self._until - self._clock()) <= 0:
            raise Late
        request = httpx.Request(
            "POST" if writes else "GET",
            f"{BASE_URL}{PATH}/{name}",
            params=query,
            json={**said, "sent_s": self._clock()},
            headers={"Authorization": f"Bearer {ACCOUNT_KEY}", "User-Agent": "modal-client"},
            extensions={"timeout": {"read": left_s}},
        )
        try:
            return self._wire.handle_request(request)
        except httpx.ReadTimeout:
            raise Late from None
        except httpx.ConnectError as error:
            raise module.ConnectionError(str(error)) from None
        except httpx.RemoteProtocolError as error:
            raise module.StreamTerminatedError(str(error)) from None


def _text(answer: httpx.Response) -> str:
    return str(answer.json()["said"]) if answer.headers.get("content-type") == "application/json" else "Bad gateway."
