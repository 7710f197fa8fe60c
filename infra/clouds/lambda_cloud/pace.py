"""How often Lambda may be asked: about once a second, and one launch in ten to twelve (SkyPilot's client; Lambda's
pages do not say it). Kept on our side, because who meets the limit after a launch has a machine nobody looks after
(skypilot-org/skypilot#2261). Pure: the clock's time is an argument.
"""

import math
from dataclasses import dataclass, field

from infra.clouds.wire import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class LambdaLimits(Limits):
    """Besides, the seconds between two requests, and between two launches."""

    request_s: float = 1.0
    launch_s: float = 12.0


@dataclass(kw_only=True, slots=True)
class Pace:
    """One client's. Several clients of one account meet the limit all the same, and wait then."""

    request_s: float
    launch_s: float
    _asked_s: float = field(default=-math.inf, init=False)
    _launched_s: float = field(default=-math.inf, init=False)

    def wait_s(self, now_s: float, *, launch: bool = False) -> float:
        """Seconds until the next request may be sent, and counts it as sent then."""
        earliest = self._asked_s + self.request_s
        if launch:
            earliest = max(earliest, self._launched_s + self.launch_s)
        at = max(now_s, earliest)
        self._asked_s = at
        if launch:
            self._launched_s = at
        return at - now_s
