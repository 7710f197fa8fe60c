"""The command lines of OpenSSH's client, and the files it needs: one pinned host key a run, our own key.

Everything of ours lies in `~/.ssh/pushtrain`; the user's own known_hosts is neither read nor written.
"""

import os
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pushtrain.errors import SshError
from pushtrain.ssh.endpoint import Endpoint

KEY_NAME = "pushtrain_ed25519"
KEY_VARIABLE = "PUSHTRAIN_SSH_KEY"
# A forgotten shell notices within a minute that its pod is gone.
_ALIVE = ("ServerAliveInterval=15", "ServerAliveCountMax=4", "ConnectTimeout=15")
# Only this key at this host: whatever the user's own configuration says.
_DIRECT = (
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "HostKeyAlgorithms=ssh-ed25519",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "ControlMaster=no",
    "ControlPath=none",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SshFiles:
    """`known_hosts` pins this endpoint's host key. `identity` is our private key; None: what the client finds."""

    known_hosts: Path
    identity: Path | None


def folder(environ: Mapping[str, str]) -> Path:
    return home(environ) / ".ssh" / "pushtrain"


def home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home())


def alias(run_id: str) -> str:
    """The name of a run's pod for ssh: in known_hosts, and as a host in the managed configuration."""
    return f"pushtrain-{run_id}"


def private_key(environ: Mapping[str, str]) -> Path | None:
    """The key that `pushtrain ssh-key` registers: PUSHTRAIN_SSH_KEY, ours, or the user's own; None: there is none."""
    named = environ.get(KEY_VARIABLE)
    ssh = home(environ) / ".ssh"
    candidates = [Path(named)] if named else [ssh / KEY_NAME, ssh / "id_ed25519"]
    return next((path for path in candidates if path.is_file()), None)


def pin(endpoint: Endpoint, environ: Mapping[str, str]) -> SshFiles:
    """Write the endpoint's host key where only this run's connections look for it; replaces that of the pod before.

    A proxy is RunPod's own host: its key is kept on first use, in a file of its own, and may not change after that.
    """
    kept = folder(environ) / "hosts"
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    if endpoint.proxy:
        return SshFiles(known_hosts=kept / "proxy", identity=private_key(environ))
    path = kept / endpoint.run_id
    write_private(path, f"{alias(endpoint.run_id)} {endpoint.host_key}\n")
    return SshFiles(known_hosts=path, identity=private_key(environ))


def ssh_argv(
    endpoint: Endpoint,
    files: SshFiles,
    command: str = "",
    *,
    tty: bool = False,
    options: Sequence[str] = (),
) -> list[str]:
    """`ssh …` to that endpoint. `command` is a line for the shell there, run in the volume's folder; `tty` asks for a
    terminal; `options` are more arguments of ssh, which win over ours. Raises SshError (OnlyTerminal) for a command
    through the proxy."""
    if endpoint.proxy and (command or "-N" in options):
        raise only_terminal(endpoint)
    argv = ["ssh", *options, *option_arguments(endpoint, files)]
    argv += ["-tt"] if tty or endpoint.proxy else []
    argv += ["-p", str(endpoint.port), f"{endpoint.user}@{endpoint.host}"]
    return [*argv, in_folder(endpoint, command)] if command else argv


def option_arguments(endpoint: Endpoint, files: SshFiles) -> list[str]:
    """What ssh, scp and rsync's ssh have in common, but for the port."""
    return [part for option in option_values(endpoint, files) for part in ("-o", option)]


def option_values(endpoint: Endpoint, files: SshFiles) -> list[str]:
    """The same as `Name=value`, as `-o` and, with a space, ssh_config take it."""
    options = [f"UserKnownHostsFile={_quoted(files.known_hosts)}", *_ALIVE]
    if endpoint.proxy:
        options += ["StrictHostKeyChecking=accept-new"]
    else:
        options += [f"HostKeyAlias={alias(endpoint.run_id)}", *_DIRECT]
    return options + ([f"IdentityFile={_quoted(files.identity)}", "IdentitiesOnly=yes"] if files.identity else [])


def _quoted(path: Path) -> str:
    """A percent sign begins one of ssh's own words there."""
    return '"' + str(path).replace("%", "%%") + '"'


def in_folder(endpoint: Endpoint, command: str) -> str:
    """Commands start on the volume, where relative names of `cp` lead, too: the home is lost with the container. On a
    line of its own, so that `&` at the end of the command means the command alone."""
    quoted = "'" + endpoint.folder.replace("'", "'\\''") + "'"
    return f"cd {quoted} || exit\n{command}" if endpoint.folder else command


def only_terminal(endpoint: Endpoint) -> SshError:
    return SshError(
        f"the pod of run {endpoint.run_id} is reached by RunPod's proxy alone, which gives a terminal and nothing else",
        hint=f"pushtrain ssh {endpoint.run_id} for the terminal, pushtrain cp for files; the rest needs an address",
        reason="OnlyTerminal",
    )


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, also from several threads at once; mode 0600, or what the file had; a link stays a link."""
    target = path.resolve()
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
    new = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)
