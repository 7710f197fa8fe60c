"""Commands for a pod of which there is a terminal alone: RunPod's proxy takes no command, so they are typed.

The login shell, whichever it is, gets one line, which puts the terminal into raw mode and a plain sh behind a pipe:
from then on nothing is echoed, edited, kept in a history or taken for a key, and a line may be as long as it wants.
"""

import os
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pushtrain.errors import SshError

_OPENING = b" stty raw -echo; cat | sh; exit\n"
_READY_S, _AGAIN_S, _END_S = 90.0, 5.0, 10.0
# A line of a progress bar has no end; of it and of what was said last this much is kept.
_LINE_BYTES, _LINES_KEPT = 16_384, 8


class Cut(Exception):
    """The terminal is gone."""


class TypedShell:
    """A sh on the pod. `lines` is what it prints; `ended` the exit code of the script that was typed last, None while
    it runs. Made by `typed_shell`."""

    def __init__(self, client: "subprocess.Popen[bytes]", clock: Callable[[], float]) -> None:
        self._client, self._clock, self._mark = client, clock, secrets.token_hex(8)
        self._said: queue.Queue[str | None] = queue.Queue()
        self.ended: int | None = None
        self.last: list[str] = []
        self.heard_s = clock()
        threading.Thread(target=self._listen, name="typed shell", daemon=True).start()

    def type(self, script: str) -> None:
        """A script for sh; its lines may be read with `line`. Raises Cut."""
        self.ended, self.last = None, []
        # One compound command, which sh reads whole before it begins: what runs in it cannot take the rest for input.
        self._send(f"( {script}\n) </dev/null; printf '\\n%s-%s-%s\\n' {self._mark} ended \"$?\"\n".encode())

    def line(self, within_s: float) -> str | None:
        """The next line that was printed, None where none came. Raises Cut, after everything that was said before."""
        try:
            text = self._said.get(timeout=within_s)
        except queue.Empty:
            return None
        if text is None:
            self._said.put(None)
            raise Cut
        self.heard_s = self._clock()
        if text.startswith(f"{self._mark}-ended-"):
            self.ended = int(text.rpartition("-")[2])
            return None
        if shown := text.rpartition("\r")[2].strip():
            self.last = [*self.last, shown][-_LINES_KEPT:]
        return text

    def open(self) -> None:
        """Until sh has answered. Raises Cut, SshError (NoAnswer)."""
        give_up_s, again_s = self._clock() + _READY_S, self._clock()
        while self._clock() < give_up_s:
            if self._clock() >= again_s:
                # Said again where a login was too busy to listen: a sh in the sh does no harm.
                self._send(_OPENING + f"printf '\\n%s-%s\\n' {self._mark} ready\n".encode())
                again_s = self._clock() + _AGAIN_S
            if self.line(0.5) == f"{self._mark}-ready":
                return
        raise SshError(
            "the terminal of RunPod's proxy does not answer",
            hint="look at it with pushtrain ssh, then try again",
            reason="NoAnswer",
        )

    def _send(self, text: bytes) -> None:
        assert self._client.stdin is not None
        try:
            self._client.stdin.write(text)
            self._client.stdin.flush()
        except OSError:
            raise Cut from None

    def _listen(self) -> None:
        assert self._client.stdout is not None
        rest = b""
        while chunk := os.read(self._client.stdout.fileno(), 65536):
            *lines, rest = (rest + chunk).split(b"\n")
            self.heard_s = self._clock()
            rest = rest[-_LINE_BYTES:]
            for line in lines:
                self._said.put(line[-_LINE_BYTES:].decode(errors="replace").rstrip("\r"))
        self._said.put(None)


@contextmanager
def typed_shell(argv: Sequence[str], clock: Callable[[], float] = time.monotonic) -> Iterator[TypedShell]:
    """`argv` is a client of ssh that asks for a terminal. It is ended on the way out, and with it what runs there.

    Raises SshError (NoClient, NoAnswer), Cut.
    """
    try:
        client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise SshError(
            f"there is no {argv[0]} here", hint="apt-get install openssh-client", reason="NoClient"
        ) from None
    try:
        shell = TypedShell(client, clock)
        shell.open()
        yield shell
    finally:
        client.terminate()
        try:
            client.wait(_END_S)
        except subprocess.TimeoutExpired:
            client.kill()
            client.wait()
