"""Which port here leads to which on the pod, as a person writes it: `6006` or `8000:80`. Nearly pure."""

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pushtrain.errors import SshError, UsageError

_FORWARD = re.compile(r"(?:(?P<here>\d{1,5}):)?(?P<there>\d{1,5})")
_NEXT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """Port `here` on 127.0.0.1 leads to port `there` of the pod's own 127.0.0.1."""

    here: int
    there: int
    is_exact: bool

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.here}"

    @property
    def option(self) -> tuple[str, str]:
        return "-L", f"127.0.0.1:{self.here}:127.0.0.1:{self.there}"


def read_forwards(texts: Sequence[str]) -> list[Forward]:
    """Raises UsageError (BadPort) for what is no port, and for one that is named twice."""
    found = []
    for text in texts:
        match = _FORWARD.fullmatch(text)
        here, there = (int(match["here"] or match["there"]), int(match["there"])) if match else (0, 0)
        if not (0 < here < 65536 and 0 < there < 65536):
            raise UsageError(f"{text!r} is no port", hint="6006, or 8000:80 for port 80 there", reason="BadPort")
        found.append(Forward(here=here, there=there, is_exact=bool(match and match["here"])))
    if len({it.here for it in found}) < len(found):
        raise UsageError("a port here is named twice", hint="name another one: 8001:8000", reason="BadPort")
    return found


def settle(forwards: Sequence[Forward], is_free: Callable[[int], bool], say: Callable[[str], None]) -> list[Forward]:
    """Each forward with a port that is free here: the next one for `6006`; `6006:6006` means that very port.

    Raises SshError (PortTaken).
    """
    settled: list[Forward] = []
    for forward in forwards:
        taken = {it.here for it in settled} | {it.here for it in forwards if it is not forward}
        if is_free(forward.here):
            settled.append(forward)
            continue
        candidates = range(forward.here + 1, min(forward.here + _NEXT, 65536))
        other = next((port for port in candidates if port not in taken and is_free(port)), None)
        if forward.is_exact or other is None:
            raise SshError(
                f"port {forward.here} is taken on this machine",
                hint=f"name another one: pushtrain tunnel RUN {forward.here + 1}:{forward.there}",
                reason="PortTaken",
            )
        say(f"port {forward.here} is taken here: {other} instead")
        settled.append(Forward(here=other, there=forward.there, is_exact=True))
    return settled


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
