"""The `pulumi` program as a child process: found on the PATH we were given, interrupted when we are, never for ever."""

import copy
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import IO, Any

from pulumi.automation import CommandResult, PulumiCommand
from pulumi.automation.errors import create_command_error
from semver import VersionInfo

from infra.pulumi_lock import MARK, Calls, end_leftovers
from infra.setup_pulumi import VERSION
from pushtrain.errors import EngineError

MINIMUM = VersionInfo.parse(VERSION)
_HINT = (
    f"pulumi {MINIMUM} or newer has to be on PATH ('pushtrain setup-pulumi' downloads it), "
    "or set PUSHTRAIN_ENGINE=embedded, which needs no CLI"
)
# A volume waits 85 s for its pod, a create a few minutes for the cloud: far above both.
_TIMEOUT_S = 1800.0
_GRACE_S = 60.0
_VERSION_TIMEOUT_S = 60.0
# The commands of ours that lock a stack.
_LOCKING = (["up"], ["refresh"], ["destroy"], ["stack", "init"], ["stack", "import"], ["stack", "rm"])


class PulumiCli(PulumiCommand):
    """Runs the CLI with exactly `environ`, in a process group of its own.

    A SIGINT or SIGTERM that reaches this process is passed to the CLI as SIGINT, at which it ends the steps in
    flight, saves its state and lets go of its lock; then the signal goes on to whoever handled it before. Without
    this the CLI would be killed with the job, its state locked.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        calls: Calls | None = None,
        timeout_s: float = _TIMEOUT_S,
        version_timeout_s: float = _VERSION_TIMEOUT_S,
    ) -> None:
        """`calls` remembers whom we started. Raises EngineError when the CLI is absent, does not start or is old."""
        path = environ.get("PATH", os.defpath)
        found = shutil.which("pulumi", path=path)
        if found is None:
            there = next((it for it in _folders(path) if (it / "pulumi").is_file()), None)
            what = "is not on PATH" if there is None else f"{there / 'pulumi'} is not executable"
            raise EngineError(f"the Pulumi CLI {what}", hint=_HINT)
        self.command = found
        self._environ = dict(environ)
        self._calls = calls
        self._timeout_s = timeout_s
        self.version = self._read_version(version_timeout_s)

    def unrecorded(self) -> "PulumiCli":
        """The same CLI for a backend of our own, which nobody else can find locked."""
        other = copy.copy(self)
        other._calls = None
        return other

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], Any] | None = None,
        on_error: Callable[[str], Any] | None = None,
    ) -> CommandResult:
        """Raises CommandError when the CLI fails, EngineError when it is killed or takes more than `timeout_s`."""
        mark = uuid.uuid4().hex
        # Files, not pipes: with us gone, a pipe would kill the CLI at its next word, in the middle of a step.
        with _file() as out, _file() as err:
            process = subprocess.Popen(
                [self.command, "--non-interactive", *args],
                cwd=cwd,
                env={**self._environ, **additional_env, "PULUMI_AUTOMATION_API": "true", MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,
            )
            with _signals_forwarded(process), self._remembered(process, args, mark):
                self._wait(process, args, mark)
            stdout, stderr = _text(out), _text(err)
        for text, callback in ((stdout, on_output), (stderr, on_error)):
            if callback is not None:
                for line in text.splitlines():
                    callback(line)
        result = CommandResult(stdout=stdout, stderr=stderr, code=process.returncode)
        if process.returncode != 0:
            raise create_command_error(result)
        return result

    def _wait(self, process: subprocess.Popen[bytes], args: list[str], mark: str) -> None:
        try:
            process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._stop(process, mark)
            what = f"took more than {self._timeout_s:.0f} s and was stopped"
        else:
            if process.returncode >= 0:
                return
            end_leftovers(mark)
            what = f"was killed ({signal.Signals(-process.returncode).name})"
        raise EngineError(
            f"'pulumi {args[0]}' {what}",
            hint="run it again: what had been created is in the state, or is adopted by its name",
        )

    @staticmethod
    def _stop(process: subprocess.Popen[bytes], mark: str) -> None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            end_leftovers(mark)
            process.wait()

    @contextmanager
    def _remembered(self, process: subprocess.Popen[bytes], args: list[str], mark: str) -> Iterator[None]:
        """The call is on record as long as its CLI may hold a lock: also after it was killed, or we were."""
        if self._calls is None or not any(args[: len(it)] == it for it in _LOCKING):
            yield
            return
        call = self._calls.begin(_stack_of(args), process.pid, mark)
        try:
            yield
        finally:
            if process.returncode is not None and process.returncode >= 0:
                self._calls.end(call, held_lock=process.returncode == 0)

    def _read_version(self, timeout_s: float) -> VersionInfo:
        try:
            answer = subprocess.run(
                [self.command, "version"],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"'{self.command} version' said nothing for {timeout_s:g} s", hint=_HINT) from None
        except OSError as error:
            raise EngineError(f"{self.command} does not start: {error.strerror}", hint=_HINT) from error
        said = answer.stdout.strip()
        try:
            version = VersionInfo.parse(said.removeprefix("v"))
        except ValueError:
            shown = said[:80] or answer.stderr.strip()[:80] or "nothing"
            raise EngineError(
                f"{self.command} does not say its version: it says {shown!r} and exits with {answer.returncode}",
                hint=_HINT,
            ) from None
        if version < MINIMUM:
            raise EngineError(f"{self.command} is version {version}, pushtrain needs {MINIMUM} or newer", hint=_HINT)
        return version


@contextmanager
def _signals_forwarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Only the main thread may set handlers; from any other the CLI just runs to its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def forward(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)
        process.send_signal(signal.SIGINT)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if received:
            signal.raise_signal(received[0])


def _stack_of(args: list[str]) -> str:
    """As the Automation API writes it: `stack init NAME`, all else with `--stack NAME`."""
    return args[2] if args[:2] == ["stack", "init"] else args[args.index("--stack") + 1]


def _file() -> IO[bytes]:
    """In memory where the system has such files: an export may hold a secret in plain text."""
    return os.fdopen(os.memfd_create("pulumi"), "w+b") if sys.platform == "linux" else TemporaryFile()


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace").rstrip("\n")


def _folders(path: str) -> list[Path]:
    return [Path(folder) for folder in path.split(os.pathsep) if folder]
