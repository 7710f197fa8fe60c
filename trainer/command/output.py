"""What a command prints, as lines: a progress bar that is drawn over and over becomes a line now and then."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ReadBytes = Callable[[int], bytes]
LONGEST_LINE = 64 * 1024
# tqdm draws ten times a second; the log gets its state this often.
BAR_EVERY_S = 10.0
_ENDS = re.compile(rb"(\r\n|\n|\r)")
# Colours, cursor movements and titles (ECMA-48), and whatever else a terminal would obey.
_CONTROLS = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Line:
    """`is_shown` is False for a state of a progress bar that is to be read, and not written down."""

    text: str
    is_shown: bool = True


def folded(read: ReadBytes, now_s: Callable[[], float] = time.monotonic) -> Iterator[Line]:
    """Every line of a byte stream, and every state of one that carriage returns draw over.

    Of those one in `BAR_EVERY_S` is shown, and the last one. A line that does not end is cut at white space after
    64 KiB, where no secret can be cut in two.
    """
    bar, rest = _Bar(now_s), b""
    while chunk := read(LONGEST_LINE):
        raw = rest + chunk
        held = b"\r" if raw.endswith(b"\r") else b""  # the next chunk may begin with its line feed
        *parts, rest = _ENDS.split(raw.removesuffix(held))
        for text, end in zip(parts[::2], parts[1::2], strict=True):
            yield from bar.drawn(_plain(text)) if end == b"\r" else bar.ended(_plain(text))
        rest += held
        if len(rest) > LONGEST_LINE:
            head, space, tail = rest.rpartition(b" ")
            yield from bar.ended(_plain(head if space else rest))
            rest = tail if space else b""
    if (last := _plain(rest)) or bar.is_pending:
        yield from bar.ended(last)


class _Bar:
    """A line that is drawn over: what of it has not been shown."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._shown_s = now_s()
        self._pending = ""

    @property
    def is_pending(self) -> bool:
        return bool(self._pending)

    def drawn(self, text: str) -> Iterator[Line]:
        if not text.strip():
            return
        if is_due := self._now_s() - self._shown_s >= BAR_EVERY_S:
            self._shown_s = self._now_s()
        self._pending = "" if is_due else text
        yield Line(text, is_shown=is_due)

    def ended(self, text: str) -> Iterator[Line]:
        """A line feed: what stands there now stays. An empty rest of the line leaves the bar standing."""
        left, self._pending = self._pending, ""
        yield Line(text if text.strip() or not left else left)


def _plain(raw: bytes) -> str:
    return _CONTROLS.sub(b"", raw).decode(errors="replace").removesuffix("\r")
