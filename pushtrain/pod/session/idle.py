"""Whether anybody or anything is at work on a pod. Pure; `look.py` reads what it is told."""

from collections.abc import Sequence
from dataclasses import dataclass

SHELLS = frozenset(("sh", "bash", "dash", "zsh", "fish", "ksh", "login", "su", "sudo", "tmux: server", "tmux"))
# They wait for a person, and whoever is there has an ssh connection; left open in tmux they are no work.
_VIEWERS = ("nvitop", "nvtop", "htop", "top", "btop", "watch", "tail", "less", "more", "most", "man", "ncdu")
WAITING = frozenset((*_VIEWERS, "vi", "vim", "nvim", "nano", "emacs", "mc", "ranger"))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look. `connections`: established ones on the ssh port; `gpu_percent`: of the busiest GPU, None where there is
    none or nobody answered; `commands`: names of all processes in panes of tmux."""

    connections: int = 0
    gpu_percent: float | None = None
    commands: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Use:
    """`at_s`: when the pod was last seen in use, on the clock of whoever looks; `why`: by what."""

    at_s: float
    why: str = ""

    def idle_s(self, now_s: float) -> float:
        return max(0.0, now_s - self.at_s)


def used(before: Use, seen: Seen, now_s: float) -> Use:
    """What follows from one look after another. A question nobody answered is no use, and no idleness of its own: only
    a whole `idle_minutes` without a single look that saw something ends a session."""
    why = at_work(seen)
    return Use(at_s=now_s, why=why) if why else before


def at_work(seen: Seen) -> str:
    """What uses the pod, in words; empty where nothing does."""
    found = []
    if seen.connections:
        found.append(f"{seen.connections} ssh connection{'s' if seen.connections > 1 else ''}")
    if seen.gpu_percent:
        found.append(f"GPU at {seen.gpu_percent:.0f} %")
    if running := working(seen.commands):
        found.append(f"{', '.join(running[:3])} in tmux")
    return "; ".join(found)


def working(names: Sequence[str]) -> list[str]:
    """Of the processes in tmux those that are work: no shells, and no programs that only wait for a person."""
    return sorted({name for name in names if name.lstrip("-") not in SHELLS | WAITING})
