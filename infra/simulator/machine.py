"""The machine under the simulated cloud: folders for volumes and pods, one container process for each pod.

Pods are processes of the user who runs the simulator, not a sandbox: run only job specs you would run yourself.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.simulator import processes, store
from infra.simulator.pod_env import tmux_dir

# RunPod's images without a start command run their own services; a pod here just stays up.
_IDLE_COMMAND = ["sleep", "infinity"]
STOP_GRACE_S = 0.7
# "root" is removed last, so that its absence means all is gone.
_SCRATCH = ("home", "tmp", "bin", "root")


@dataclass(frozen=True, slots=True)
class Running:
    """A container whose main process lives."""

    pid: int
    started_at: float
    restarts: int


class Machine:
    """Folders below `root`; processes are children of this process or adopted from an earlier one. With `restarts` a
    container whose command ended is started again, as RunPod does it."""

    def __init__(self, root: Path, restarts: bool = True) -> None:
        self._root, self._restarts = root, restarts
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def pod_dir(self, pod_id: str) -> Path:
        return self._root / "pods" / pod_id

    def log_path(self, pod_id: str) -> Path:
        return self.pod_dir(pod_id) / "container.log"

    def volume_dir(self, volume_id: str) -> Path:
        return self._root / "volumes" / volume_id

    def persistent_dir(self, pod_id: str) -> Path:
        """The pod's own disk, which survives a stop but not the pod."""
        return self.pod_dir(pod_id) / "volume"

    def create_volume(self, volume_id: str) -> None:
        self.volume_dir(volume_id).mkdir(parents=True, exist_ok=True)

    def delete_volume(self, volume_id: str) -> None:
        shutil.rmtree(self.volume_dir(volume_id), ignore_errors=True)

    def has_disk(self, pod_id: str) -> bool:
        """False before the first launch and after `wipe`."""
        return (self.pod_dir(pod_id) / _SCRATCH[-1]).exists()

    def wipe(self, pod_id: str) -> None:
        """Empty the container disk of a stopped pod, as RunPod does."""
        for name in _SCRATCH:
            shutil.rmtree(self.pod_dir(pod_id) / name, ignore_errors=True)
        shutil.rmtree(tmux_dir(pod_id), ignore_errors=True)

    def launch(
        self,
        pod_id: str,
        run: int,
        args: str,
        env: Mapping[str, str],
        expires_at: float,
        ssh_port: int | None = None,
    ) -> None:
        """Start the container process with exactly `env`; it ends by itself at `expires_at` (epoch seconds).

        `run` counts the pod's starts from stopped, so that one start's processes are not taken for the next one's.
        `ssh_port` is only remembered: what port 22 of this run is outside.

        RunPod hands `args` to the image's entry point as a command line. Here it IS the command: split like a shell
        would and executed, so `bash -c '…'` runs in bash. A line that cannot be split runs as one word and fails.
        """
        for name in _SCRATCH:
            (self.pod_dir(pod_id) / name).mkdir(parents=True, exist_ok=True)
        plan = {"command": _command(args), "expires_at": expires_at, "run": run, "ssh_port": ssh_port}
        plan["restarts"] = self._restarts
        store.write_json(self.pod_dir(pod_id) / "command.json", plan)
        container = Path(__file__).with_name("container.py")
        with (self.pod_dir(pod_id) / "runner.err").open("ab") as complaints:
            self._children[pod_id] = subprocess.Popen(
                [sys.executable, "-I", "-S", str(container), str(self.pod_dir(pod_id))],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            )

    def launched_run(self, pod_id: str) -> int | None:
        """Which run the disk and whatever lives there belong to; None before the first launch."""
        run = self._read(pod_id, "command.json").get("run")
        return int(run) if run is not None else None

    def ssh_port(self, pod_id: str) -> int | None:
        """What port 22 of the pod is outside; None where it is not reached."""
        port = self._read(pod_id, "command.json").get("ssh_port")
        return int(port) if port is not None else None

    def has_runner(self, pod_id: str) -> bool:
        """The process that restarts the container lives: as our child, or as an earlier simulator's."""
        child = self._children.get(pod_id)
        if child is not None and child.poll() is None:
            return True
        runner = self._read(pod_id, "container.json").get("runner")
        return runner is not None and processes.is_running(runner["pid"], runner["ticks"])

    def running(self, pod_id: str) -> Running | None:
        """None before the container runs, between two restarts, and after its end."""
        published = self._read(pod_id, "container.json")
        main = published.get("main")
        if main is None or not processes.is_running(main["pid"], main["ticks"]):
            return None
        return Running(main["pid"], published["started_at"], published["restarts"])

    def kill_container(self, pod_id: str) -> bool:
        """Kill the container's main process, as a crash would; its runner starts it again. False: none ran."""
        running = self.running(pod_id)
        if running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)
        return running is not None

    def stop(self, pod_id: str, grace_s: float = STOP_GRACE_S) -> dict[int, int]:
        """Stop every process of the pod; blocks for the grace and a little. Returns what still lives, normally none."""
        left = processes.stop(pod_id, grace_s)
        child = self._children.pop(pod_id, None)
        if child is not None and not left:
            child.wait(timeout=5)
        (self.pod_dir(pod_id) / "container.json").unlink(missing_ok=True)
        return left

    def discard(self, pod_id: str) -> None:
        """Remove the disks of a stopped pod; its log stays for whoever looks into the state folder."""
        self.wipe(pod_id)
        shutil.rmtree(self.persistent_dir(pod_id), ignore_errors=True)

    def _read(self, pod_id: str, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.pod_dir(pod_id) / name).read_text()))
        except FileNotFoundError:
            return {}


def _command(args: str) -> list[str]:
    try:
        return shlex.split(args) or _IDLE_COMMAND
    except ValueError:
        return [args]
