"""Modal's SDK behind one door: imported when it is first used, every call with a deadline, errors sorted.

The SDK is asynchronous inside. Here it runs on a loop of its own in a thread of its own, so that a call can be given
up when its time is over, whoever calls and whatever loop runs there. No error text holds a token or a secret.
"""

import asyncio
import concurrent.futures
import contextlib
import importlib
import re
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from infra.clouds.address import check_address
from infra.clouds.answers import SAID_MAX
from infra.clouds.modal.answers import Said, failure, why
from infra.clouds.wire import Limits
from pushtrain.capabilities import MODAL
from pushtrain.errors import CloudAuthFailed, CloudUnavailable, RequestRejected
from pushtrain.redact import redact

T = TypeVar("T")
Work = Callable[[Any, Any], Awaitable[T]]
"""(the module `modal`, an open client) → what is awaited."""

TOKEN_ID, TOKEN_SECRET = "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"
PUBLIC_URL = "https://api.modal.com"
# The SDK's own default: where the first one cannot be reached, the second is taken.
_PUBLIC_URLS = f"{PUBLIC_URL},https://api.modal2.com"
# Beyond a call's own deadline: what the SDK needs to end a create that nobody waits for any more.
_AFTER_S = 30.0
_CLOSING_S = 10.0


class ModalSdk:
    """One workspace. `close` when done, or let it go out of scope. Nothing is imported, and no thread begins, before
    the first call. `clock` only ever goes forward, in seconds."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, token_id: str, token_secret: str, server_url: str, limits: Limits) -> None:
        """Raises CloudAuthFailed for a token no header can carry, RequestRejected for a URL that would expose it."""
        for name, value in ((TOKEN_ID, token_id), (TOKEN_SECRET, token_secret)):
            if not re.fullmatch(r"[\x21-\x7e]+", value):
                raise CloudAuthFailed(
                    f"{name} is empty or has characters no token has", hint=f"set {name} to the token alone"
                )
        self._credentials, self._url = (token_id, token_secret), _checked(server_url)
        self.limits = limits
        self._secrets: set[str] = {token_id, token_secret}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._clients: list[Any] = []

    def close(self) -> None:
        with self._starting:
            loop, self._loop, clients, self._clients = self._loop, None, self._clients, []
        if loop is not None:
            self._ending.detach()
            asyncio.run_coroutine_threadsafe(_closed(clients), loop).result(_AFTER_S)
            loop.call_soon_threadsafe(loop.stop)

    def keep_secret(self, values: Iterable[str]) -> None:
        self._secrets |= set(values)

    def clean(self, text: str) -> str:
        return redact(text, extra=self._secrets)

    def ask(self, doing: str, work: Work[T], limit_s: float | None = None) -> T:
        """Raises CloudError."""
        try:
            return self.attempt(work, limit_s)
        except Said as said:
            raise failure(said, doing) from None

    def attempt(self, work: Work[T], limit_s: float | None = None) -> T:
        """What `work` returns. Raises Said for a refusal and for no answer within `limit_s`, RequestRejected where the
        SDK is not installed. A call that is interrupted here is cancelled there."""
        limit_s = self.limits.read_s if limit_s is None else limit_s
        future = asyncio.run_coroutine_threadsafe(self._bounded(work, limit_s), self._running())
        try:
            return future.result(limit_s + self.limits.connect_s + _AFTER_S)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise CloudUnavailable("Modal's SDK does not come back", hint="run the same command again") from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    def refusal(self, error: BaseException) -> Said:
        """What an error of the SDK says, sorted, without tokens and secrets."""
        text = self.clean(" ".join(str(error).split()))[:SAID_MAX]
        return Said(why(error), f"{type(error).__name__}: {text}")

    async def _bounded(self, work: Work[T], limit_s: float) -> T:
        modal = _imported("modal")
        expected = (modal.exception.Error, OSError, *_of_the_wire())
        try:
            return await asyncio.wait_for(self._done(modal, work), limit_s)
        except TimeoutError:
            raise Said("late", f"no answer in {limit_s:g} s") from None
        except expected as error:
            raise self.refusal(error) from None

    async def _done(self, modal: Any, work: Work[T]) -> T:
        """Connecting is part of the first call."""
        if not self._clients:
            proto = _imported("modal_proto.api_pb2")
            client = _imported("modal.client").Client(self._url, proto.CLIENT_TYPE_CLIENT, self._credentials)
            await client.__aenter__()
            self._clients.append(client)
        return await work(modal, self._clients[0])

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name="modal", daemon=True).start()
                self._ending = weakref.finalize(self, _forgotten, self._loop, self._clients)
                self._ending.atexit = False
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


async def _closed(clients: list[Any]) -> None:
    for client in clients:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.__aexit__(None, None, None), _CLOSING_S)


def _forgotten(loop: asyncio.AbstractEventLoop, clients: list[Any]) -> None:
    """Nobody holds it any more: its connection and its thread end by themselves."""
    if not loop.is_closed():
        ending = asyncio.run_coroutine_threadsafe(_closed(clients), loop)
        # It may be done by now: then this runs here, and a loop that waits has to be woken.
        ending.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))


def _of_the_wire() -> tuple[type[Exception], ...]:
    """What a stream of the SDK may raise past its own classes."""
    return (_imported("grpclib.exceptions").StreamTerminatedError,)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RequestRejected(
            f"compute.cloud modal needs Modal's own SDK, which is not installed ({error.name})",
            hint="install pushtrain with its extra `modal`, for example: uv sync --extra modal",
        ) from None


def _checked(server_url: str) -> str:
    """Raises RequestRejected for every URL over which the token would travel in clear text."""
    for url in server_url.split(","):
        check_address(url.strip(), MODAL)
    return _PUBLIC_URLS if server_url.rstrip("/") == PUBLIC_URL else server_url
