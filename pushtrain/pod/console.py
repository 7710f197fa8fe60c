"""Text on its way out of the pod: cut into lines, redacted, and never able to hold up what it tells about."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping

from pushtrain.pod.context import SOURCE_TOKEN
from pushtrain.redact import redact

LONGEST_LINE = 64 * 1024


def clean(text: str, environ: Mapping[str, str] | None = None) -> str:
    """`text` without secrets, among them the pod's own token for the source."""
    environ = os.environ if environ is None else environ
    return redact(text, environ, [environ.get(SOURCE_TOKEN, "")])


def lines(read: Callable[[int], bytes]) -> Iterator[str]:
    """Lines of a byte stream without their ends. A carriage return ends one too: progress bars are lines.

    Redaction works by line, so a line that never ends is cut at white space, where no secret can be cut in two.
    """
    rest = b""
    while chunk := read(LONGEST_LINE):
        *whole, rest = (rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(rest) > LONGEST_LINE:
            head, space, tail = rest.rpartition(b" ")
            whole.append(head if space else rest)
            rest = tail if space else b""
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


class Console:
    """Standard output of the watchdog. A reader that has stopped reading costs lines, never time."""

    def __init__(self, environ: Mapping[str, str], write: Callable[[bytes], object], capacity: int = 10_000) -> None:
        self._environ = dict(environ)
        self._write = write
        self._queue: queue.Queue[bytes] = queue.Queue(capacity)
        self._dropped = 0
        threading.Thread(target=self._drain, daemon=True).start()

    def say(self, text: str) -> None:
        """One line, redacted; dropped (and counted) when the reader is `capacity` lines behind."""
        try:
            self._queue.put_nowait(clean(text, self._environ).encode() + b"\n")
        except queue.Full:
            self._dropped += 1

    def copy(self, read: Callable[[int], bytes]) -> None:
        """Say every line of a stream until it ends."""
        for line in lines(read):
            self.say(line)

    def _drain(self) -> None:
        while True:
            line = self._queue.get()
            if self._dropped:
                count, self._dropped = self._dropped, 0
                line = b"(%d lines were not shown here)\n" % count + line
            try:
                self._write(line)
            except OSError:
                self._dropped += 1
