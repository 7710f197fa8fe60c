"""The pod's first process of ours: whatever happens to the others, it ends the pod in time.

Starts boot (which becomes the agent, which starts the trainer), looks at clocks, child, heartbeat and phase once a
tick, and then terminates its own pod, for ever until the cloud obeys. It never returns, because RunPod restarts a
container that ends and goes on billing it. It touches the network volume only from helper threads: a volume that hangs
must not hold it up. Money is in the deadline: the control plane computes it from both caps of the budget, since a pod
cannot see its own price.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NoReturn

from pushtrain.errors import PushtrainError
from pushtrain.pod.console import Console
from pushtrain.pod.context import (
    EXIT_BOOT_FAILED,
    EXIT_PREEMPTED,
    EXIT_TWIN,
    FIRST_PID,
    STOP_FILE,
    Context,
    read_context,
    tick_s,
)
from pushtrain.pod.phase import Phase, Pulse, Seen, look
from pushtrain.pod.place import KEYS
from pushtrain.pod.processes import adopt_orphans, descendants, reap_orphans, send, within
from pushtrain.pod.terminate import cloud_epoch_s, read_target, terminate_for_ever

VOLUME_PATIENCE_TICKS = 60.0
CLOCK_PATIENCE_TICKS = 5.0
CALL_PATIENCE_TICKS = 20.0
# A clock that differs from the cloud's by more than this is not believed. An HTTP date is in whole seconds.
TOLERATED_SKEW_S = 10.0
# Containers of one attempt that may start from the same checkpoint.
MOST_STARTS = 5
FIRST_HEARS_EVERY_TICKS = 20
# Boot and agent have no use for the pod's key, and the archive has been unpacked.
NOT_FOR_CHILDREN = (*KEYS, "PUSHTRAIN_BOOT", FIRST_PID)


class Reason(Enum):
    """Why a pod ends. What the agent makes of those that find it alive: `pushtrain.pod.outcome`."""

    FINISHED = "Finished"
    PREEMPTED = "Preempted"
    BOOT_FAILED = "BootFailed"
    TRAINER_GONE = "TrainerGone"
    DEADLINE = "Deadline"
    BOOT_TIMEOUT = "BootTimeout"
    ENVIRONMENT_TIMEOUT = "EnvironmentTimeout"
    FIRST_STEP_TIMEOUT = "FirstStepTimeout"
    STEP_GAP = "StepGap"
    UPLOAD_TIMEOUT = "UploadTimeout"
    STALL = "Stall"
    CRASH_LOOP = "CrashLoop"
    ALREADY_ENDED = "AlreadyEnded"
    TWIN = "Twin"


_OVERDUE = {
    Phase.BOOT: Reason.BOOT_TIMEOUT,
    Phase.ENVIRONMENT: Reason.ENVIRONMENT_TIMEOUT,
    Phase.FIRST_STEP: Reason.FIRST_STEP_TIMEOUT,
    Phase.STEPS: Reason.STEP_GAP,
    Phase.UPLOAD: Reason.UPLOAD_TIMEOUT,
}


_BY_CODE = {
    0: Reason.FINISHED,
    EXIT_PREEMPTED: Reason.PREEMPTED,
    EXIT_BOOT_FAILED: Reason.BOOT_FAILED,
    EXIT_TWIN: Reason.TWIN,
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Until when. The deadline counts on two clocks: a wall clock that is set back cannot move the monotonic one, and
    a wall clock that the cloud's contradicts counts for nothing (`stop_epoch_s` is infinite). A phase that is not in
    `phase_s` has no limit."""

    stop_epoch_s: float
    stop_monotonic_s: float
    stall_s: float
    phase_s: Mapping[Phase, float] = field(default_factory=dict)

    @classmethod
    def starting(cls, *, wall_s: float, monotonic_s: float, context: Context, cloud_s: float | None = None) -> "Limits":
        """SIGTERM comes a grace before the deadline, so that the pod is gone AT the deadline and max_usd holds; the
        grace is never more than a tenth of the time there is. `cloud_s`: the time by the cloud, which sends the bill;
        None when it did not say."""
        now_s = wall_s if cloud_s is None or abs(cloud_s - wall_s) <= TOLERATED_SKEW_S else cloud_s
        left_s = max(0.0, context.deadline_epoch_s - now_s)
        left_s -= min(context.grace_s, left_s / 10)
        return cls(
            stop_epoch_s=wall_s + left_s if now_s == wall_s else math.inf,
            stop_monotonic_s=monotonic_s + left_s,
            stall_s=context.stall_s,
            phase_s={
                Phase.BOOT: context.limit_boot_s,
                Phase.ENVIRONMENT: context.limit_environment_s,
                Phase.FIRST_STEP: context.limit_first_step_s,
                Phase.STEPS: context.limit_step_gap_s,
                Phase.UPLOAD: context.limit_upload_s,
            },
        )


@dataclass(frozen=True, kw_only=True)
class View:
    """What the watchdog sees in one look. `moved_monotonic_s`: last change of the heartbeat, or the start;
    `since_monotonic_s`: when the phase began, in STEPS the last step."""

    wall_s: float
    monotonic_s: float
    moved_monotonic_s: float
    phase: Phase
    since_monotonic_s: float
    exit_code: int | None = None
    told_to_stop: bool = False


