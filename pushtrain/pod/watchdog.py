"""The pod's first process of ours: whatever happens to the others, it ends the pod in time.

Starts boot (which becomes the agent, which starts the trainer), looks at clocks, child and heartbeat once a tick, and
then terminates its own pod, for ever until the cloud obeys. It never returns, because RunPod restarts a container that
ends and goes on billing it. It touches the network volume only from helper threads: a volume that hangs must not hold
it up.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NoReturn

from pushtrain.errors import PushtrainError
from pushtrain.pod.console import Console
from pushtrain.pod.context import EXIT_BOOT_FAILED, EXIT_PREEMPTED, STOP_FILE, Context, read_context, tick_s
from pushtrain.pod.processes import adopt_orphans, descendants, reap_orphans, send, within
from pushtrain.pod.terminate import read_target, terminate_for_ever

VOLUME_PATIENCE_S = 60.0
# Boot and agent have no use for the pod's key, and the archive has been unpacked.
NOT_FOR_CHILDREN = ("RUNPOD_API_KEY", "PUSHTRAIN_BOOT")


class Reason(Enum):
    """Why a pod ends."""

    FINISHED = "Finished"
    PREEMPTED = "Preempted"
    BOOT_FAILED = "BootFailed"
    TRAINER_GONE = "TrainerGone"
    STALL = "Stall"
    DEADLINE = "Deadline"
    ALREADY_ENDED = "AlreadyEnded"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Until when. The deadline counts on two clocks: a wall clock that is set back cannot move the monotonic one."""

    stop_epoch_s: float
    stop_monotonic_s: float
    stall_s: float

    @classmethod
    def starting(cls, *, wall_s: float, monotonic_s: float, context: Context) -> "Limits":
        """SIGTERM comes a grace before the deadline, so that the pod is gone AT the deadline and max_usd holds; the
        grace is never more than a tenth of the time there is."""
        left_s = max(0.0, context.deadline_epoch_s - wall_s)
        left_s -= min(context.grace_s, left_s / 10)
        return cls(stop_epoch_s=wall_s + left_s, stop_monotonic_s=monotonic_s + left_s, stall_s=context.stall_s)


@dataclass(frozen=True, kw_only=True)
class View:
    """What the watchdog sees in one look. `moved_monotonic_s`: last change of the heartbeat, or the start."""

    wall_s: float
    monotonic_s: float
    moved_monotonic_s: float
    exit_code: int | None = None
    told_to_stop: bool = False


def verdict(view: View, limits: Limits) -> Reason | None:
    """Why the pod has to end now; None while it may go on."""
    if view.exit_code is not None:
        by_code = {0: Reason.FINISHED, EXIT_PREEMPTED: Reason.PREEMPTED, EXIT_BOOT_FAILED: Reason.BOOT_FAILED}
        return by_code.get(view.exit_code, Reason.TRAINER_GONE)
    if view.wall_s >= limits.stop_epoch_s or view.monotonic_s >= limits.stop_monotonic_s:
        return Reason.DEADLINE
    if view.told_to_stop:
        return Reason.PREEMPTED
    if view.monotonic_s - view.moved_monotonic_s >= limits.stall_s:
        return Reason.STALL
    return None


class Pulse:
    """Notices changes of the heartbeat file from a thread of its own, so that a hanging volume reads as a stall."""

    def __init__(self, path: Path, tick_s: float) -> None:
        self.moved_monotonic_s = time.monotonic()
        self._path, self._tick_s = path, tick_s
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        last = self._changed_ns()
        while True:
            time.sleep(self._tick_s)
            now = self._changed_ns()
            if now is not None and now != last:
                last, self.moved_monotonic_s = now, time.monotonic()

    def _changed_ns(self) -> int | None:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None


def main() -> NoReturn:
    """Guard one attempt, then terminate the pod for ever. The only way out is the end of the container."""
    environ = dict(os.environ)
    console = Console(environ, lambda raw: os.write(sys.stdout.fileno(), raw))
    try:
        reason = guard(environ, console)
        console.say(f"watchdog: the end: {reason.value}")
    except PushtrainError as error:
        console.say(f"watchdog: {error}")
    except Exception:  # noqa: BLE001 — whatever it was, the pod is billed until it ends
        console.say(f"watchdog: {traceback.format_exc()}")
    try:
        pace_s = tick_s(environ)
    except PushtrainError:
        pace_s = 1.0
    terminate_for_ever(read_target(environ), console.say, tick_s=pace_s)


def guard(environ: Mapping[str, str], console: Console) -> Reason:
    """Run the attempt under its limits; returns why it is over, with no process of it left."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: told.append(signum))
    context = read_context(environ)
    limits = Limits.starting(wall_s=time.time(), monotonic_s=time.monotonic(), context=context)
    start = View(wall_s=time.time(), monotonic_s=time.monotonic(), moved_monotonic_s=time.monotonic())
    if (reason := verdict(start, limits)) is not None:
        return reason
    if within(VOLUME_PATIENCE_S, context.ended.exists, False):
        return Reason.ALREADY_ENDED
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="pushtrain-") as folder:
        stop_file = Path(folder) / "stop"
        child = _start_boot(environ, stop_file, console)
        pulse = Pulse(context.heartbeat, context.tick_s)
        while True:
            view = View(
                wall_s=time.time(),
                monotonic_s=time.monotonic(),
                moved_monotonic_s=pulse.moved_monotonic_s,
                exit_code=child.poll(),
                told_to_stop=bool(told),
            )
            if (reason := verdict(view, limits)) is not None:
                break
            reap_orphans(child.pid)
            time.sleep(context.tick_s)
        within(5.0, lambda: stop_file.write_text(reason.value), 0)
        _stop(child, context)
    return reason


def _start_boot(environ: Mapping[str, str], stop_file: Path, console: Console) -> "subprocess.Popen[bytes]":
    env = {name: value for name, value in environ.items() if name not in NOT_FOR_CHILDREN}
    child = subprocess.Popen(
        [sys.executable, sys.argv[0], "boot"],
        env=env | {STOP_FILE: str(stop_file)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    assert child.stdout is not None
    threading.Thread(target=console.copy, args=(child.stdout.read,), daemon=True).start()
    return child


def _stop(child: "subprocess.Popen[bytes]", context: Context) -> None:
    """SIGTERM, the grace, SIGKILL. The agent passes SIGTERM on; where it is gone, the orphans get it themselves."""
    me = os.getpid()
    give_up_s = time.monotonic() + context.grace_s
    told: set[int] = set()
    while (left := descendants(me)) and time.monotonic() < give_up_s:
        heads = {child.pid} if child.poll() is None else {pid for pid, parent in left.items() if parent == me}
        send(heads - told, signal.SIGTERM)
        told |= heads
        time.sleep(min(0.1, context.tick_s))
        reap_orphans(child.pid)
    for _ in range(20):  # a fork between look and kill needs another look; a process stuck in the kernel stays
        send(descendants(me), signal.SIGKILL)
        time.sleep(0.05)
        child.poll()
        if not descendants(me):
            return
