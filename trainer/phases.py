"""Where the seconds before the first step go: every one of them is billed, and none of them trains."""

import os
import time
from collections.abc import Callable
from pathlib import Path


class Phases:
    """Seconds between named moments, from the start of this process; `seconds` keeps their order.

    A name that comes again (a training that starts anew with smaller batches) is added to.
    """

    def __init__(self, began: float | None = None, now: Callable[[], float] = time.time) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._last = began if began is not None else process_start(now())

    def ended(self, name: str) -> None:
        """What took place since the last call was `name`."""
        now = self._now()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + max(now - self._last, 0.0), 3)
        self._last = now


def process_start(now: float, proc: Path = Path("/proc")) -> float:
    """Epoch seconds at which this process began, to a hundredth; `now` where the system does not say.

    Field 22 of proc_pid_stat(5): clock ticks since boot. The name in field 2 may hold spaces and brackets.
    """
    try:
        ticks = int((proc / "self/stat").read_text().rpartition(")")[2].split()[19])
        uptime_s = float((proc / "uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return now
    return now - (uptime_s - ticks / os.sysconf("SC_CLK_TCK"))
