"""The container of one pod, as a process of its own: `python container.py POD_DIR`, with the pod's environment.

It does what RunPod's host does: runs the start command in POD_DIR/root, and when it ends runs it again, for ever and
billed, until somebody stops it; where the plan's `restarts` is false it ends with its command. Standard library only,
because it runs isolated from the pod's own Python settings.

POD_DIR/command.json   in   {"command": […], "expires_at": epoch seconds, "restarts": true | false}
POD_DIR/container.json out  {"runner": {"pid", "ticks"}, "main": {"pid", "ticks"} | null, "started_at", "restarts"}
POD_DIR/container.log  out  stdout and stderr of everything inside, with times and numbers (container_log.py)
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run by path and isolated (-I -S): the pod's PYTHONPATH is not looked at, so our own root is named here.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from infra.simulator import processes
from infra.simulator.container_log import LINE_BYTES, LogWriter

_PR_SET_CHILD_SUBREAPER = 36
# Docker's rule for restart delays: doubling, reset once a container has lived long enough.
_FIRST_DELAY_S, _LONGEST_DELAY_S, _LIVED_S = 0.1, 10.0, 10.0
_STOP_GRACE_S = 1.0


class Container:
    """Runs the command again and again. Not reusable; `stop` may come from a signal handler."""

    def __init__(self, pod_dir: Path, pod_id: str) -> None:
        plan = json.loads((pod_dir / "command.json").read_text())
        self._command: list[str] = plan["command"]
        self._expires_at: float = plan["expires_at"]
        self._restarts: bool = plan.get("restarts", True)
        self._pod_dir = pod_dir
        self._pod_id = pod_id
        self._log = LogWriter(pod_dir / "container.log")
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Returns once stopped or expired, with no process of the pod left but this one."""
        restarts, delay_s = 0, _FIRST_DELAY_S
        self._system("create container")
        while not self._ends():
            started_at = time.time()
            started = self._spawn()
            if started is not None:
                main, copier = started
                self._publish(main, started_at, restarts)
                code = self._wait(main)
                copier.join(timeout=1.0)
                self._system(f"container exited with code {code}")
            self._publish(None, None, restarts)
            if not self._restarts:
                break
            if time.time() - started_at > _LIVED_S:
                delay_s = _FIRST_DELAY_S
            self._stopping.wait(0 if self._ends() else delay_s)
            restarts, delay_s = restarts + 1, min(delay_s * 2, _LONGEST_DELAY_S)
        self._system("stop container")

    def _ends(self) -> bool:
        return self._stopping.is_set() or time.time() >= self._expires_at

    def _spawn(self) -> tuple[int, threading.Thread] | None:
        reader, writer = os.pipe()
        try:
            pid = os.posix_spawnp(
                self._command[0],
                self._command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, writer, 1),
                    (os.POSIX_SPAWN_DUP2, writer, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGPIPE],
            )
        except OSError as error:
            os.close(reader)
            self._system(f"failed to start container: exec {self._command[0]!r}: {error.strerror}")
            return None
        finally:
            os.close(writer)
        self._system(f"start container: pid {pid}")
        copier = threading.Thread(target=self._copy, args=(reader,), daemon=True)
        copier.start()
        return pid, copier

    def _copy(self, reader: int) -> None:
        """Lines of the container into the log, until the last process that holds the pipe is gone."""
        rest = b""
        with open(reader, "rb", buffering=0) as pipe:
            while chunk := pipe.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._container(line)
        if rest:
            self._container(rest)

    def _wait(self, main: int) -> int | None:
        """Until the main process ends; then, as with a pid namespace, everything else inside ends too.

        Returns its exit code, negative for a signal; None when it was stopped from outside.
        """
        code = None
        while code is None and not self._ends():
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == main:
                code = os.waitstatus_to_exitcode(status)
            elif pid == 0:
                self._stopping.wait(0.05)
        left = processes.stop(self._pod_id, _STOP_GRACE_S if code is None else 0.0)
        if left:
            self._system(f"processes that cannot be killed: {sorted(left)}")
        self._reap()
        return code

    def _reap(self) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return

    def _publish(self, main: int | None, started_at: float | None, restarts: int) -> None:
        ticks = processes.start_ticks(main) if main is not None else None
        state: dict[str, Any] = {
            "runner": {"pid": os.getpid(), "ticks": processes.start_ticks(os.getpid())},
            "main": None if main is None or ticks is None else {"pid": main, "ticks": ticks},
            "started_at": started_at,
            "restarts": restarts,
        }
        temporary = self._pod_dir / "container.json.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self._pod_dir / "container.json")

    def _container(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_BYTES):
            text = line[start : start + LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
            self._log.write("container", text, time.time())

    def _system(self, line: str) -> None:
        self._log.write("system", line, time.time())


def main() -> None:
    pod_dir = Path(sys.argv[1]).resolve()
    os.chdir(pod_dir / "root")
    # Orphans of the container become ours: they are reaped, and found even without the marker in their environment.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    container = Container(pod_dir, pod_dir.name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: container.stop())
    container.run()


if __name__ == "__main__":
    main()
