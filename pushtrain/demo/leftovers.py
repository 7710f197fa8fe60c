"""Processes the demo started, on disk, so that also the next demo can end what a killed one left behind."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path


class Processes:
    """Name → (pid, start time). The start time tells a process from a later one that got the same pid."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[int, int]] = {}
        if path.exists():
            self._known = {name: (pid, start) for name, (pid, start) in json.loads(path.read_text()).items()}

    def add(self, name: str, pid: int) -> None:
        start = _start_ticks(pid)
        if start is not None:
            self._known[name] = (pid, start)
            self._path.write_text(json.dumps(self._known))

    def alive(self, name: str) -> bool:
        pid, start = self._known.get(name, (0, 0))
        return bool(pid) and _start_ticks(pid) == start

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


def stop_marked(mark: str, grace_s: float = 5.0) -> None:
    """End every process that was started with `mark` (NAME=value) in its environment: what an interrupted push left.

    SIGTERM first, SIGKILL after the grace; this process is left alone. Linux only: /proc says who carries the mark.
    """
    end = time.monotonic() + grace_s
    while marked := _marked(mark):
        number = signal.SIGTERM if time.monotonic() < end else signal.SIGKILL
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            _reap(pid)
        time.sleep(0.1)


def _marked(mark: str) -> list[int]:
    """Processes that carry the mark, without ours and without zombies, which have no environment any more."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if mark.encode() in environment and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def _start_ticks(pid: int) -> int | None:
    from infra.simulator.processes import start_ticks

    return start_ticks(pid)


def _reap(pid: int) -> None:
    """Collect the exit status if it is our child."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
