"""The wire to a cloud's REST API: one key, one User-Agent, a deadline on everything, bounded patience.

No error text, log or repr made here holds the key or a value sent as a secret.
"""

import json
import math
import random
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from infra.clouds.address import check_address, is_on_loopback
from infra.clouds.answers import SAID_MAX, Answer, Speaks
from infra.clouds.quota import Quota
from pushtrain import __version__
from pushtrain.errors import CloudAuthFailed
from pushtrain.redact import redact

_AGENT = f"pushtrain/{__version__}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long the client waits. Seconds; `create_s` is dstack's figure: renting hardware is slow."""

    connect_s: float = 10.0
    read_s: float = 60.0
    create_s: float = 120.0
    attempts: int = 4
    """Tries of one repeatable call, the first one included."""
    max_wait_s: float = 90.0
    """Longest single wait the cloud may ask for: RunPod's minute window fits, its hour window does not."""
    create_attempts: int = 3
    look_pauses_s: tuple[float, ...] = (1.0, 3.0, 6.0)
    """Waits before each look for a create whose answer was lost."""
    page: int = 1000
    """Items in one page of a list: the most RunPod gives, since every page is a request."""
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One request; `body` is JSON, or bytes as they are. `repeatable`: carrying it out twice is the same as once."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float
    repeatable: bool
    ends_something: bool = False
    """It ends what is billed: requests are kept for it when they run short."""


