"""Plays the commands of a page of docs, word for word, as a person at a terminal would.

- A block ```` ```sh ```` holds commands, one a line (`\\` at the end goes on); `cd` and `export` hold for the rest of
  the page. Each has to end with exit code 0, within `timeout_s`.
- A line `pod$ COMMAND` below a command is typed into it: that command gets a terminal. `pod$ Ctrl-B d` are keys.
- A block whose first line is `# in another terminal` is started and left running until the page says
  `# Ctrl-C in the other terminal`, or ends.
- A block ```` ```text ```` after it is what was printed: each of its lines has to be found in that order; `…` stands
  for anything.

Other languages are not touched. ssh reads the configuration of the home that the user database names, not of `$HOME`:
the runner puts an `ssh` and a `scp` on PATH that differ from the real ones in nothing but that.
"""

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OTHER_TERMINAL, _STOP_OTHER = "# in another terminal", "# Ctrl-C in the other terminal"
_TYPED = "pod$ "
_QUIET_S, _CTRL_C_S = 1.5, 150.0


@dataclass(frozen=True, kw_only=True)
class Command:
    """One line of a page and what is typed into it. `output`: lines that it has to print; `elsewhere`: left running."""

    line: str
    typed: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    elsewhere: bool = False


@dataclass
class Terminal:
    """Where a page is played. `before(line)` is called before each command: a test may wait there for a pod, say.
    `close` ends what still runs."""

    cwd: Path
    env: dict[str, str]
    before: Callable[[str], None] = lambda line: None
    timeout_s: float = 180.0
    said: str = ""
    others: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def play(self, page: Path) -> str:
        """Every command of the page; returns all that was printed. AssertionError names the command that went wrong."""
        for command in commands(page.read_text(encoding="utf-8")):
            if command.line == _STOP_OTHER:
                self.close()
                continue
            self.before(command.line)
            if not self._kept(command.line):
                self._run(command)
        return self.said

    def close(self) -> None:
        for other in self.others:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(other.pid, signal.SIGINT)
            try:
                printed, _ = other.communicate(timeout=_CTRL_C_S)
            except subprocess.TimeoutExpired:
                os.killpg(other.pid, signal.SIGKILL)
                raise AssertionError(f"{other.args!r} did not end at Ctrl-C") from None
            self.said += printed
        self.others.clear()

    def _kept(self, line: str) -> bool:
        word, _, rest = line.partition(" ")
        if word == "cd":
            self.cwd = self.cwd / rest.strip()
        elif word == "export":
            name, _, value = rest.partition("=")
            self.env[name] = "".join(shlex.split(value))
        return word in ("cd", "export")

    def _run(self, command: Command) -> None:
        argv = ["bash", "-euo", "pipefail", "-c", command.line]
        if command.elsewhere:
            other = subprocess.Popen(
                argv,
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self.others.append(other)
            return
        code, printed = self._typed(argv, command) if command.typed else self._plain(argv)
        self.said += f"$ {command.line}\n{printed}"
        assert code == 0, f"{command.line}: exit code {code}\n{printed}"
        missing = first_missing(command.output, printed)
        assert missing is None, f"{command.line}: {missing!r} was not printed, but\n{printed}"

    def _plain(self, argv: list[str]) -> tuple[int, str]:
        done = subprocess.run(
            argv,
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )
        return done.returncode, done.stdout

    def _typed(self, argv: list[str], command: Command) -> tuple[int, str]:
        """In a terminal of its own; a line is typed when nothing has been printed for a moment."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.cwd)
            os.execvpe(argv[0], argv, {"TERM": "xterm", **self.env})
        printed, keys = b"", [_keys(line) for line in command.typed]
        give_up, quiet_since = time.monotonic() + self.timeout_s, time.monotonic()
        try:
            while time.monotonic() < give_up:
                if select.select([terminal], [], [], 0.05)[0]:
                    try:
                        more = os.read(terminal, 65536)
                    except OSError:
                        break
                    if not more:
                        break
                    printed, quiet_since = printed + more, time.monotonic()
                elif keys and printed and time.monotonic() - quiet_since > _QUIET_S:
                    os.write(terminal, keys.pop(0))
                    quiet_since = time.monotonic()
            else:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"{command.line}: no end after {self.timeout_s} s\n{printed.decode()}")
        finally:
            _, status = os.waitpid(pid, 0)
            os.close(terminal)
        return os.waitstatus_to_exitcode(status), printed.decode(errors="replace").replace("\r\n", "\n")


def commands(page: str) -> list[Command]:
    """The commands of a page in their order."""
    found: list[Command] = []
    for kind, body in _FENCE.findall(page):
        if kind == "text":
            assert found, "a block of output without a command before it"
            found[-1] = Command(**{**vars(found[-1]), "output": tuple(filter(None, body.splitlines()))})
            continue
        lines = body.replace("\\\n", "").splitlines()
        elsewhere = bool(lines) and lines[0].strip() == _OTHER_TERMINAL
        for line in filter(None, (line.strip() for line in lines)):
            if line == _STOP_OTHER:
                found.append(Command(line=line))
            elif line.startswith(_TYPED):
                before = found[-1]
                found[-1] = Command(**{**vars(before), "typed": (*before.typed, line.removeprefix(_TYPED))})
            elif not line.startswith("#"):
                found.append(Command(line=line, elsewhere=elsewhere))
    return found


def first_missing(wanted: tuple[str, ...], printed: str) -> str | None:
    """The first of these lines that does not come, in this order, in what was printed."""
    at = 0
    for line in wanted:
        pattern = ".*".join(re.escape(part) for part in line.strip().split("…"))
        match = re.search(pattern, printed[at:])
        if match is None:
            return line
        at += match.end()
    return None


def terminal_env(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """`env` with pushtrain on PATH, and clients of ssh that look into its HOME."""
    shims = folder / "shims"
    shims.mkdir(exist_ok=True)
    for name in ("ssh", "scp"):
        if real := shutil.which(name):
            config = '"$HOME/.ssh/config"'
            script = f'#!/bin/sh\n[ -e {config} ] && exec {real} -F {config} "$@"\nexec {real} -F none "$@"\n'
            (shims / name).write_text(script)
            (shims / name).chmod(0o755)
    return {**env, "PATH": f"{shims}:{Path(sys.executable).parent}:{env['PATH']}"}


def _keys(line: str) -> bytes:
    """`Ctrl-B d` as keys, everything else as a line."""
    if not line.startswith("Ctrl-"):
        return line.encode() + b"\r"
    control, *rest = line.split()
    return bytes([ord(control[-1].upper()) - 64]) + " ".join(rest).encode()
