"""A command as a process: started clean, told to stop in time, and nothing of it left at the end.

Makes this process the one that orphans fall to, and ends everything below it: run it in a process of its own.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pushtrain.pod.processes import adopt_orphans, descendants, reap_orphans, send
from trainer.checkpoint import Stop
from trainer.command.output import ReadBytes
from trainer.report import say

TICK_S = 0.1
# For what a command leaves running when it ends: time to close its files, and no more.
LEFTOVER_GRACE_S = 2.0
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "busybox")


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What to start. `argv[0]` is looked for in the PATH of `env`, or is a path from `cwd`. `read` gets the function
    that reads its output, in a thread of its own, and has to read to the end."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    read: Callable[[ReadBytes], None]


def run_program(program: Program, stop: Stop, grace_s: float) -> int:
    """Its exit code, -N for signal N, once it and all that it started are gone and its output is read.

    A wish to stop reaches it as SIGTERM, after `grace_s` as SIGKILL. Raises OSError when it cannot be started.
    """
    adopt_orphans()
    with stop.deferred():
        child = subprocess.Popen(
            list(program.argv),
            env=dict(program.env),
            cwd=program.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        assert child.stdout is not None
        pump = threading.Thread(target=program.read, args=(child.stdout.read,), daemon=True)
        pump.start()
        while child.poll() is None and not stop.requested:
            reap_orphans(child.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(TICK_S)
        if stop.requested:
            _ask_to_stop(child, grace_s)
        left = descendants(os.getpid())
        if left and not stop.requested:
            say(f"{len(left)} processes that the command left behind are ended")
        _end_all(child, 0.0 if stop.requested else LEFTOVER_GRACE_S)
        pump.join(5.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5.0)
    return -signal.SIGKILL if child.returncode is None else child.returncode  # the kernel may still hold it


def _ask_to_stop(child: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """SIGTERM to the command, and time until nothing of it is left or the grace is over."""
    told = _who_is_told(child.pid)
    send(told, signal.SIGTERM)
    send(told, signal.SIGCONT)  # one that was stopped would not see it
    give_up_s = time.monotonic() + grace_s
    while time.monotonic() < give_up_s and (child.poll() is None or descendants(os.getpid())):
        reap_orphans(child.pid)
        time.sleep(TICK_S)


def _who_is_told(pid: int) -> list[int]:
    """The process, and where it is a shell also what it runs: a shell dies of SIGTERM and tells nobody.

    Not everything: workers that die under a training that is saving would spoil the save.
    """
    told, waiting = [], [pid]
    while waiting:
        told.append(one := waiting.pop())
        if _name(one) in _SHELLS:
            waiting += [child for child, parent in descendants(one).items() if parent == one]
    return told


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _end_all(child: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """Nothing below this process is left when this returns, but what the kernel holds."""
    give_up_s = time.monotonic() + grace_s
    told: set[int] = set()
    while (left := set(descendants(os.getpid()))) and time.monotonic() < give_up_s:
        send(left - told, signal.SIGTERM)
        told |= left
        reap_orphans(child.pid)
        time.sleep(TICK_S)
    for _ in range(20):  # a fork between look and kill needs another look; a process stuck in the kernel stays
        send(descendants(os.getpid()), signal.SIGKILL)
        child.poll()
        reap_orphans(child.pid)
        if not descendants(os.getpid()):
            return
        time.sleep(0.05)
