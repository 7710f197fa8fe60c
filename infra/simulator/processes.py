"""Finding and stopping the processes of one pod through /proc (Linux). Standard library only, as its users need.

A process belongs to a pod when its environment carries the pod's id, or when it descends from one that does: neither
setsid nor a double fork gets away, and an emptied environment does not either while the runner (a subreaper) lives.
"""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

# The variable in which each of the simulated clouds tells a pod its id, or where a cloud does not, the simulator.
MARKERS = ("RUNPOD_POD_ID", "CONTAINER_ID", "MODAL_SANDBOX_ID", "SIMULATED_INSTANCE_ID")
_PROC = Path("/proc")


def start_ticks(pid: int) -> int | None:
    """Start time in clock ticks since boot: with the pid, an identity that survives pid reuse. None: not running."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else int(fields[19])


def is_running(pid: int, ticks: int) -> bool:
    return start_ticks(pid) == ticks


def of_pod(pod_id: str, without: Iterable[int] = ()) -> dict[int, int]:
    """Every living process of the pod as pid → start ticks."""
    return of_pods([pod_id], without)[pod_id]


def of_pods(pod_ids: Iterable[str], without: Iterable[int] = ()) -> dict[str, dict[int, int]]:
    """The same for several pods in one look at /proc."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in _PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and fields[0] not in ("Z", "X"):
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = int(fields[19])
    found: dict[str, set[int]] = {pod_id: set() for pod_id in pod_ids}
    for pid in parents:
        for variable in _environ(pid):
            name, _, value = variable.partition("=")
            if name in MARKERS and value in found:
                found[value].add(pid)
    skip = {os.getpid(), *without}
    for members in found.values():
        while more := {pid for pid, parent in parents.items() if parent in members} - members:
            members |= more
    return {pod_id: {pid: ticks[pid] for pid in members - skip} for pod_id, members in found.items()}


def stop(pod_id: str, grace_s: float, without: Iterable[int] = (), limit_s: float = 10.0) -> dict[int, int]:
    """SIGTERM to every process of the pod, `grace_s` later SIGKILL until none is left; grace 0 is SIGKILL at once.

    Blocks for at most `limit_s` after the grace. Returns what still lives, empty unless the kernel holds a process.
    """
    without = set(without)
    known = of_pod(pod_id, without)
    if grace_s:
        _signal(known, signal.SIGTERM)
    grace_ends = time.monotonic() + grace_s
    while known and time.monotonic() < grace_ends:
        time.sleep(0.02)
        known = _living(known) | of_pod(pod_id, without)
    gives_up = time.monotonic() + limit_s
    # All at once, as a machine goes: one that is killed first would be seen dying, and reported, by those still alive.
    frozen: dict[int, int] = {}
    while (more := {pid: ticks for pid, ticks in known.items() if pid not in frozen}) and time.monotonic() < gives_up:
        _signal(more, signal.SIGSTOP)
        frozen |= more
        known = _living(known) | of_pod(pod_id, without)
    while known and time.monotonic() < gives_up:
        # Between a look and a kill a process may fork: look again until a look finds nobody.
        _signal(known, signal.SIGKILL)
        time.sleep(0.01)
        known = _living(known) | of_pod(pod_id, without)
    return known


def _living(known: dict[int, int]) -> dict[int, int]:
    return {pid: ticks for pid, ticks in known.items() if is_running(pid, ticks)}


def _signal(known: dict[int, int], number: signal.Signals) -> None:
    """The youngest first: a stopped process whose parent dies before it would be continued by the kernel."""
    for pid, ticks in sorted(known.items(), key=lambda one: (one[1], one[0]), reverse=True):
        if is_running(pid, ticks):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat after the name: state, parent, …; the 20th is the start time. None: gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _environ(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "environ").read_text(encoding="utf-8", errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
