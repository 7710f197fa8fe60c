"""A growing file on the volume that goes to the ledger in chunks, and beyond its cap only in samples.

Up to the cap everything is sent. Beyond it each push carries the newest lines, and at the end a longer tail; what lies
between is left out with its place, size and SHA-256, so that the file on the volume could still be checked.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 512 * 1024
LOG_CAP_BYTES = 20 * 1024 * 1024
METRICS_CAP_BYTES = 8 * 1024 * 1024
# The newest lines of a push beyond the cap, and those of the last one.
PULSE_BYTES = 4 * 1024
TAIL_BYTES = 64 * 1024
GAP_LINE = re.compile(
    r"^\[pushtrain: (?P<bytes>\d+) bytes left out here: bytes (?P<begin>\d+) to (?P<end>\d+) of (?P<name>\S+), "
    r"sha256 (?P<sha256>[0-9a-f]{64})(?:, (?P<why>.*))?\]$",
    re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Bytes `begin` to `end` (excluded) of a file, which are not in the ledger."""

    name: str
    begin: int
    end: int
    sha256: str
    why: str = ""

    def as_line(self) -> bytes:
        """For a log: GAP_LINE reads it back."""
        why = f", {self.why}" if self.why else ""
        place = f"bytes {self.begin} to {self.end} of {self.name}"
        return (
            f"[pushtrain: {self.end - self.begin} bytes left out here: {place}, sha256 {self.sha256}{why}]\n".encode()
        )

    def as_row(self) -> dict[str, object]:
        """For metrics: a row without figures."""
        place = {"file": self.name, "begin": self.begin, "end": self.end, "sha256": self.sha256}
        return {"left_out": place | ({"why": self.why} if self.why else {})}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What to send next: first the gap, then `raw`; `end` is how far the file is then dealt with."""

    gap: Gap | None
    raw: bytes
    end: int


def next_piece(path: Path, start: int, *, at_end: bool, cap: int) -> Piece:
    """Whole lines from `start` (at the end also an unfinished one). Nothing new: an empty piece that ends at `start`.

    `cap` is where the samples begin. Raises OSError when the file cannot be read; a file that is not there is empty.
    """
    size = size_of(path)
    if start < cap or size - start <= PULSE_BYTES:
        raw = whole_lines(path, start, at_end=at_end)
        return Piece(gap=None, raw=raw, end=start + len(raw))
    begin = max(start, size - (TAIL_BYTES if at_end else PULSE_BYTES))
    raw = _lines(path, begin, size, at_end)
    if begin > start:  # in the middle of a line, most likely
        whole_from = raw.find(b"\n") + 1
        begin, raw = begin + whole_from, raw[whole_from:]
    return Piece(gap=gap_of(path, start, begin) if begin > start else None, raw=raw, end=begin + len(raw))


def whole_lines(path: Path, begin: int, *, at_end: bool) -> bytes:
    """At most one chunk of whole lines; at the end also an unfinished one. Raises OSError; an absent file is empty."""
    return _lines(path, begin, begin + CHUNK_BYTES, at_end)


def gap_of(path: Path, begin: int, end: int, why: str = "") -> Gap:
    """Reads the whole gap once, in pieces. Raises OSError."""
    digest, left = hashlib.sha256(), end - begin
    with path.open("rb") as file:
        file.seek(begin)
        while left > 0 and (raw := file.read(min(left, 1024 * 1024))):
            digest.update(raw)
            left -= len(raw)
    name = f"{path.parent.name}/{path.name}"
    return Gap(name=name, begin=begin, end=end, sha256=digest.hexdigest(), why=why)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _lines(path: Path, begin: int, end: int, at_end: bool) -> bytes:
    """What is between, up to its last line end. A line that fills all of it is cut."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            raw = file.read(end - begin)
    except FileNotFoundError:
        return b""
    if at_end and len(raw) < CHUNK_BYTES:
        return raw
    return raw[: raw.rfind(b"\n") + 1] or (raw if len(raw) >= min(end - begin, CHUNK_BYTES) else b"")
