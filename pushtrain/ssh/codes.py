"""Files where ssh takes none: `runpodctl send` on one side, `runpodctl receive CODE` on the other.

The proxy's terminal is what the pod's half is typed into; the bytes go through RunPod's relays, encrypted from end to
end with the code. Whoever has the code first gets the file, so it is kept out of logs, the ledger and errors; the
program takes it as an argument and in no other way, on the side that receives.

What the program prints is that of runpodctl 2.7 and 1.14 (github.com/runpod/runpodctl, cmd/transfer): the code alone on
the first line of standard output, everything else on standard error, and exit code 0 from `send` whatever happened.
"""

import os
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pushtrain.errors import SshError
from pushtrain.ssh import parcel
from pushtrain.ssh.client import SshFiles, ssh_argv
from pushtrain.ssh.endpoint import Endpoint
from pushtrain.ssh.places import Copy
from pushtrain.ssh.session import Line
from pushtrain.ssh.typed import Cut, TypedShell, typed_shell

PROGRAM = "runpodctl"
INSTALL = "https://github.com/runpod/runpodctl#install"
CUT = 255
_CODE = re.compile(r"\b\d{4}(?:-[a-z]+){2,5}-\d{1,3}\b")
_TELLS_CODE = ("on the other computer", f"{PROGRAM} receive")
_LOOK_S, _CODE_S, _LAST_S = 0.25, 300.0, 60.0
# The sender tells its code and goes to the relay only then. Who comes before it is turned away, and the code is spent:
# runpodctl 2.7 and croc's relay were seen to do so. The next one gets more time.
_ANNOUNCED, _TOO_EARLY = "code is:", "room not ready"
_ARRIVES_S = (2.0, 8.0, 20.0)
# Exit codes above this are signals; and how long a terminal outlives what ran in it.
_KILLED, _GOES_S = 128, 10.0
# Both sides show how far they are several times a second; a relay that has forgotten us says nothing.
_SILENT_S = 600.0
# It needs no key of ours, so it gets none.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")


def masked(text: str) -> str:
    """Without anything that looks like a code."""
    return _CODE.sub("***", text)


def by_code(line: Line, copy: Copy, found: Endpoint, files: SshFiles, show: Callable[[str], object]) -> int:
    """One try: 0, or 255 where the pod or the way to it was lost. `show` gets the program's progress.

    Raises SshError: NoProgram, OnlyTerminal (for sync), CopyFailed.
    """
    if copy.contents:
        raise SshError(
            "sync needs rsync over ssh, and RunPod's proxy gives a terminal and nothing else",
            hint=f"pushtrain cp takes files and folders to and from {found.run_id} all the same",
            reason="OnlyTerminal",
        )
    program = shutil.which(PROGRAM, path=line.environ.get("PATH"))
    if program is None:
        raise _no_program("this machine", f"to reach a pod without a public address by its codes: {INSTALL}")
    line.seams.say(f"by {PROGRAM}'s codes, since the pod is reached by RunPod's proxy alone")
    for arrives_s in _ARRIVES_S:
        try:
            with typed_shell(ssh_argv(found, files), line.seams.clock) as shell:
                here = _Here(line=line, pod_id=found.pod_id, program=program, show=show, arrives_s=arrives_s)
                try:
                    (_send if copy.up else _receive)(here, copy, shell)
                except SshError:
                    _look_for_a_cut(here, shell)
                    raise
                return 0
        except Cut:
            return CUT
        except _TooEarly:
            continue
    raise _failed("the two sides did not meet at the relay", [])


class _TooEarly(Exception):
    """The receiver was there first."""


@dataclass(frozen=True, kw_only=True)
class _Here:
    """This side of a copy. `arrives_s`: how long a sender is given to reach the relay."""

    line: Line
    pod_id: str
    program: str
    show: Callable[[str], object]
    arrives_s: float

    def start(self, folder: Path, *arguments: str) -> "Local":
        return Local([self.program, *arguments], folder, self.line.environ, self.show)

    def wait(self, is_done: Callable[[], bool], shell: TypedShell, local: "Local") -> None:
        """Until it is done. Raises Cut where the pod is gone or both sides have been silent for ten minutes."""
        while not is_done():
            shell.line(_LOOK_S)
            if self.line.seams.clock() - max(shell.heard_s, local.heard_s) > _SILENT_S:
                raise Cut