def verdict(view: View, limits: Limits) -> Reason | None:
    """Why the pod has to end now; None while it may go on."""
    if view.exit_code is not None:
        return _BY_CODE.get(view.exit_code, Reason.TRAINER_GONE)
    if view.wall_s >= limits.stop_epoch_s or view.monotonic_s >= limits.stop_monotonic_s:
        return Reason.DEADLINE
    if view.told_to_stop:
        return Reason.PREEMPTED
    if view.monotonic_s - view.since_monotonic_s >= limits.phase_s.get(view.phase, math.inf):
        return _OVERDUE[view.phase]
    # Before the agent is there nobody touches the heartbeat, and the limit of the boot counts.
    if view.phase is not Phase.BOOT and view.monotonic_s - view.moved_monotonic_s >= limits.stall_s:
        return Reason.STALL
    return None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What earlier containers of this attempt left on the volume. `vain_starts`: how many of the last starts, this one
    among them, found the same checkpoint. `seen`: None when the volume did not answer. `is_twin`: the attempt is
    another pod's, so a create whose answer was lost made two."""

    is_over: bool = False
    is_twin: bool = False
    vain_starts: int = 1
    seen: Seen | None = None


def arrive(context: Context, pod_id: str) -> Found:
    """Look at the attempt's folder, and note this start in it. Raises OSError, and may hang as the volume does."""
    context.attempt_dir.mkdir(parents=True, exist_ok=True)
    if _owner(context, pod_id) != pod_id:
        return Found(is_twin=True)
    whole = context.run_dir.glob("checkpoints/checkpoint-*/COMPLETE.json")
    step = max((path.parent.name.rpartition("-")[2] for path in whole), key=lambda text: text.zfill(12), default="0")
    is_over = context.ended.exists()
    with context.starts.open("a") as file:
        file.write(f"{step}\n")
    starts = context.starts.read_text().split()
    vain = next((count for count, start in enumerate(reversed(starts)) if start != step), len(starts))
    return Found(is_over=is_over, vain_starts=vain, seen=look(context.attempt_dir, Seen()))


def _owner(context: Context, pod_id: str) -> str:
    """The pod whose attempt this is: whoever came first wrote its id. A file it died over is nobody's."""
    try:
        with context.owner.open("x") as file:
            file.write(pod_id)
    except FileExistsError:
        return context.owner.read_text() or pod_id
    return pod_id


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
    target = replace(read_target(environ), patience_s=max(1.0, CALL_PATIENCE_TICKS * pace_s))
    terminate_for_ever(target, console.say, tick_s=pace_s)


def guard(environ: Mapping[str, str], console: Console) -> Reason:
    """Run the attempt under its limits; returns why it is over, with no process of it left."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: told.append(signum))
    context = read_context(environ)
    limits = _limits(context, environ, console)
    if time.time() >= limits.stop_epoch_s or time.monotonic() >= limits.stop_monotonic_s:
        return Reason.DEADLINE
    patience_s = min(VOLUME_PATIENCE_TICKS * context.tick_s, limits.stop_monotonic_s - time.monotonic())
    pod_id = read_target(environ).pod_id
    found = within(patience_s, lambda: arrive(context, pod_id), Found())
    if found.is_twin:
        return Reason.TWIN
    if found.is_over:
        return Reason.ALREADY_ENDED
    if found.vain_starts > MOST_STARTS:
        return Reason.CRASH_LOOP
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="pushtrain-") as folder:
        stop_file = Path(folder) / "stop"
        child = _start_boot(environ, stop_file, console)
        pulse = Pulse(context.attempt_dir, found.seen, context.tick_s)
        looks = 0
        while True:
            standing = pulse.standing
            view = View(
                wall_s=time.time(),
                monotonic_s=time.monotonic(),
                moved_monotonic_s=standing.moved_s,
                phase=standing.phase,
                since_monotonic_s=standing.since_s,
                exit_code=child.poll(),
                told_to_stop=bool(told),
            )
            if (reason := verdict(view, limits)) is not None:
                break
            reap_orphans(child.pid)
            looks += 1
            if looks % FIRST_HEARS_EVERY_TICKS == 0:
                _tell_first(environ)
            time.sleep(context.tick_s)
        within(5.0, lambda: stop_file.write_text(reason.value), 0)
        _stop(child, context)
    return reason


def _limits(context: Context, environ: Mapping[str, str], console: Console) -> Limits:
    url, patience_s = read_target(environ).base_url, CLOCK_PATIENCE_TICKS * context.tick_s
    cloud_s = within(patience_s, lambda: cloud_epoch_s(url, patience_s), None)
    wall_s = time.time()
    limits = Limits.starting(wall_s=wall_s, monotonic_s=time.monotonic(), context=context, cloud_s=cloud_s)
    if cloud_s is not None and math.isinf(limits.stop_epoch_s):
        console.say(f"watchdog: this pod's clock is {wall_s - cloud_s:+.0f} s off the cloud's, which counts")
    return limits


def _tell_first(environ: Mapping[str, str]) -> None:
    """The container's first process, which takes over from a watchdog that has stopped looking. Only where it is our
    parent: after its end its number may be somebody else's."""
    first = environ.get(FIRST_PID, "")
    if first == str(os.getppid()):
        send([int(first)], signal.SIGUSR1)


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
        send(heads - told, signal.SIGCONT)  # one that was stopped would not see it
        told |= heads
        time.sleep(min(0.1, context.tick_s))
        reap_orphans(child.pid)
    for _ in range(20):  # a fork between look and kill needs another look; a process stuck in the kernel stays
        send(descendants(me), signal.SIGKILL)
        time.sleep(0.05)
        child.poll()
        if not descendants(me):
            return
