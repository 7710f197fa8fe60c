"""What a look at the pod tells: who is connected, what the GPU does, what runs in tmux, how full the disk is. Linux."""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pushtrain.pod.place import is_public, mapped
from pushtrain.pod.processes import descendants
from pushtrain.pod.session.idle import Seen

SSH_PORT = 22
# Written by whoever opens a window of ours: what runs there is nobody's work.
OURS = "@pushtrain"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"
_ASK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Of all GPUs together: the busiest one's percent, memory in GB (10^9 bytes)."""

    percent: float
    used_gb: float
    total_gb: float
    count: int


def is_rented(environ: Mapping[str, str]) -> bool:
    """Whether this is a machine of a cloud; at a simulator a pod shares its machine with others."""
    return is_public(environ)


def ssh_port(environ: Mapping[str, str]) -> int:
    """Where sshd listens, seen from here: pods that share a machine's network are told apart by the mapped port."""
    outside = mapped(environ, SSH_PORT)
    return SSH_PORT if is_rented(environ) or not outside.isdigit() else int(outside)


def connections(port: int, tables: Iterable[Path] = _TABLES) -> int:
    """Established connections to `port` of this machine; a table that cannot be read has none."""
    return sum(established(_text(table), port) for table in tables)


def established(table: str, port: int) -> int:
    """Lines of /proc/net/tcp with that local port in state 01 (ESTABLISHED): `sl local remote st …`, in hex."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return sum(row[3] == _ESTABLISHED and int(row[1].rpartition(":")[2], 16) == port for row in rows if len(row) > 3)


def gpu(environ: Mapping[str, str]) -> Gpu | None:
    """As nvidia-smi tells; None where there is none, or it does not answer."""
    query = ["--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    said = _ask(["nvidia-smi", *query], environ)
    rows = [[_number(part) for part in line.split(",")] for line in said.splitlines()]
    rows = [row for row in rows if len(row) == 3]
    if not rows:
        return None
    mib = 1024 * 1024 / 1e9
    return Gpu(
        percent=max(row[0] for row in rows),
        used_gb=round(sum(row[1] for row in rows) * mib, 2),
        total_gb=round(sum(row[2] for row in rows) * mib, 2),
        count=len(rows),
    )


def commands(environ: Mapping[str, str]) -> list[str]:
    """Names of all processes in panes of tmux, but for windows of ours; none where there is no tmux."""
    said = _ask(["tmux", "list-panes", "-a", "-F", f"#{{pane_pid}} #{{{OURS}}}"], environ)
    names = []
    for row in (line.split() for line in said.splitlines()):
        if len(row) == 1 and row[0].isdigit():
            first = int(row[0])
            names += [_text(Path(f"/proc/{pid}/comm")).strip() for pid in (first, *descendants(first))]
    return [name for name in names if name]


def seen(shells: Mapping[str, str], environ: Mapping[str, str], card: Gpu | None) -> Seen:
    """Everything that counts as use, as it is this moment; `shells` is the environment that tmux was started with."""
    return Seen(
        connections=connections(ssh_port(environ)),
        gpu_percent=card.percent if card else None,
        commands=commands(shells),
    )


def _ask(argv: list[str], environ: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            argv, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ASK_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _number(text: str) -> float:
    """`[N/A]` of a card that does not tell counts as nothing."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
