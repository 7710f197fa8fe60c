"""The `pulumi` program as a child process: found on the PATH we were given, interrupted when we are, never for ever."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pulumi.automation import CommandResult, PulumiCommand
from pulumi.automation.errors import create_command_error
from semver import VersionInfo

from pushtrain.errors import EngineError

# The oldest CLI the engine's contract suite has been run with.
MINIMUM = VersionInfo(3, 259, 0)
_HINT = (
    f"install pulumi {MINIMUM} or newer (pulumi.com/docs/iac/download-install) and put it on PATH, "
    "or set PUSHTRAIN_ENGINE=embedded, which needs no CLI"
)
# A volume waits 85 s for its pod, a create a few minutes for the cloud: far above both.
_TIMEOUT_S = 1800.0
_GRACE_S = 60.0


class PulumiCli(PulumiCommand):
    """Runs the CLI with exactly `environ`, in a process group of its own.

    A SIGINT or SIGTERM that reaches this process is passed to the CLI as SIGINT, at which it ends the steps in
    flight, saves its state and lets go of its lock; then the signal goes on to whoever handled it before. Without
    this the CLI would be killed with the job, its state locked.
    """

    def __init__(self, environ: Mapping[str, str], timeout_s: float = _TIMEOUT_S) -> None:
        """Raises EngineError when the CLI is absent, does not start, or is too old."""
        found = shutil.which("pulumi", path=environ.get("PATH", os.defpath))
        if found is None:
            raise EngineError("the Pulumi CLI is not on PATH", hint=_HINT)
        self.command = found
        self._environ = dict(environ)
        self._timeout_s = timeout_s
        self.version = self._read_version()

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], Any] | None = None,
        on_error: Callable[[str], Any] | None = None,
    ) -> CommandResult:
        """Raises pulumi.automation.CommandError when the CLI fails, EngineError when it takes more than `timeout_s`."""
        process = subprocess.Popen(
            [self.command, "--non-interactive", *args],
            cwd=cwd,
            env={**self._environ, **additional_env, "PULUMI_AUTOMATION_API": "true"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
        with _signals_forwarded(process):
            stdout, stderr = self._outcome(process, args)
        for text, callback in ((stdout, on_output), (stderr, on_error)):
            if callback is not None:
                for line in text.splitlines():
                    callback(line)
        result = CommandResult(stdout=stdout.rstrip("\n"), stderr=stderr.rstrip("\n"), code=process.returncode)
        if process.returncode != 0:
            raise create_command_error(result)
        return result

    def _outcome(self, process: subprocess.Popen[str], args: list[str]) -> tuple[str, str]:
        try:
            return process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise EngineError(
            f"'pulumi {args[0]}' took more than {self._timeout_s:.0f} s and was stopped",
            hint="run it again: what had been created is in the state, or is adopted by its name",
        )

    def _read_version(self) -> VersionInfo:
        try:
            answer = subprocess.run(
                [self.command, "version"], env=self._environ, capture_output=True, text=True, timeout=60, check=True
            )
            version = VersionInfo.parse(answer.stdout.strip().removeprefix("v"))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise EngineError(f"{self.command} does not say its version: {error}", hint=_HINT) from error
        if version < MINIMUM:
            raise EngineError(f"{self.command} is version {version}, pushtrain needs {MINIMUM}", hint=_HINT)
        return version


@contextmanager
def _signals_forwarded(process: subprocess.Popen[str]) -> Iterator[None]:
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
