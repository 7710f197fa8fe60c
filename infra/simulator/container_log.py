"""The log of one container: lines with a time and a number that never restarts. Standard library only.

A line of the file is `<RFC 3339 time> <number> <source> <text>`. At `CAP_BYTES` the file becomes `container.log.1` and
a new one begins, so a talkative pod keeps at most twice that.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import TextIO

CAP_BYTES = 8 * 1024 * 1024
# A progress bar without a line end must not grow for ever.
LINE_BYTES = 16 * 1024
_LINE = re.compile(r"^(\S+) (\d+) (container|system) (.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    time: str
    number: int
    source: str
    line: str

    @property
    def event_id(self) -> str:
        return f"{self.time}/{self.number:012d}"


class LogWriter:
    """One writer per file; safe from several threads. Goes on counting where an earlier writer stopped."""

    def __init__(self, path: Path, cap_bytes: int = CAP_BYTES) -> None:
        self._path = path
        self._cap_bytes = cap_bytes
        self._lock = Lock()
        self._number = max((entry.number for entry in read_log(path)), default=0)
        self._file: TextIO = path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")

    def write(self, source: str, line: str, now: float) -> None:
        """One line; `now` in epoch seconds."""
        stamp = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._lock:
            if self._file.tell() > self._cap_bytes:
                self._file.close()
                self._path.replace(older(self._path))
                self._file = self._path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
            self._number += 1
            self._file.write(f"{stamp} {self._number} {source} {line}\n")
            self._file.flush()


def older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def read_log(path: Path, after: int = 0) -> Iterator[Entry]:
    """Whole lines with a number above `after`, oldest first. A missing file is an empty log."""
    for part in (older(path), path):
        try:
            file = part.open(encoding="utf-8", errors="replace", newline="\n")
        except FileNotFoundError:
            continue
        with file:
            for text in file:
                match = _LINE.match(text[:-1]) if text.endswith("\n") else None
                if match is not None and int(match[2]) > after:
                    yield Entry(match[1], int(match[2]), match[3], match[4])
