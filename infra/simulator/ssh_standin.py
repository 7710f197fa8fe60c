"""A stand-in for OpenSSH's sshd where the machine has none, on the asyncssh library.

`python ssh_standin.py -D -e -f CONFIG -p PORT -o ListenAddress=ADDRESS`. Of the configuration it knows what
`pushtrain.pod.ssh` writes: HostKey, PidFile, AuthorizedKeysFile, AllowUsers, SetEnv; passwords are never taken. Shells,
commands, terminals, SFTP, scp and forwarded ports work as with the real one.
"""

import asyncio
import fcntl
import os
import pwd
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import asyncssh


def read_config(text: str) -> dict[str, str]:
    """The first value of each keyword, as sshd takes it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        keyword, _, value = line.strip().partition(" ")
        if keyword and not keyword.startswith("#"):
            found.setdefault(keyword, value.strip())
    return found


class Server(asyncssh.SSHServer):
    def __init__(self, config: Mapping[str, str]) -> None:
        self._users = config.get("AllowUsers", "").split()

    def begin_auth(self, username: str) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return False

    def password_auth_supported(self) -> bool:
        return False

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return True


async def run(process: "asyncssh.SSHServerProcess[bytes]", env: Mapping[str, str], directory: str) -> None:
    """A command, or a login shell, in a terminal where the client asked for one."""
    shell = pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh"
    argv = [shell, "-c", process.command] if process.command else [shell, "-l"]
    if process.term_type is None:
        await _piped(process, argv, env, directory)
    else:
        await in_terminal(process, argv, {**env, "TERM": process.term_type}, directory)


async def _piped(
    process: "asyncssh.SSHServerProcess[bytes]", argv: list[str], env: Mapping[str, str], directory: str
) -> None:
    child = subprocess.Popen(
        argv,
        env=dict(env),
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    await _ended(process, child)


async def in_terminal(
    process: "asyncssh.SSHServerProcess[bytes]", argv: list[str], env: Mapping[str, str], directory: str
) -> None:
    main, side = os.openpty()
    width, height, *_ = process.term_size
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", height or 24, width or 80, 0, 0))

    # A terminal of its own without a line of ours between fork and exec: this process may have threads.
    child = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *argv],
        env=dict(env),
        cwd=directory,
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    await process.redirect(stdin=os.dup(main), stdout=main, recv_eof=False)
    await _ended(process, child)


async def _ended(process: "asyncssh.SSHServerProcess[bytes]", child: "subprocess.Popen[bytes]") -> None:
    """Exit code to the client; a client that went away takes what it started with it, as a terminal's end does."""
    while child.poll() is None:
        if process.is_closing():
            os.killpg(child.pid, signal.SIGHUP)
        await asyncio.sleep(0.02)
    await process.stdout.drain()
    process.exit(child.returncode if child.returncode >= 0 else 128 - child.returncode)
    await process.wait_closed()


async def serve(config: Mapping[str, str], host: str, port: int) -> None:
    me = pwd.getpwuid(os.getuid())
    env = {
        "USER": me.pw_name,
        "LOGNAME": me.pw_name,
        "HOME": me.pw_dir,
        "SHELL": me.pw_shell,
        "PATH": os.environ["PATH"],
    }
    env |= dict(pair.partition("=")[::2] for pair in shlex.split(config.get("SetEnv", "")))

    async def session(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        client = process.get_extra_info("peername")
        here = {
            **env,
            "SSH_CLIENT": f"{client[0]} {client[1]} 22",
            "SSH_CONNECTION": f"{client[0]} {client[1]} {host} 22",
        }
        await run(process, here, env["HOME"])

    await asyncssh.listen(
        host,
        port,
        server_factory=lambda: Server(config),
        server_host_keys=[config["HostKey"]],
        authorized_client_keys=config["AuthorizedKeysFile"],
        process_factory=session,
        sftp_factory=True,
        allow_scp=True,
        encoding=None,
        line_editor=False,
        keepalive_interval=30,
    )
    Path(config["PidFile"]).write_text(f"{os.getpid()}\n")
    await asyncio.Event().wait()


def main() -> None:
    """Options as `sshd` takes them, those that are said here."""
    arguments = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    address = arguments.get("-o", "").removeprefix("ListenAddress=") or "127.0.0.1"
    config = read_config(Path(arguments["-f"]).read_text())
    asyncio.run(serve(config, address, int(arguments["-p"])))


if __name__ == "__main__":
    main()
