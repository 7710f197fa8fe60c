"""The hosts of JarvisLabs' API: one for each region, and one that reads the whole account."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx

from infra.clouds.answers import Answer
from infra.clouds.jarvis.answers import SPEAKS
from infra.clouds.jarvis.names import HOME, HOSTS
from infra.clouds.wire import Call, Limits, Wire


class Hosts:
    """One `Wire` a host, with one key; closes them all."""

    def __init__(
        self,
        api_key: str,
        url: str,
        *,
        limits: Limits,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """In `url`, that of the account's host, the others' names take its place. Raises as `Wire` does."""
        self.limits, self.sleep, self.clock = limits, sleep, clock
        made: dict[str, Wire] = {}
        for host in HOSTS.values():
            base_url = url.replace(HOSTS[HOME], host)
            if base_url not in made:
                made[base_url] = Wire(
                    api_key, base_url, limits=limits, sleep=sleep, clock=clock, transport=transport, speaks=SPEAKS
                )
        self._wires = {region: made[url.replace(HOSTS[HOME], host)] for region, host in HOSTS.items()}

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()

    def keep_secret(self, values: Iterable[str]) -> None:
        """Masked from now on in whatever any host says."""
        kept = list(values)
        for wire in self._wires.values():
            wire.keep_secret(kept)

    def ask(self, method: str, path: str, query: Mapping[str, str] | None = None) -> Answer:
        """Of the whole account; what bears repeating."""
        return self._wires[HOME].ask(method, path, query=query)

    def end(self, region: str | None, path: str, query: Mapping[str, str]) -> Answer:
        """What ends something, at its region's host; an unknown region is served by the one for the account."""
        return self._at(region).ask("POST", path, query=query, ends_something=True)

    def end_anywhere(self, path: str, query: Mapping[str, str]) -> Answer:
        """What ends something whose region nobody knows: each host is asked until one carries it out. Else the answer
        of one that has no such thing, where there is one: a host that is away is passed over."""
        answers = list[Answer]()
        for region in HOSTS:
            answers.append(self.end(region, path, query))
            if answers[-1].ok:
                return answers[-1]
        return next((answer for answer in answers if answer.absent), answers[-1])

    def send(
        self,
        method: str,
        path: str,
        *,
        region: str | None = None,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """What must not be carried out twice."""
        call = Call(
            method=method,
            path=path,
            query=query or {},
            body=body,
            headers=headers or {},
            timeout_s=timeout_s or self.limits.read_s,
            repeatable=False,
        )
        return self._at(region).send(call)

    def _at(self, region: str | None) -> Wire:
        return self._wires.get(region or HOME, self._wires[HOME])
