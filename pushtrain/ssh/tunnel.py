"""Ports of a run's pod on this machine, for as long as the run has pods: what breaks is made again."""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from pushtrain.errors import SshError
from pushtrain.ssh.client import SshFiles, ssh_argv
from pushtrain.ssh.endpoint import Endpoint
from pushtrain.ssh.forwards import Forward
from pushtrain.ssh.session import Line

_LOOK_S, _ASK_SOON_S, _ASK_EVERY_S, _ASK_S = 0.25, 0.5, 2.0, 2.0
# A machine that slept has lost its connections without a word; asking costs nothing, waiting a minute does.
_SLEPT_S = 20.0
_QUIET_S = 10.0
# A client that ends at once, again and again, will not stop doing so.
_AT_ONCE_S, _MOST_AT_ONCE = 3.0, 5
NEXT_POD_S = 3600.0
# Noticed within 15 s: the address of a lost pod answers nobody. Quiet, because every question to a port on which nobody
# listens would be a line of ssh's.
_OPTIONS = ("-N", "-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=ERROR")
_OPTIONS_ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


def ask(url: str) -> str:
    """What answers at a URL, in a word; empty while nobody does."""
    try:
        answer = httpx.get(url, timeout=_ASK_S, trust_env=False, follow_redirects=False)
    except (httpx.RemoteProtocolError, httpx.DecodingError) as odd:
        return "but not by HTTP" if "disconnected without" not in str(odd) else ""
    except httpx.HTTPError:
        return ""
    # RunPod's proxy says so for a pod on which nobody listens.
    return "" if answer.status_code in (502, 503, 504) else f"HTTP {answer.status_code}"


@dataclass(kw_only=True)
class Tunnel:
    """One tunnel and what it has said so far. `open_url` is called with the first URL that answers; `is_over` says
    when a person has had enough. `ask` is what asks a URL, `wall` the clock that goes on while a machine sleeps."""

    line: Line
    name: str
    forwards: Sequence[Forward]
    open_url: Callable[[str], object] = lambda url: None
    is_over: Callable[[], bool] = lambda: False
    ask: Callable[[str], str] = ask
    wall: Callable[[], float] = time.time
    answered: set[str] = field(default_factory=set)
    connected: int = 0

    def hold(self, *, wait_s: float) -> None:
        """Returns when the run is over, or `is_over`. Raises SshError: what `reach` raises the first time, and
        TunnelFailed when ssh ends at once again and again."""
        at_once = 0
        while not self.is_over():
            try:
                found, files = self.line.reach(
                    self.name, wait_s=NEXT_POD_S if self.connected else wait_s, through_gaps=self.connected > 0
                )
            except SshError as end:
                if self.connected and end.reason == "RunOver":
                    self.line.seams.say(str(end))
                    return
                raise
            lived_s = self._once(found, files)
            at_once = at_once + 1 if lived_s < _AT_ONCE_S else 0
            if at_once == _MOST_AT_ONCE:
                raise SshError("the tunnel breaks at once", hint="ssh's own words are above", reason="TunnelFailed")
            if not self.is_over():
                self.line.seams.say("the tunnel broke; making it again")

    def _once(self, found: Endpoint, files: SshFiles) -> float:
        """One connection to its end; how many seconds it lived."""
        options = [*_OPTIONS, *_OPTIONS_ALIVE, *(part for forward in self.forwards for part in forward.option)]
        client = subprocess.Popen(ssh_argv(found, files, options=options), stdin=subprocess.DEVNULL)
        began_s = self.line.seams.clock()
        try:
            self._watch(client, found, began_s)
        finally:
            client.terminate()
            client.wait()
        return self.line.seams.clock() - began_s

    def _watch(self, client: "subprocess.Popen[bytes]", found: Endpoint, began_s: float) -> None:
        clock, seams = self.line.seams.clock, self.line.seams
        self.connected += 1
        self.answered.clear()
        last_s, next_ask_s, complained = self.wall(), began_s, False
        while client.poll() is None and not self.is_over():
            if clock() >= next_ask_s:
                self._ask_all(found)
                next_ask_s = clock() + (_ASK_SOON_S if clock() - began_s < _QUIET_S else _ASK_EVERY_S)
            silent = [it.there for it in self.forwards if it.url not in self.answered]
            if silent and not complained and clock() - began_s > _QUIET_S:
                complained = True
                ports = ", ".join(map(str, silent))
                seams.say(f"nothing listens on port {ports} of the pod yet; it is asked until something does")
            seams.sleep(_LOOK_S)
            now_s = self.wall()
            if now_s - last_s > _SLEPT_S:
                seams.say("this machine slept; the tunnel is made again")
                return
            last_s = now_s

    def _ask_all(self, found: Endpoint) -> None:
        public = {int(port.partition("/")[0]): url for port, url in found.urls}
        for forward in self.forwards:
            self._tell(forward.url, f"port {forward.there} of {found.run_id}")
            if forward.there in public and public[forward.there] != forward.url:
                self._tell(public[forward.there], "public, for everybody who knows it: no password")

    def _tell(self, url: str, what: str) -> None:
        if url in self.answered or not (said := self.ask(url)):
            return
        is_first = not self.answered
        self.answered.add(url)
        self.line.seams.say(f"{url} answers ({said}): {what}")
        if is_first:
            self.open_url(url)