class StreamEnded(Exception):
    """A stream broke off, or never began; `answer` says how."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.said)
        self.answer = answer


class Wire:
    """Sends calls and reads answers; sorts no errors. Close it with `close`."""

    def __init__(
        self,
        api_key: str | None,
        base_url: str,
        *,
        speaks: Speaks,
        limits: Limits,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Without a key nothing is sent that names an account: for what a cloud tells everybody. Raises CloudAuthFailed
        for a key no header can carry, RequestRejected for a URL that would expose it."""
        if api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", api_key):
            raise CloudAuthFailed(
                f"the {speaks.cloud} API key is empty or has characters no key has",
                hint=f"set {speaks.can.key_name} to the key alone",
            )
        loopback = check_address(base_url, speaks.can)
        self._speaks, self._loopback = speaks, loopback
        self.limits, self.sleep, self.clock = limits, sleep, clock
        self._secrets: set[str] = {api_key} if api_key else set()
        self._quota = Quota()
        self._base_url = base_url.rstrip("/").removesuffix(speaks.path)
        self._client = httpx.Client(
            headers={"User-Agent": _AGENT} | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
            transport=transport,
            trust_env=not loopback,
            verify=_tls(),
        )

    def close(self) -> None:
        self._client.close()

    def keep_secret(self, values: Iterable[str]) -> None:
        """From now on `clean` masks these too, also as they stand inside JSON."""
        for value in values:
            self._secrets |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}

    def clean(self, text: str) -> str:
        return redact(text, extra=self._secrets)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        ends_something: bool = False,
    ) -> Answer:
        """Reads and deletes: carrying one of these out twice is the same as once."""
        return self.send(
            Call(
                method=method,
                path=path,
                query=query or {},
                body=body,
                timeout_s=self.limits.read_s,
                repeatable=True,
                ends_something=ends_something,
            )
        )

    def send(self, call: Call, attempts: int | None = None) -> Answer:
        """The answer, after `attempts` tries, or as many as the limits allow. Raises nothing."""
        answer = self._exchange(call)
        for attempt in range(1, attempts or self.limits.attempts):
            pause = self.pause_s(answer, attempt, call.repeatable)
            if pause is None:
                break
            self.sleep(pause)
            answer = self._exchange(call)
        return answer

    def pause_s(self, answer: Answer, attempt: int, repeatable: bool) -> float | None:
        """How long to wait before try `attempt` + 1; None when the answer stands."""
        backoff = min(2.0 ** (attempt - 1), 8.0) * (0.5 + self.limits.jitter())
        if answer.status == 429:
            wait = answer.retry_after_s or self._quota.wait_s(self.clock(), ends_something=True) or backoff
            return None if wait > self.limits.max_wait_s else wait + self.limits.jitter()
        if answer.ambiguous and repeatable:
            return min(max(backoff, answer.retry_after_s or 0.0), self.limits.max_wait_s)
        return None

    def stream(self, call: Call, until: float) -> Iterator[bytes]:
        """Pieces of a 2xx body, until it ends or the clock reads `until`. Raises StreamEnded for anything else.

        A server that says one thing and then nothing may hold this up to `call.timeout_s` longer: a socket's
        time-out cannot be shortened while the body is read.
        """
        answer = self._held_back(call)
        if answer is not None:
            raise StreamEnded(answer)
        try:
            with self._open(call) as response:
                if not response.is_success:
                    answer = self._answer(response, b"".join(self._pieces(response, until)))
                else:
                    yield from self._pieces(response, until)
        except httpx.RequestError as exc:
            if not (isinstance(exc, httpx.TimeoutException) and self.clock() >= until):
                answer = self._lost(exc)
        if answer is not None:
            raise StreamEnded(answer)

    def fetch(self, url: str, timeout_s: float) -> str | None:
        """What stands at a URL that the cloud named; None while nothing does. Our key is not sent there."""
        if not (url.startswith("https://") or (self._loopback and is_on_loopback(url))):
            return None
        limits = httpx.Timeout(timeout_s, connect=min(self.limits.connect_s, timeout_s)).as_dict()
        request = httpx.Request("GET", url, headers={"User-Agent": _AGENT}, extensions={"timeout": limits})
        try:
            response = self._client.send(request)
        except httpx.RequestError:
            return None
        return response.text if response.is_success else None

    def _exchange(self, call: Call) -> Answer:
        held_back = self._held_back(call)
        if held_back is not None:
            return held_back
        deadline = self.clock() + call.timeout_s
        try:
            with self._open(call) as response:
                body = b"".join(self._pieces(response, deadline))
                if self.clock() >= deadline:
                    raise httpx.ReadTimeout(f"the answer took longer than {call.timeout_s:g} s")
                return self._answer(response, body)
        except httpx.RequestError as exc:
            # Raising from here would chain httpx's exception, and with it the request, its headers and its body.
            return self._lost(exc)

    def _held_back(self, call: Call) -> Answer | None:
        """Waits until our share of the quota has room. An answer of our own, nothing sent, when that takes too long;
        what ends something is then sent all the same."""
        wait = self._quota.wait_s(self.clock(), ends_something=call.ends_something)
        if 0 < wait <= self.limits.max_wait_s:
            self.sleep(wait)
        elif wait and not call.ends_something:
            said = f"not asked, so that there is room to terminate ({self._quota.scarce(self.clock())})"
            return Answer(status=429, said=said, headers={"retry-after": str(math.ceil(wait))})
        return None

    @contextmanager
    def _open(self, call: Call) -> Iterator[httpx.Response]:
        self._quota.sent(self.clock())
        with self._client.stream(
            call.method,
            self._base_url + call.path,
            params=dict(call.query) or None,
            **({"content": call.body} if isinstance(call.body, bytes) else {"json": call.body}),
            headers=dict(call.headers),
            timeout=httpx.Timeout(call.timeout_s, connect=min(self.limits.connect_s, call.timeout_s)),
        ) as response:
            self._quota.heard(response.headers, self.clock())
            yield response

    def _pieces(self, response: httpx.Response, until: float) -> Iterator[bytes]:
        for piece in response.iter_bytes():
            yield piece
            if self.clock() >= until:
                return

    def _answer(self, response: httpx.Response, body: bytes) -> Answer:
        return self._speaks.answer(response.status_code, dict(response.headers), body, self.clean)

    def _lost(self, exc: httpx.RequestError) -> Answer:
        return Answer(status=None, said=f"no answer ({type(exc).__name__}: {self.clean(str(exc))[:SAID_MAX]})")


@cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes a tenth of a second: once a process."""
    return httpx.create_ssl_context()
