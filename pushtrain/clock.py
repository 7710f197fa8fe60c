"""Which clock counts. A deadline is made of this machine's time and enforced by others; the bill goes by the cloud's.

A laptop that slept, or a machine without a time server, would make deadlines hours late, or end healthy pods.
"""

import time
from collections.abc import Callable

from pushtrain.pod.terminate import cloud_epoch_s
from pushtrain.pod.watchdog import TOLERATED_SKEW_S

PATIENCE_S = 5.0


def cloud_clock(
    base_url: str, say: Callable[[str], None], *, local: Callable[[], float] = time.time
) -> Callable[[], float]:
    """`local`, or where it is off the clock of the API at `base_url`, that; one request, without a key.

    An API that does not answer, or without a date, leaves `local`.
    """
    there_s = cloud_epoch_s(base_url, PATIENCE_S)
    off_s = 0.0 if there_s is None else local() - there_s
    if abs(off_s) <= TOLERATED_SKEW_S:
        return local
    say(f"this machine's clock is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the cloud's, which counts")
    return lambda: local() - off_s
