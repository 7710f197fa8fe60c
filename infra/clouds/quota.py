"""How many requests a cloud still takes, and how long to wait so that it never has to say 429. Pure: `now_s` is given.

RunPod alone says so. It counts by account, whoever asks, in fixed windows of a minute, an hour and a day (60, 3000 and
50000 requests in its documentation), and says with every answer what is left:

    RateLimit: "minute";r=41;t=12, "hour";r=2800;t=1812        r requests left, t seconds until the window is new
    RateLimit-Policy: "minute";q=60;w=60, "hour";q=3000;w=3600  q requests in w seconds

A tenth of every window is kept for what ends something that is billed. In a long window a client may be a tenth ahead
of an even pace; then it spreads what is left evenly, so that hours of following never run into an empty window.
Accounts that are not limited get no such headers; nothing is waited for then.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_LEFT = re.compile(r'"?(\w+)"?\s*;\s*r=(\d+)\s*;\s*t=(\d+)')
_POLICY = re.compile(r'"?(\w+)"?\s*;\s*q=(\d+)\s*;\s*w=(\d+)')
_KEPT_SHARE = _AHEAD_SHARE = 0.1
# Up to this length a window is used as it comes: its end is near enough to wait for.
_SHORT_S = 60.0


@dataclass(kw_only=True, slots=True)
class Window:
    """One of RunPod's windows; `ends_s` in the clock of the caller."""

    name: str
    quota: int
    length_s: float
    left: int
    ends_s: float

    @property
    def kept(self) -> int:
        """Requests kept for what ends something."""
        return math.ceil(self.quota * _KEPT_SHARE)


class Quota:
    """What RunPod said last, counted on by ourselves until it says more."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}
        self._sent_s = -math.inf

    def heard(self, headers: Mapping[str, str], now_s: float) -> None:
        """Take in the headers (names in lower case) of an answer."""
        policy = {name: (int(quota), float(length)) for name, quota, length in _POLICY.findall(_of(headers, "-policy"))}
        for name, left, clear_s in _LEFT.findall(_of(headers, "")):
            known = self._windows.get(name)
            quota, length_s = policy.get(name) or (
                (known.quota, known.length_s) if known else (int(left), float(clear_s))
            )
            self._windows[name] = Window(
                name=name,
                quota=max(quota, int(left)),
                length_s=max(length_s, float(clear_s), 1.0),
                left=int(left),
                ends_s=now_s + float(clear_s) + 1.0,  # whole seconds, however they were rounded
            )

    def sent(self, now_s: float) -> None:
        """Count a request that goes out now."""
        self._sent_s = now_s
        for window in self._windows.values():
            _renew(window, now_s)
            window.left = max(0, window.left - 1)

    def wait_s(self, now_s: float, *, ends_something: bool = False) -> float:
        """Seconds until the next request may go out; 0: at once."""
        waits = [self._wait_s(window, now_s, ends_something) for window in self._windows.values()]
        return max(waits, default=0.0)

    def scarce(self, now_s: float) -> str:
        """For people: the window that has the least left, with its figures."""
        scarcest = min(self._windows.values(), key=lambda window: window.left / max(1, window.quota), default=None)
        if scarcest is None:
            return "no window is known"
        clear_s = max(0.0, scarcest.ends_s - now_s)
        return f"{scarcest.left} of {scarcest.quota} requests left in this {scarcest.name}, new in {clear_s:.0f} s"

    def _wait_s(self, window: Window, now_s: float, ends_something: bool) -> float:
        _renew(window, now_s)
        clear_s = window.ends_s - now_s
        if ends_something:
            return clear_s if window.left <= 0 else 0.0
        free = window.left - window.kept
        if free <= 0:
            return clear_s
        if window.length_s <= _SHORT_S:
            return 0.0
        even = (window.quota - window.kept) * clear_s / window.length_s
        if free >= even * (1 - _AHEAD_SHARE):
            return 0.0
        return max(0.0, self._sent_s + clear_s / free - now_s)


def _renew(window: Window, now_s: float) -> None:
    if now_s >= window.ends_s:
        window.left = window.quota
        window.ends_s += window.length_s * (math.floor((now_s - window.ends_s) / window.length_s) + 1)


def _of(headers: Mapping[str, str], suffix: str) -> str:
    return headers.get(f"ratelimit{suffix}", "")
