"""RunPod's ssh proxy: a user named `<pod>-<hash>`, the keys of the account, and a terminal on that pod, nothing else.

It listens from the start and is built when the first client comes: importing asyncssh takes longer than most tests want
to wait for a simulator.
"""

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from infra.simulator.pod_env import hostname
from infra.simulator.service import Service
from infra.simulator.state import Pod

if TYPE_CHECKING:
    import asyncssh

HOST = "127.0.0.1"
_ONLY_TERMINAL = b"Error: Your SSH client doesn't support PTY\r\n"


def listening() -> socket.socket:
    """A socket on a free port of loopback; clients may knock before anybody serves it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((HOST, 0))
    listener.listen()
    listener.setblocking(False)
    return listener


def serve_when_asked(service: Service, listener: socket.socket, state_dir: Path) -> None:
    """Needs the running loop. The host key stays the same over restarts, as RunPod's does."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def first() -> None:
        loop.remove_reader(listener)
        tasks.add(loop.create_task(_serve(service, listener, state_dir / "ssh_proxy_key")))

    loop.add_reader(listener, first)


async def _serve(service: Service, listener: socket.socket, key_path: Path) -> None:
    import asyncssh

    from infra.simulator.ssh_standin import in_terminal

    if not key_path.exists():
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(key_path)
        key_path.chmod(0o600)

    class Server(asyncssh.SSHServer):
        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: "asyncssh.SSHKey") -> bool:
            pod = _pod(service, username)
            return pod is not None and _blob(key) in pod.env.get("PUBLIC_KEY", "").split()

    async def session(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        pod = _pod(service, process.get_extra_info("username"))
        running = service.running(pod) if pod else None
        if pod is None or running is None or process.term_type is None or process.command or process.subsystem:
            process.stdout.write(_ONLY_TERMINAL)
            process.exit(1)
            return
        env = dict(it.partition("=")[::2] for it in _environ(running.pid))
        here = str(service.machine.pod_dir(pod.id) / "root")
        # With the container's own variables, PATH among them, which a login shell would take from this machine's files.
        await in_terminal(process, ["/bin/bash", "--norc", "-i"], {**env, "TERM": process.term_type}, here)

    await asyncssh.listen(
        sock=listener, server_factory=Server, server_host_keys=[str(key_path)], process_factory=session, encoding=None,
        line_editor=False,
    )  # fmt: skip


def _pod(service: Service, user: str) -> Pod | None:
    return next((pod for pod in service.account.live_pods() if hostname(pod.id) == user), None)


def _blob(key: "asyncssh.SSHKey") -> str:
    return key.export_public_key("openssh").decode().split()[1]


def _environ(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text(errors="replace").rstrip("\0").split("\0")
