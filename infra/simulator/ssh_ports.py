"""What a simulated pod finds on its PATH as `sshd`: the machine's own, or a stand-in, on a port of loopback.

Pods share this machine's network, so none of them can have its port 22; on RunPod port 22 of a pod has another number
outside, too. No pod ever finds the machine's own sshd by itself, which would open the real port 22.
"""

import random
import shlex
import socket
import sys
from pathlib import Path

# Below what Linux gives to outgoing connections, so that a port that is free now is not taken by one a moment later.
_PORTS = range(20_000, 32_000)
_PROGRAMS = ("/usr/sbin/sshd", "/usr/local/sbin/sshd")


def programs(pod_dir: Path) -> Path:
    return pod_dir / "bin"


def free_port() -> int:
    """A port of loopback nobody listens on. Raises OSError when a hundred tries find none."""
    for _ in range(100):
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise OSError("no free port on 127.0.0.1")


def write_sshd(pod_dir: Path, port: int | None, *, is_there: bool = True, slow_s: float = 0.0) -> None:
    """Put `sshd` into the pod's `bin`, listening on `port` whatever its configuration says. `port` None, or `is_there`
    False: one that says that there is none. `slow_s`: it starts so much later."""
    if port is None or not is_there:
        script = "echo 'sshd: not in this image' >&2; exit 127"
    else:
        real = next((path for path in _PROGRAMS if Path(path).exists()), None)
        standin = [sys.executable, "-I", str(Path(__file__).with_name("ssh_standin.py"))]
        command = shlex.join([real] if real else standin)
        script = f'sleep {slow_s:g}; exec {command} "$@" -p {port} -o ListenAddress=127.0.0.1'
    path = programs(pod_dir) / "sshd"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def write_runpodctl(folder: Path, meeting: Path) -> None:
    """Put `runpodctl` into `folder`; those with the same `meeting` can send to and receive from each other."""
    program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("runpodctl.py")), str(meeting)]
    folder.mkdir(parents=True, exist_ok=True)
    meeting.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "runpodctl"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
    path.chmod(0o755)
