"""Processes and waiting, as the watchdog and the agent need them: nothing here may block for longer than it says.

Linux only: reads /proc.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")
PR_SET_CHILD_SUBREAPER = 36


def within(seconds: float, ask: Callable[[], Answer], otherwise: Answer) -> Answer:
    """`ask()`, or `otherwise` when it takes longer than `seconds` or fails with OSError.

    A network volume or a name server that hangs blocks in the kernel, where no time-out of ours reaches: the call is
    left behind in a daemon thread then. Where no thread can be had any more, it is made right here.
    """
    answers: list[Answer] = []

    def call() -> None:
        try:
            answers.append(ask())
        except OSError:
            answers.append(otherwise)

    thread = threading.Thread(target=call, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        call()
    else:
        thread.join(seconds)
    return answers[0] if answers else otherwise


def adopt_orphans() -> bool:
    """From now on a process whose parent died becomes this one's child: nobody below us is lost from sight.

    False where the image's Python has no ctypes or the kernel refuses; then only whole families are seen.
    """
    try:
        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def reap_orphans(own_child: int) -> None:
    """Collect adopted processes that ended. `own_child` is left to its Popen, which wants the exit code."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid == own_child:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)


def descendants(root: int) -> dict[int, int]:
    """Every living process below `root`, as pid → parent pid."""
    parents = {pid: parent for pid, parent, state in _table() if state != "Z"}
    found: dict[int, int] = {}
    level = {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level and pid not in found}
        found |= {pid: parents[pid] for pid in level}
    return found


def send(pids: Iterable[int], signum: signal.Signals) -> None:
    """Signal each process; one that is gone already is fine."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue


def moved_bytes(pids: Iterable[int]) -> int:
    """Bytes these processes have read and written so far: how a silent download or model load shows that it lives."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/io").read_text()
        except OSError:
            continue
        counters = dict(line.split(": ", 1) for line in text.splitlines())
        total += sum(int(counters.get(name, 0)) for name in ("rchar", "wchar", "read_bytes"))
    return total


def _table() -> list[tuple[int, int, str]]:
    """(pid, parent pid, state letter) of every process. The name in brackets may hold spaces and brackets itself."""
    rows = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        rows.append((int(entry.name), int(parent), state))
    return rows
