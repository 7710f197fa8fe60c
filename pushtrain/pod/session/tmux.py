"""The tmux session `pushtrain` of a pod, and what stands ready beside it: TensorBoard, nvitop, exit-session."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pushtrain.pod.session.look import OURS, is_rented

NAME = "pushtrain"
TENSORBOARD_PORT = 6006
_CALL_S = 15.0
_INSTALL_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Desk:
    """`env` is that of everybody's shells, without our secrets; `work` where they start; `files` is PUSHTRAIN_RUN_DIR;
    `bin` has exit-session, and is in front of their PATH; `closing` is what exit-session writes."""

    env: Mapping[str, str]
    work: Path
    files: Path
    bin: Path
    say: Callable[[str], None]

    @property
    def closing(self) -> Path:
        return self.bin.parent / "closing"

    @property
    def tensorboard_log(self) -> Path:
        return self.bin.parent / "tensorboard.log"

    @property
    def start_ended(self) -> Path:
        """Has the exit code of `session.start` once it has ended."""
        return self.bin.parent / "start-ended"


def make_bin(environ: Mapping[str, str]) -> Path:
    """A folder on the container's own disk: files of a network volume cannot be made executable."""
    folder = Path(tempfile.mkdtemp(prefix="pushtrain-session-")) / "bin"
    folder.mkdir()
    script = folder / "exit-session"
    words = "the session ends: its work is pushed, then the pod goes"
    script.write_text(f"#!/bin/sh\n: > {shlex.quote(str(folder.parent / 'closing'))}\necho '{words}'\n")
    script.chmod(0o755)
    # Whoever comes by ssh has another PATH than tmux.
    everywhere = Path("/usr/local/bin") if is_rented(environ) else _own_programs(environ)
    if everywhere is not None and os.access(everywhere, os.W_OK):
        (everywhere / script.name).unlink(missing_ok=True)
        (everywhere / script.name).symlink_to(script)
    return folder


def _own_programs(environ: Mapping[str, str]) -> Path | None:
    """Where pods share a machine: the folder of PATH that lies beside the pod's own home. The first one will not do: it
    is pyenv's where python is pyenv's, and all pods have that one."""
    beside = Path(environ.get("HOME") or "/").parent
    folders = [Path(it) for it in environ.get("PATH", "").split(":") if it]
    return next((it for it in folders if it.parent == beside and beside != Path("/")), None)


def find_tmux(desk: Desk, environ: Mapping[str, str]) -> bool:
    """Whether there is a tmux; on a rented pod whose image has none it is installed. Says so where there is none."""
    path = desk.env.get("PATH")
    if shutil.which("tmux", path=path) is None and is_rented(environ) and shutil.which("apt-get", path=path):
        desk.say("session: the image has no tmux; installing it")
        for argv in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "tmux"]):
            _run(argv, {**desk.env, "DEBIAN_FRONTEND": "noninteractive"}, _INSTALL_S)
    if shutil.which("tmux", path=path) is not None:
        return True
    desk.say("session: there is no tmux here, and none could be installed: work ends with its ssh connection (nohup)")
    return False


def open_desk(desk: Desk, start: Sequence[str]) -> bool:
    """The tmux session, with `start` in its first window. False where tmux would not."""
    if folder := desk.env.get("TMUX_TMPDIR"):
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    first = ["-n", "start", started(desk, start)] if start else ["-n", "work", f"exec {_shell(desk)}"]
    wanted = ["new-session", "-d", "-s", NAME, "-x", "200", "-y", "50", "-c", str(desk.work), *first]
    done = _run(["tmux", *wanted], desk.env)
    if done.returncode:
        desk.say(f"session: tmux: {done.stderr.strip()[:300]}")
        return False
    # tmux starts login shells, and those take another PATH.
    _run(["tmux", "set-option", "-g", "default-command", f"exec {_shell(desk)}"], desk.env)
    if start:
        _run(["tmux", "new-window", "-d", "-t", f"{NAME}:", "-n", "work", "-c", str(desk.work)], desk.env)
    return True


def started(desk: Desk, start: Sequence[str]) -> str:
    """A line for the shell: the command, its exit code for us, and then a shell in its place."""
    ended = shlex.quote(str(desk.start_ended))
    return f"{shlex.join(start)}; code=$?; echo $code > {ended}; echo; echo start: exit code $code; exec {_shell(desk)}"


def is_open(desk: Desk) -> bool:
    """Whether the tmux session is there; who closes its last window ends it."""
    return _run(["tmux", "has-session", "-t", f"={NAME}"], desk.env).returncode == 0


def open_nvitop(desk: Desk, has_gpu: bool) -> str:
    """A window of ours; returns what is told of it."""
    if not has_gpu:
        return "nvitop: there is no GPU here"
    if shutil.which("nvitop", path=desk.env.get("PATH")) is None:
        return "nvitop: not in this environment"
    _run(["tmux", "new-window", "-d", "-t", f"{NAME}:", "-n", "gpu", "nvitop"], desk.env)
    _run(["tmux", "set-option", "-w", "-t", f"{NAME}:gpu", OURS, "1"], desk.env)
    return "nvitop: in the window gpu"


def start_tensorboard(desk: Desk, ports: Sequence[str], log: Path) -> "tuple[subprocess.Popen[bytes] | None, str]":
    """TensorBoard over the run's files, for this machine alone unless the spec opens its port; and what is told."""
    program = shutil.which("tensorboard", path=desk.env.get("PATH"))
    if program is None:
        return None, "TensorBoard: not in this environment"
    is_public = any(port.partition("/")[0] == str(TENSORBOARD_PORT) for port in ports)
    host = "0.0.0.0" if is_public else "127.0.0.1"
    argv = [program, "--logdir", str(desk.files), "--host", host, "--port", str(TENSORBOARD_PORT)]
    with log.open("wb") as out:
        server = subprocess.Popen(argv, env=dict(desk.env), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    return server, f"TensorBoard: port {TENSORBOARD_PORT}, over {desk.files}"


def why_ended(server: "subprocess.Popen[bytes]", log: Path) -> str:
    """The last words of a TensorBoard that is not there any more, its port taken, say; empty while it runs."""
    if server.poll() is None:
        return ""
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return f"TensorBoard ended with exit code {server.returncode}: {lines[-1][:300] if lines else 'no word'}"


def tell(desk: Desk, text: str) -> None:
    """A line at the bottom of every attached terminal; where nobody is attached nobody reads it."""
    listed = _run(["tmux", "list-clients", "-F", "#{client_name}"], desk.env).stdout.split()
    for client in listed:
        _run(["tmux", "display-message", "-d", "10000", "-c", client, text.replace("#", "##")], desk.env)


def close_desk(desk: Desk) -> None:
    _run(["tmux", "kill-server"], desk.env)
    if folder := desk.env.get("TMUX_TMPDIR"):
        shutil.rmtree(folder, ignore_errors=True)


def _shell(desk: Desk) -> str:
    """The people's own, else the best of the image's."""
    path = desk.env.get("PATH")
    return shlex.quote(desk.env.get("SHELL") or shutil.which("bash", path=path) or "/bin/sh")


def _run(argv: Sequence[str], env: Mapping[str, str], timeout_s: float = _CALL_S) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(list(argv), 127, "", str(error))
