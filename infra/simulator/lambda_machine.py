"""One machine of the simulated Lambda Cloud, as a process: `python lambda_machine.py`, with the machine's environment.

It does what cloud-init does at a boot: runs the script that the user data puts among those for every boot, with
stand-ins for what that script needs and this computer has not or must not use: docker, poweroff, systemd and so on. A
machine that was powered off stays: it is listed and billed, and nothing runs on it, also after a reboot. Standard
library only.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_OPTIONS = {"--name", "--gpus", "--ipc", "--ulimit", "-v", "-e", "-p"}
_FROM_MACHINE = (
    "PATH",
    "LANG",
    "HOME",
    "TMPDIR",
    "HF_ENDPOINT",
    "OMP_NUM_THREADS",
    "SIMULATED_INSTANCE_ID",
    "PUSHTRAIN_WORKSPACE",
    "PUSHTRAIN_TRAINER_PYTHON",
)
_PER_BOOT = "/var/lib/cloud/scripts/per-boot/"
_LOOK_S = 0.05
_PROGRAMS = ("docker", "poweroff", "systemctl", "mountpoint", "apt-get", "nvidia-ctk", "systemd-run")


def boot() -> None:
    """Never returns: a machine is there until somebody terminates it."""
    machine = Path(os.environ["SIMULATED_MACHINE"])
    off = machine / "powered-off"
    for name in _PROGRAMS:
        program = machine / "tools" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {Path(__file__).resolve()} {name} "$@"\n')
        program.chmod(0o755)
    running = [] if off.exists() else [_start(script) for script in _scripts(os.environ["SIMULATED_USER_DATA"])]
    while not off.exists():
        time.sleep(_LOOK_S)
    print("machine: powered off", flush=True)
    for script in running:
        script.kill()
        script.wait()
    _kill_others(os.environ["SIMULATED_INSTANCE_ID"])
    while True:
        time.sleep(3600)


def docker(arguments: Sequence[str]) -> int:
    """`docker run` of the few options that are known here; the command runs on this computer instead of in the image.
    An option that is not known is an error, as it is docker's."""
    if arguments[:1] != ["run"]:
        return 0
    names, rest = list[str](), list(arguments[1:])
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        name, is_joined, value = option.partition("=")
        if name == "--rm":
            continue
        if name not in _OPTIONS:
            print(f"docker: unknown flag: {option}", file=sys.stderr)
            return 125
        value = value if is_joined else rest.pop(0)
        names += [value] if name == "-e" else []
    _, *command = rest
    env = {name: os.environ[name] for name in (*_FROM_MACHINE, *names) if name in os.environ}
    if "SIMULATED_SSH_PORT" in os.environ and "LAMBDA_TCP_PORT_22" in env:
        env["LAMBDA_TCP_PORT_22"] = os.environ["SIMULATED_SSH_PORT"]
    env["PATH"] = os.environ["SIMULATED_PATH"]
    os.execvpe(command[0], command, env)


def main() -> int:
    verb, arguments = (sys.argv[1:] or ["boot"])[0], sys.argv[2:]
    if verb == "docker":
        return docker(arguments)
    if verb == "poweroff":
        (Path(os.environ["SIMULATED_MACHINE"]) / "powered-off").touch()
        time.sleep(3600)  # as there, where nothing after it is reached
    if verb == "mountpoint":
        return 0 if arguments[-1:] == [os.environ["SIMULATED_MOUNT"]] else 32
    if verb == "systemd-run":
        subprocess.Popen([word for word in arguments if not word.startswith("--")], stdin=subprocess.DEVNULL)
    if verb == "boot":
        boot()
    return 0


def _scripts(user_data: str) -> list[str]:
    """Raises ValueError for what is no cloud-config that this knows to read: JSON is YAML."""
    head, _, body = user_data.partition("\n")
    if head != "#cloud-config":
        raise ValueError("not #cloud-config")
    files = [file for file in json.loads(body)["write_files"] if file["path"].startswith(_PER_BOOT)]
    if any(file.get("encoding") != "b64" or file.get("permissions") != "0700" for file in files):
        raise ValueError("a script that cannot run")
    return [base64.b64decode(file["content"]).decode() for file in files]


def _start(script: str) -> "subprocess.Popen[bytes]":
    path = Path(os.environ["TMPDIR"]) / "per-boot"
    path.write_text(script)
    path.chmod(0o700)
    # The stand-ins are the machine's; what runs in its docker has the PATH that came with the machine.
    inside = os.environ["PATH"]
    tools = Path(os.environ["SIMULATED_MACHINE"]) / "tools"
    env = os.environ | {"SIMULATED_PATH": inside, "PATH": f"{tools}:{inside}"}
    return subprocess.Popen([str(path)], stdin=subprocess.DEVNULL, env=env)


def _kill_others(instance_id: str) -> None:
    """Every process of this machine but this one and its container's runner."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from infra.simulator import processes

    processes.stop(instance_id, 0.0, without=(os.getpid(), os.getppid()))


if __name__ == "__main__":
    sys.exit(main())
