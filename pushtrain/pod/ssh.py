"""sshd on the pod, from the attempt's first second on: our start command replaces the image's, which would start one.

Keys come by the account: RunPod puts its public keys into the pod's environment as PUBLIC_KEY. The host key is made new
for each container and told in the ledger, so that nobody has to trust a stranger on first use. What is missing (a key,
a port, sshd in the image) costs one line of the log, never the run. Standard library only.
"""

import base64
import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pushtrain.pod.place import mapped, pod_id, words
from pushtrain.pod.processes import descendants, send

ASKED = "PUSHTRAIN_SSH"
# Fingerprints that the event names; all keys are let in.
MOST_KEYS = 100
_KEY_LINE = re.compile(r"(ssh|ecdsa|sk)-\S+ (?P<blob>[A-Za-z0-9+/=]{16,})( .*)?")
_READY_S, _KEYGEN_S, _LEAVE_S = 5.0, 10.0, 1.0
# Administrators' programs are not on every PATH.
_MORE_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
# Of no use in somebody's shell, or the shell's own.
_NOT_FOR_SHELLS = re.compile(r"SHLVL|PWD|OLDPWD|_|TERM|USER|LOGNAME|SHELL|LS_COLORS|PUBLIC_KEY|SSH_.*|PYTHON.*|BASH.*")
_PROFILE = 'if [ -n "$PUSHTRAIN_SHELL_PATH" ]; then PATH=$PUSHTRAIN_SHELL_PATH; cd "$PUSHTRAIN_WORKSPACE"; fi'
# Nothing but keys; nobody asks for a name; a laptop that sleeps is let go after two minutes, and no bot fills a disk.
_CONFIG = """\
Port 22
HostKey {folder}/host_key
PidFile {folder}/pid
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
AllowUsers {user}
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
X11Forwarding no
PrintMotd no
UseDNS no
LogLevel ERROR
LoginGraceTime 30
MaxStartups 20:30:100
MaxSessions 50
ClientAliveInterval 30
ClientAliveCountMax 4
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""


@dataclass
class Door:
    """How this container is reached. `told` is for the attempt's first event: {} where nobody asked, `off` and `why`
    where it is shut, else `host_key`, `user`, `keys` (fingerprints that are let in) and `folder` (the volume)."""

    told: dict[str, Any] = field(default_factory=dict)
    server: "subprocess.Popen[bytes] | None" = None

    def close(self) -> None:
        """End sshd and everybody who is logged in: a shell that ignores SIGTERM must not hold up the end of the pod."""
        if self.server is None or self.server.poll() is not None:
            return
        guests = set(descendants(self.server.pid))
        send([self.server.pid], signal.SIGTERM)
        send(guests, signal.SIGHUP)
        give_up_s = time.monotonic() + _LEAVE_S
        # Without the server they are the watchdog's children, no longer ours.
        while (left := set(filter(_lives, guests))) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        send(left, signal.SIGKILL)


def open_door(
    environ: Mapping[str, str],
    shells: Mapping[str, str],
    *,
    workspace: Path,
    programs: Path,
    say: Callable[[str], None],
) -> Door:
    """Start sshd where `PUSHTRAIN_SSH` asks for it. `shells` is the environment of whoever logs in, with `programs` in
    front of its PATH; secrets among it go to sshd by a pipe, into no file. Never raises; bounded by some seconds."""
    if environ.get(ASKED) != "1":
        return Door()
    try:
        door = _open(environ, shells, workspace, programs)
    except (OSError, KeyError, subprocess.SubprocessError) as error:
        door = _shut("Failed", f"sshd could not be started: {error}")
    told = door.told
    say(
        f"ssh: {told['why']}"
        if "off" in told
        else f"ssh: sshd is up; {len(told['keys'])} keys of the account are let in"
    )
    return door


def authorized(public_keys: str) -> dict[str, str]:
    """Lines of PUBLIC_KEY that are public keys, by fingerprint; anything else in it is left out."""
    lines = [line.strip() for line in public_keys.splitlines()]
    return {fingerprint(match["blob"]): match[0] for line in lines if (match := _KEY_LINE.fullmatch(line))}


def fingerprint(blob: str) -> str:
    """As ssh-keygen -l prints it: `SHA256:` and 43 characters."""
    raw = base64.b64decode(blob + "=" * (-len(blob) % 4))
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


def sshd_config(folder: Path, user: str, shells: Mapping[str, str]) -> str:
    """The whole configuration, the shells' environment at its end. What sshd's quoting cannot carry is left out there:
    quotes, backslashes, line ends."""
    known = {name: value for name, value in shells.items() if not _NOT_FOR_SHELLS.fullmatch(name)}
    pairs = [f'"{name}={value}"' for name, value in sorted(known.items()) if not re.search(r'["\\\n\r\0]', value)]
    return _CONFIG.format(folder=folder, user=user) + f"SetEnv {' '.join(pairs)}\n"


def _open(environ: Mapping[str, str], shells: Mapping[str, str], workspace: Path, programs: Path) -> Door:
    path = f"{environ.get('PATH', '')}:{_MORE_PATH}"
    keys = authorized(environ.get("PUBLIC_KEY", ""))
    if not keys:
        return _shut("NoKeys", "nobody can log in: the account had no ssh key when this pod was made")
    if not mapped(environ, 22):
        return _shut("NoPort", "nobody can log in directly: this machine maps no port to 22/tcp of the pod")
    sshd, keygen = shutil.which("sshd", path=path), shutil.which("ssh-keygen", path=path)
    if sshd is None or keygen is None:
        return _shut("NoSshd", f"nobody can log in: the image has no {'ssh-keygen' if sshd else 'sshd'}")
    user = pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="pushtrain-ssh-"))
    host_key = _prepare(folder, keys, keygen)
    shells = {**shells, "PUSHTRAIN_WORKSPACE": str(workspace), "PUSHTRAIN_SHELL_PATH": f"{programs}:{path}"}
    shells["PATH"] = shells["PUSHTRAIN_SHELL_PATH"]
    env = {"PATH": path, "LANG": "C.UTF-8"} | ({words(environ).pod_id: pod_id(environ)} if pod_id(environ) else {})
    server = _start(sshd, sshd_config(folder, user, shells), env, folder / "log")
    if (said := _refused(server, folder)) is not None and server.returncode == 127:
        return _shut("NoSshd", f"nobody can log in: the image has no sshd ({said})")
    if said is not None:
        return _shut("Failed", f"sshd could not be started: {said}")
    _greet(Path(environ.get("HOME") or "/root"))
    told = {"host_key": host_key, "user": user, "keys": list(keys)[:MOST_KEYS], "folder": str(workspace)}
    return Door(told, server)


def _prepare(folder: Path, keys: Mapping[str, str], keygen: str) -> str:
    """The container's own host key and whom it lets in, in a folder nobody else can read; returns the public key."""
    if os.getuid() == 0:
        # Where sshd puts the part of it that speaks to strangers; images make it when they start sshd themselves.
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    make = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "pushtrain", "-f", str(folder / "host_key")]
    subprocess.run(make, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=_KEYGEN_S)
    (folder / "authorized_keys").write_text("\n".join(keys.values()) + "\n")
    kind, blob = (folder / "host_key.pub").read_text().split()[:2]
    return f"{kind} {blob}"


def _start(sshd: str, config: str, env: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sshd, "-D", "-e", "-f", "/dev/stdin"],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    assert server.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended before it read a line; `_refused` has what it said
        server.stdin.write(config.encode())
        server.stdin.close()
    return server


def _refused(server: "subprocess.Popen[bytes]", folder: Path) -> str | None:
    """What sshd said when it ended at once; None when it listens (it writes its pid then), or is slow about it."""
    give_up_s = time.monotonic() + _READY_S
    while time.monotonic() < give_up_s and not (folder / "pid").exists():
        if server.poll() is not None:
            said = (folder / "log").read_text(errors="replace").strip()
            return " / ".join(said.splitlines()[-3:])[:500] or f"exit code {server.returncode}"
        time.sleep(0.02)
    return None


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _greet(home: Path) -> None:
    """A login shell resets PATH by /etc/profile and starts in a home that is lost with the container: both are set
    right for whoever comes by ssh."""
    profile = home / ".profile"
    before = profile.read_text() if profile.is_file() else ""
    if _PROFILE not in before:
        profile.write_text(f"{before}{_PROFILE}\n")


def _shut(off: str, why: str) -> Door:
    return Door({"off": off, "why": why})
