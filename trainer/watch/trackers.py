"""Where else the figures of each step go, by `track` in the spec: tensorboard, wandb, trackio.

The ledger's metrics are written first, and whatever a tracker does the training goes on: one that fails is named once
and left out from then on. What each of them keeps lies in the run's folder.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx

from trainer.job import Job
from trainer.report import say

SYNC_LIMIT_S = 120.0
# W&B's client waits a minute and a half for an answer otherwise, on a card that is billed.
_INIT_LIMIT_S = 20.0
_PROBE_LIMIT_S = 3.0
_WANDB_URL = "https://api.wandb.ai"
_NO_FIGURES = ("step", "total_steps")


class Tracker(Protocol):
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One step's or one evaluation's figures."""

    def end(self) -> None:
        """Write what is left; called once."""


class Trackers:
    """Those of one training. Nothing a tracker raises leaves here."""

    def __init__(self, job: Job, makers: "Mapping[str, Callable[[Job], Tracker]] | None" = None) -> None:
        self._job = job
        self._makers = makers if makers is not None else _MAKERS
        self._active: dict[str, Tracker] = {}

    def start(self) -> None:
        for name in self._job.spec.track:
            self._guarded(name, partial(self._begin, name))

    def log(self, record: Mapping[str, Any]) -> None:
        """The figures of a line of metrics.jsonl."""
        figures = {
            name: float(value)
            for name, value in record.items()
            if name not in _NO_FIGURES and isinstance(value, int | float)
        }
        for name, tracker in list(self._active.items()):
            self._guarded(name, partial(tracker.log, record["step"], figures))

    def end(self) -> None:
        for name, tracker in list(self._active.items()):
            self._guarded(name, tracker.end)
        self._active.clear()

    def _begin(self, name: str) -> None:
        self._active[name] = self._makers[name](self._job)

    def _guarded(self, name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - a tracker is not the training
            self._active.pop(name, None)
            say(f"track: {name} failed and is left out from here: {type(error).__name__}: {str(error)[:300]}")


class TensorBoard:
    """Event files in `tensorboard/`."""

    def __init__(self, job: Job) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(job.run_dir / "tensorboard"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def end(self) -> None:
        self._writer.close()


class Wandb:
    """A W&B run with the id of ours. Without a key or a network it is kept in `wandb/` and sent at the end, where both
    are there by then. The key is read by W&B from the environment alone."""

    def __init__(self, job: Job) -> None:
        import wandb

        self._folder = job.run_dir / "wandb"
        self._folder.mkdir(parents=True, exist_ok=True)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if _can_reach_wandb() else "offline")
        self._is_kept = mode == "offline"
        if self._is_kept:
            say(
                "track: wandb is offline (no WANDB_API_KEY, or no network); what it keeps is sent at the end, if it can"
            )
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or job.spec.name,
            id=re.sub(r"[^a-zA-Z0-9_-]", "-", job.run_id)[:128],
            name=job.run_id,
            resume="allow",
            dir=str(job.run_dir),
            mode=mode,
            config=job.recipe,
            settings=wandb.Settings(silent=True, console="off", init_timeout=_INIT_LIMIT_S, disable_code=True),
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def end(self) -> None:
        self._run.finish()
        if self._is_kept and os.environ.get("WANDB_MODE") != "offline" and _can_reach_wandb():
            _sync(self._folder)


class Trackio:
    """A SQLite file in `trackio/`, which `trackio show` opens; TRACKIO_DIR says where, read at the first import."""

    def __init__(self, job: Job) -> None:
        import trackio

        self._trackio: Any = trackio
        trackio.init(project=job.spec.name, name=job.run_id, config=job.recipe, resume="allow", embed=False)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._trackio.log(dict(figures), step=step)

    def end(self) -> None:
        self._trackio.finish()


_MAKERS: dict[str, Callable[[Job], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def _can_reach_wandb() -> bool:
    if not os.environ.get("WANDB_API_KEY"):
        return False
    try:
        httpx.get(os.environ.get("WANDB_BASE_URL") or _WANDB_URL, timeout=_PROBE_LIMIT_S)
    except httpx.HTTPError:
        return False
    return True


def _sync(folder: Path) -> None:
    """Every run that was kept; raises subprocess's errors, the files stay where they are."""
    for run in sorted(folder.glob("offline-run-*")):
        command = [sys.executable, "-m", "wandb", "sync", str(run)]
        subprocess.run(command, capture_output=True, timeout=SYNC_LIMIT_S, check=True)
        say(f"track: wandb has now what was kept in {run.name}")