class Local:
    """The program on this machine. Its progress goes to `show`, line by line and without the code."""

    def __init__(
        self, argv: list[str], folder: Path, environ: Mapping[str, str], show: Callable[[str], object]
    ) -> None:
        env = {name: environ[name] for name in _PASSED_ON if name in environ}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
        )
        self.code, self.is_ready, self.last, self.heard_s = "", False, list[str](), time.monotonic()
        self._show = show
        self._readers = [
            threading.Thread(target=self._listen, args=(pipe,), daemon=True)
            for pipe in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(_LAST_S)

    def _listen(self, pipe: object) -> None:
        rest = b""
        while chunk := os.read(pipe.fileno(), 65536):  # type: ignore[attr-defined]
            *parts, rest = re.split(rb"(?<=[\r\n])", rest + chunk)
            self.heard_s = time.monotonic()
            for part in parts:
                self._heard(part.decode(errors="replace"))
        self._heard(rest.decode(errors="replace"))

    def _heard(self, text: str) -> None:
        found = _CODE.search(text)
        if found is not None:
            self.code = self.code or found[0]
            self.is_ready = self.is_ready or _ANNOUNCED in text
        if found is not None or any(word in text for word in _TELLS_CODE):
            return
        if text.strip():
            self.last = [*self.last, text.strip()][-4:]
            self._show(text)


def _send(here: _Here, copy: Copy, shell: TypedShell) -> None:
    with parcel.packed(copy) as packed:
        local = here.start(packed.path.parent, "send", "--", packed.path.name)
        try:
            here.wait(lambda: local.is_ready or local.process.poll() is not None, shell, local)
            if not local.is_ready:
                raise _failed("runpodctl here gave no code", local.last)
            here.line.seams.sleep(here.arrives_s)
            shell.type(parcel.take_in(copy, packed, local.code))
            here.wait(lambda: shell.ended is not None, shell, local)
        finally:
            local.end()
    _judge(shell)


def _receive(here: _Here, copy: Copy, shell: TypedShell) -> None:
    line, mark, kind, code = here.line, secrets.token_hex(8), "", ""
    shell.type(parcel.give_out(copy, mark))
    give_up_s = line.seams.clock() + _CODE_S
    while not code and shell.ended is None and line.seams.clock() < give_up_s:
        text = shell.line(_LOOK_S) or ""
        kind = text.removeprefix(f"{mark}-") if text.startswith(f"{mark}-") else kind
        give_up_s = give_up_s if kind else line.seams.clock() + _CODE_S  # a large tar takes its time
        code = found[0] if kind and _ANNOUNCED in text and (found := _CODE.search(text)) else ""
    if not code:
        _judge(shell)
        raise _failed("runpodctl on the pod gave no code", shell.last)
    stage = parcel.stage_here(copy)
    stage.mkdir(parents=True, exist_ok=True)
    line.seams.sleep(here.arrives_s)
    local = here.start(stage, "receive", code)
    try:
        here.wait(lambda: local.process.poll() is not None, shell, local)
    finally:
        local.end()
    if any(_TOO_EARLY in text for text in local.last):
        raise _TooEarly
    if local.process.returncode != 0:
        raise _failed("runpodctl here could not receive", local.last)
    for name in parcel.unpacked(copy, stage, is_tar=kind == parcel.TAR_KIND):
        line.seams.say(f"left out, as it leads out of the folder: {name}")
    _tidied(line, copy, shell)


def _judge(shell: TypedShell) -> None:
    """What became of the pod's half. Raises SshError, _TooEarly."""
    if shell.ended == parcel.NO_PROGRAM:
        raise _no_program("the pod's image", "RunPod's own images have it; a volume's files need no pod: cp volume:…")
    if shell.ended == parcel.NOT_THERE:
        raise SshError(masked(shell.last[-1]), hint="relative paths count from the volume", reason="CopyFailed")
    if shell.ended and any(_TOO_EARLY in text for text in shell.last):
        raise _TooEarly
    if shell.ended:
        raise _failed(f"the pod's half of the copy failed with exit code {shell.ended}", shell.last)


def _tidied(line: Line, copy: Copy, shell: TypedShell) -> None:
    """The file is here; a pod that goes now takes its parcel with it, or the next copy does."""
    give_up_s = line.seams.clock() + _LAST_S
    try:
        while shell.ended is None and line.seams.clock() < give_up_s:
            shell.line(_LOOK_S)
        shell.type(parcel.tidy_up(copy))
        while shell.ended is None and line.seams.clock() < give_up_s:
            shell.line(_LOOK_S)
    except Cut:
        return


def _look_for_a_cut(here: _Here, shell: TypedShell) -> None:
    """A pod that is lost kills its programs one after the other: the copy fails first, and the terminal goes next.

    Raises Cut.
    """
    if shell.ended in (parcel.NOT_THERE, parcel.NO_PROGRAM):
        return
    give_up_s = here.line.seams.clock() + _GOES_S
    while here.line.seams.clock() < give_up_s and (shell.ended or 0) <= _KILLED:
        shell.line(_LOOK_S)
    pod = here.line.cloud.read_pod(here.pod_id)
    if (shell.ended or 0) > _KILLED or pod is None or not pod.is_alive:
        raise Cut


def _failed(what: str, last: list[str]) -> SshError:
    said = f": {masked(last[-1])}" if last else ""
    return SshError(f"{what}{said}", hint="the same command again goes on with what has come", reason="CopyFailed")


def _no_program(side: str, hint: str) -> SshError:
    return SshError(f"{side} has no {PROGRAM}", hint=hint, reason="NoProgram")
