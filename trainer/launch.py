"""Several GPUs: one process for each, the same command with a rank in its environment, as torchrun starts them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.checkpoint import Stop
from trainer.failures import (
    PREEMPTED_EXIT_CODE,
    SMALLER_EXIT_CODE,
    GpuUnavailable,
    OutOfMemoryInWorker,
    Preempted,
    WorkerDied,
)

# How long the others may take to end once one worker is gone: they wait for gradients that never come.
GRACE_S = 20.0
_POLL_S = 0.2


def visible_gpus(environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """GPUs this process may use, without asking torch: the device files, or those listed in CUDA_VISIBLE_DEVICES."""
    there = len(list(devices.glob("nvidia[0-9]*")))
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None or there == 0:
        return there
    return len([name for name in listed.split(",") if name.strip() and name.strip() != "-1"])


def process_count(wanted: int, visible: int) -> int:
    """One process a GPU; one on the CPU. Raises GpuUnavailable when the machine has fewer GPUs than the spec wants."""
    if visible == 0:
        return 1
    if visible < wanted:
        raise GpuUnavailable(f"compute.count is {wanted}, this machine has {visible} GPUs")
    return wanted


def run_workers(arguments: Sequence[str], count: int, stop: Stop, more: Mapping[str, str] | None = None) -> None:
    """`python -m trainer ARGUMENTS` `count` times, with `more` in their environment, until all have ended.

    Passes a request to stop on. Raises Preempted when they stopped for it, OutOfMemoryInWorker when they have to start
    again with smaller batches, WorkerDied when one ended otherwise without success (it has written why, unless it was
    killed). None of them outlives this call.
    """
    port = _free_port()
    places = [
        {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for number in range(count)
    ]
    workers = [_start(arguments, {**(more or {}), **place}) for place in places]
    try:
        with stop.deferred():
            codes = _wait(workers, stop)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
    if any(code == PREEMPTED_EXIT_CODE for code in codes):
        raise Preempted("the workers have stopped")
    if SMALLER_EXIT_CODE in codes:
        raise OutOfMemoryInWorker("a worker ran out of memory")
    if any(codes):
        raise WorkerDied(f"worker exit codes: {', '.join(map(str, codes))}")


def _start(arguments: Sequence[str], more: Mapping[str, object]) -> subprocess.Popen[bytes]:
    environ = {**os.environ, **{name: str(value) for name, value in more.items()}}
    return subprocess.Popen([sys.executable, "-P", "-m", "trainer", *arguments], env=environ)


def _wait(workers: Sequence[subprocess.Popen[bytes]], stop: Stop) -> list[int]:
    """Their exit codes; minus the signal number for those that were killed."""
    is_told, ends_at = False, float("inf")
    while any(worker.poll() is None for worker in workers) and time.monotonic() < ends_at:
        if stop.requested and not is_told:
            is_told = True
            for worker in workers:
                worker.terminate()
        if any(worker.poll() not in (None, 0) for worker in workers):
            ends_at = min(ends_at, time.monotonic() + GRACE_S)
        time.sleep(_POLL_S)
    return [code for worker in workers if (code := worker.poll()) is not None]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
