"""Which checkpoint may be resumed, and how a training stops so that it can be.

transformers writes a checkpoint in place and takes the highest number, whole or not. So COMPLETE.json is written last,
after everything it vouches for is on the disk, and nothing without it, or not matching it, is ever resumed.
"""

import json
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.failures import Preempted
from trainer.job import file_sha256, read_json
from trainer.report import say, sync, write_whole

MARKER = "COMPLETE.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`is_final`: training had ended, only evaluation and publishing were left."""

    path: Path
    step: int
    is_final: bool


def mark_complete(folder: Path, digest: str, *, is_final: bool) -> None:
    """Flush every file of the checkpoint to the disk, then vouch for it by size and SHA-256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    for path in files:
        sync(path)
    # hashlib lets go of the interpreter lock: a full model's shards are hashed side by side.
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(file_sha256, files))
    listed = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(files, hashes, strict=True)
    }
    marker = {"digest": digest, "is_final": is_final, "files": listed}
    write_whole(folder / MARKER, json.dumps(marker, indent=1) + "\n")


def latest_complete(root: Path, digest: str) -> Checkpoint | None:
    """The furthest checkpoint below `root` that is whole and belongs to `digest`.

    The others are deleted: training would write into what a killed process left, and they hold disk.
    """
    found = sorted(root.glob("checkpoint-*"), key=_step_of, reverse=True)
    best: Checkpoint | None = None
    for folder in found:
        fault = _fault(folder, digest)
        if fault is not None:
            say(f"checkpoint: {folder.name} is not resumed: {fault}")
            shutil.rmtree(folder)
        elif best is None:
            marker = read_json(folder / MARKER)
            best = Checkpoint(folder, _step_of(folder), bool(marker["is_final"]))
    return best


class Stop:
    """SIGTERM and SIGINT as a wish. Inside `deferred` it waits for the training loop, elsewhere it raises Preempted."""

    def __init__(self) -> None:
        self.requested = False
        self._is_deferred = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self._is_deferred:
            raise Preempted(signal.Signals(number).name)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Install the handlers for the block, then put back the ones before."""
    stop = Stop()
    before: dict[int, Any] = {number: signal.signal(number, stop.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _step_of(folder: Path) -> int:
    number = folder.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _fault(folder: Path, digest: str) -> str | None:
    """Why this checkpoint must not be resumed; None when it may. Sizes first: they cost nothing."""
    try:
        marker: dict[str, Any] = read_json(folder / MARKER)
    except ValueError:
        marker = {}
    if not marker:
        return "it was not finished"
    if marker.get("digest") != digest:
        return "it was made from another spec, model or data"
    files: dict[str, dict[str, Any]] = marker["files"]
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["size"]:
            return f"{name} is missing or cut off"
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(file_sha256, [folder / name for name in files])
        changed = [name for name, sha256 in zip(files, hashes, strict=True) if sha256 != files[name]["sha256"]]
    return f"{changed[0]} does not have the bytes that were written" if changed else None
