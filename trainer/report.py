"""What a run says: events, metrics, one end, and lines for people. Files in the attempt's folder, nothing else.

Every text passes `redact`. A line is flushed when written and on the disk when the next phase begins: pods vanish.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pushtrain.errors import PushtrainError
from pushtrain.redact import redact
from trainer.job import rank
from trainer.phases import Phases

State = Literal["preparing", "training", "evaluating", "publishing"]

QUIET_S = 60.0
STEP_EVERY_S = 5.0

# Kept back so that a full disk can still be reported as such.
_RESERVE_BYTES = 64 * 1024


class Log:
    """Lines for people on standard output, said by the first of several processes alone."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._said_s = now_s()

    def say(self, text: str) -> None:
        self._said_s = self._now_s()
        if rank() == 0:
            print(redact(text), flush=True)

    def say_if_quiet(self, text: str) -> None:
        """A sign of life in long work, at most once a minute: who watches the log may take silence for a hang."""
        if self._now_s() - self._said_s >= QUIET_S:
            self.say(text)


_log = Log()
say = _log.say
say_if_quiet = _log.say_if_quiet


class Report:
    """Writes the files of one attempt into `folder`, which it creates.

    The end of an earlier start of the same attempt is removed. With `is_main` False (a worker that is not the first)
    nothing is written but a failure.
    """

    def __init__(self, folder: Path, *, is_main: bool = True, now: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.phases = Phases()
        self._is_main = is_main
        self._now = now
        folder.mkdir(parents=True, exist_ok=True)
        self._reserve = folder / ".reserve"
        self._stepped = -math.inf
        if is_main:
            for name in ("result.json", "failure.json"):
                (folder / name).unlink(missing_ok=True)
            self._reserve.write_bytes(b"\0" * _RESERVE_BYTES)

    def event(self, state: State, message: str, **data: Any) -> None:
        """A phase began. What was written before it is on the disk when this returns."""
        if not self._is_main:
            return
        say(f"{state}: {message}")
        self._append(
            "events.jsonl", {"time": self._now(), "state": state, "message": message, "data": data}, durable=True
        )
        sync(self.folder / "metrics.jsonl")

    def metrics(self, record: Mapping[str, Any]) -> None:
        """One logged step or evaluation; NaN and infinities become null."""
        if self._is_main:
            self._append("metrics.jsonl", {"time": self._now(), **record}, durable=False)

    def step(self) -> None:
        """A step was done, of training or evaluation: what the pod's watchdog waits for between two logged ones. The
        file `step` is touched for it, at most every 5 seconds."""
        if not self._is_main or self._now() - self._stepped < STEP_EVERY_S:
            return
        self._stepped = self._now()
        with contextlib.suppress(OSError):  # a sign of the work, not the work
            (self.folder / "step").touch()

    def result(self, result: Mapping[str, Any]) -> None:
        """The good end, written whole or not at all."""
        self._end("result.json", result)

    def failure(self, error: PushtrainError) -> None:
        """The bad end; the first writer of an attempt wins. Room for it was kept back."""
        message = f"{error} ({error.hint})" if error.hint else str(error)
        self._end("failure.json", {"reason": error.reason, "message": message})

    def explain(self, text: str) -> None:
        """Say more in the failure that is written already."""
        path = self.folder / "failure.json"
        known = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, {**known, "message": f"{known['message']}; {text}"})

    def close(self) -> None:
        if self._is_main:
            self._reserve.unlink(missing_ok=True)

    def _append(self, name: str, record: Mapping[str, Any], *, durable: bool) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(_dump(record) + "\n")
        if durable:
            sync(self.folder / name)

    def _end(self, name: str, record: Mapping[str, Any]) -> None:
        path = self.folder / name
        if path.exists():
            return
        self._reserve.unlink(missing_ok=True)
        write_json(path, record)


def write_whole(path: Path, text: str) -> None:
    """`path` holds `text` on the disk, or what it held before."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    sync(part)
    part.replace(path)
    sync(path.parent)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """The same for an object; NaN and infinities become null."""
    write_whole(path, _dump(record) + "\n")


def _dump(record: Mapping[str, Any]) -> str:
    return redact(json.dumps(_finite(record), ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def sync(path: Path) -> None:
    """fsync of a file or folder that may not be there."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
