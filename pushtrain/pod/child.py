"""One child of the agent (the installer, the trainer): its output redacted into trainer.log, its signs of life."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pushtrain.pod.console import clean, lines
from pushtrain.pod.processes import descendants, moved_bytes

LIVELY_BYTES = 1024 * 1024
LIVELY_TICKS = 10


class LogFile:
    """trainer.log and the agent's own output, line by line, redacted. A full disk costs lines, never the training."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        safe = clean(text, self._environ)
        with self._lock:
            try:
                self._file.write(safe.encode(errors="replace") + b"\n")
            except OSError as error:
                safe = f"{safe}  (trainer.log: {error.strerror})"
            try:
                print(safe, flush=True)
            except OSError:
                return  # the watchdog that reads this is gone; trainer.log goes on

    def copy(self, read: Callable[[int], bytes]) -> None:
        for text in lines(read):
            self.line(text)


class StopRequest:
    """Set by SIGTERM; `reason` is what the watchdog wrote, empty when the signal came from elsewhere."""

    def __init__(self, stop_file: Path | None) -> None:
        self.at_s: float | None = None
        self._stop_file = stop_file

    def __bool__(self) -> bool:
        return self.at_s is not None

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        if self.at_s is None:
            self.at_s = time.monotonic()

    @property
    def reason(self) -> str:
        if self._stop_file is None or not self._stop_file.is_file():
            return ""
        return self._stop_file.read_text().strip()


class Heartbeat:
    """Touches the heartbeat file when the attempt's files grew or a child moved a megabyte within ten looks.

    The second sign is for what is silent and healthy: downloads and the loading of large models. A hung process moves
    nothing worth that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sizes: list[int] = []
        self._bytes: list[int] = []

    def touch(self) -> None:
        self._path.touch()

    def look(self, pid: int) -> None:
        """One look at the files and at process `pid` with all below it; call it once a tick."""
        sizes = [_size(self._path.with_name(name)) for name in ("trainer.log", "events.jsonl", "metrics.jsonl")]
        self._bytes = [*self._bytes[-LIVELY_TICKS:], moved_bytes([pid, *descendants(pid)])]
        if sizes != self._sizes or self._bytes[-1] - min(self._bytes) >= LIVELY_BYTES:
            self._sizes, self._bytes = sizes, self._bytes[-1:]
            self.touch()


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What `run_child` minds while it waits."""

    heartbeat: Heartbeat
    stop: StopRequest
    grace_s: float
    tick_s: float


def run_child(argv: Sequence[str], env: Mapping[str, str], cwd: Path, *, watch: Watch, out: LogFile) -> int:
    """Run to its end in a session of its own; returns its exit code (-N for signal N).

    A stop request reaches it as SIGTERM, and as SIGKILL to its whole group once `watch.grace_s` has passed. Nothing of
    its group is left when this returns. Raises OSError when it cannot be started.
    """
    child = subprocess.Popen(
        list(argv),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    assert child.stdout is not None
    pump = threading.Thread(target=out.copy, args=(child.stdout.read,), daemon=True)
    pump.start()
    told = False
    while child.poll() is None:
        watch.heartbeat.look(child.pid)
        if watch.stop.at_s is not None:
            # Not to the whole group: data loader workers that die under the trainer would spoil its last save.
            if not told:
                child.terminate()
                child.send_signal(signal.SIGCONT)  # one that was stopped would not see it
                told = True
            if time.monotonic() - watch.stop.at_s > watch.grace_s:
                _kill_group(child.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(watch.tick_s)
    _kill_group(child.pid)
    pump.join(5.0)
    return child.returncode


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
