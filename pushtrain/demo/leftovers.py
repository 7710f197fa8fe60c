"""Processes the demo started, on disk, so that also the next demo can end what a killed one left behind."""

import json
import os
import signal
import time
from pathlib import Path


class Processes:
    """Name → (pid, start time). The start time tells a process from a later one that got the same pid."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[int, str]] = {}
        if path.exists():
            self._known = {name: (pid, start) for name, (pid, start) in json.loads(path.read_text()).items()}

    def add(self, name: str, pid: int) -> None:
        start = _start_time(pid)
        if start is not None:
            self._known[name] = (pid, start)
            self._path.write_text(json.dumps(self._known))

    def alive(self, name: str) -> bool:
        pid, start = self._known.get(name, (0, ""))
        return bool(pid) and _start_time(pid) == start

    def stop(self, name: str, grace_s: float = 15.0) -> None:
        """SIGTERM to the process's group, SIGKILL after the grace; absent is success."""
        end = time.monotonic() + grace_s
        number = signal.SIGTERM
        while self.alive(name):
            pid = self._known[name][0]
            if time.monotonic() > end:
                number = signal.SIGKILL
            try:
                os.killpg(pid, number)
            except ProcessLookupError:
                break
            _reap(pid)
            time.sleep(0.1)
        self._known.pop(name, None)
        self._path.write_text(json.dumps(self._known))

    def stop_all(self) -> None:
        for name in list(self._known):
            self.stop(name)


def _start_time(pid: int) -> str | None:
    """Clock ticks since boot at which the process started; None when it is gone or a zombie (proc(5), fields 3, 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _reap(pid: int) -> None:
    """Collect the exit status if it is our child."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
