"""Text on its way out of the pod: cut into lines, redacted, and never able to hold up what it tells about."""

import os
import threading
from collections import deque
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
    """Standard output of the watchdog. A reader that has stopped reading costs lines, never time, and little memory."""

    def __init__(
        self, environ: Mapping[str, str], write: Callable[[bytes], object], capacity_bytes: int = 4 * 1024 * 1024
    ) -> None:
        self._environ = dict(environ)
        self._write = write
        self._capacity_bytes = capacity_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = self._dropped = 0
        self._news = threading.Condition()
        threading.Thread(target=self._drain, daemon=True).start()

    def say(self, text: str) -> None:
        """One line, redacted; dropped (and counted) when the reader is `capacity_bytes` behind."""
        line = clean(text, self._environ).encode(errors="replace") + b"\n"
        with self._news:
            if self._waiting and self._waiting_bytes + len(line) > self._capacity_bytes:
                self._dropped += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            self._news.notify()

    def copy(self, read: Callable[[int], bytes]) -> None:
        """Say every line of a stream until it ends."""
        for line in lines(read):
            self.say(line)

    def _drain(self) -> None:
        while True:
            with self._news:
                while not self._waiting:
                    self._news.wait()
                line = self._waiting.popleft()
                self._waiting_bytes -= len(line)
                count, self._dropped = self._dropped, 0
            if count:
                line = b"(%d lines were not shown here)\n" % count + line
            try:
                self._write(line)
            except OSError:
                with self._news:
                    self._dropped += 1
