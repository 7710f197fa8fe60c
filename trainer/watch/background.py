"""What is watched beside the training, in a thread: that steps come, and that the GPU works.

The thread only notes what is wrong; the training loop acts on it at its next step. A training that hangs has no next
step: alone on a machine the thread ends the process then, on a pod the pod's watchdog does.
"""

import contextlib
import faulthandler
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pushtrain.errors import PushtrainError
from trainer.failures import GpuIdle, StepGap
from trainer.report import Report, say

TICK_S = 5.0
# One line of nvidia-smi each: a process that stays, since starting it costs more than asking.
SAMPLE_S = 5
IDLE_BELOW_PERCENT = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """`ends_process`: nobody else would end a training that hangs."""

    step_gap_s: float
    gpu_idle_s: float
    ends_process: bool


class Background:
    """Use it as `with background.running():` around the training; `step()` says that one was done."""

    def __init__(self, bounds: Bounds, report: Report, now_s: Callable[[], float] = time.monotonic) -> None:
        self.fault: PushtrainError | None = None
        self._bounds, self._report, self._now_s = bounds, report, now_s
        self._stepped_s = self._worked_s = now_s()
        self._has_stepped = self._has_dumped = self._is_sampled = False
        self._samples: list[float] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self, tick_s: float | None = None) -> Iterator[None]:
        """Both threads and nvidia-smi have ended when the block is left."""
        over = threading.Event()
        gpu = _start_samples()
        threads = [threading.Thread(target=self._look, args=(over, tick_s or TICK_S), name="watch", daemon=True)]
        if gpu is not None:
            threads.append(threading.Thread(target=self._read_samples, args=(gpu,), name="watch-gpu", daemon=True))
        self._stepped_s = self._worked_s = self._now_s()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if gpu is not None:
                gpu.kill()
                gpu.wait()
            for thread in threads:
                thread.join()

    def step(self) -> None:
        """A step, or a part of one, was done."""
        if not self._has_stepped:
            self._worked_s = self._now_s()  # compiling for the first step is no idleness
        self._stepped_s, self._has_stepped, self._has_dumped = self._now_s(), True, False

    def gpu_utilization(self) -> float | None:
        """Percent, the mean since the last call; None without a sample."""
        with self._lock:
            samples, self._samples = self._samples, []
        return round(sum(samples) / len(samples), 1) if samples else None

    def look(self) -> None:
        """One look at both; the thread does it every few seconds."""
        self._look_at_steps()
        self.fault = self.fault or self._idle()

    def sample(self, percent: float) -> None:
        """Take one reading of the GPU's utilisation."""
        with self._lock:
            self._samples.append(percent)
        self._is_sampled = True
        if percent >= IDLE_BELOW_PERCENT:
            self._worked_s = self._now_s()

    def _look(self, over: threading.Event, tick_s: float) -> None:
        while not over.wait(tick_s):
            self.look()

    def _look_at_steps(self) -> None:
        gap_s, limit_s = self._now_s() - self._stepped_s, self._bounds.step_gap_s
        if not self._has_stepped or gap_s < limit_s / 2:
            return  # to the first step is the limit of another phase
        if not self._has_dumped:
            self._has_dumped = True
            say(f"watch: no step for {gap_s:.0f} s of the {limit_s:.0f} s allowed; where each thread stands follows")
            with contextlib.suppress(OSError, ValueError):  # a standard error without a file number
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if gap_s >= limit_s and self._bounds.ends_process:
            hint = "the log shows where each thread stands; limits.step_gap_minutes when a step may take this long"
            self._report.failure(StepGap(f"no step for {gap_s:.0f} s", hint=hint))
            say(f"failed: StepGap: no step for {gap_s:.0f} s")
            os._exit(1)  # the training's own thread hangs: nothing can be raised in it

    def _idle(self) -> PushtrainError | None:
        idle_s = self._now_s() - self._worked_s
        if not self._has_stepped or not self._is_sampled or idle_s < self._bounds.gpu_idle_s:
            return None
        return GpuIdle(
            f"the GPU has done nothing for {idle_s / 60:.0f} minutes, and is billed",
            hint="data that is made too slowly, or work that runs on the CPU; limits.gpu_idle_minutes",
        )

    def _read_samples(self, gpu: "subprocess.Popen[str]") -> None:
        assert gpu.stdout is not None
        for line in gpu.stdout:
            with contextlib.suppress(ValueError):
                self.sample(float(line))


def _start_samples() -> "subprocess.Popen[str] | None":
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-l", str(SAMPLE_S)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        if visible.strip() in ("", "-1"):
            return None
        query += ["-i", visible]
    try:
        return subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
