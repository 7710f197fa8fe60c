"""Which clock counts. A deadline is made of this machine's time and enforced by others; the bill goes by the cloud's.

A laptop that slept, or a machine without a time server, would make deadlines hours late, or end healthy pods.
"""

import time
from collections.abc import Callable

from pushtrain.pod.terminate import cloud_epoch_s
from pushtrain.pod.watchdog import TOLERATED_SKEW_S

PATIENCE_S = 5.0
ASK_AGAIN_S = 60.0
Ask = Callable[[str, float], float | None]


class CloudClock:
    """Epoch seconds of `local`, or where it is off the clock of the API at `base_url`, of that.

    One request without a key, at the first reading; while the API does not answer, another one a minute: nothing can be
    rented meanwhile, and the first answer corrects what comes after it. `ask` gives the time there, None for no answer.
    """

    def __init__(
        self,
        base_url: str,
        say: Callable[[str], None],
        *,
        local: Callable[[], float] = time.time,
        ask: Ask = cloud_epoch_s,
    ) -> None:
        self._base_url, self._say, self._local, self._ask = base_url, say, local, ask
        self._off_s: float | None = None
        self._ask_at_s = local()

    def __call__(self) -> float:
        now_s = self._local()
        if self._off_s is None and now_s >= self._ask_at_s:
            self._compare()
            now_s = self._local()
        return now_s - (self._off_s or 0.0)

    def _compare(self) -> None:
        there_s, here_s = self._ask(self._base_url, PATIENCE_S), self._local()
        self._ask_at_s = here_s + ASK_AGAIN_S
        if there_s is None:
            return
        off_s = here_s - there_s
        self._off_s = off_s if abs(off_s) > TOLERATED_SKEW_S else 0.0
        if self._off_s:
            where = "ahead of" if off_s > 0 else "behind"
            self._say(f"this machine's clock is {abs(off_s):.0f} s {where} the cloud's, which counts")
