"""Which checkpoint may be resumed, which are kept, and how a training stops so that it can be resumed.

transformers writes a checkpoint in place and takes the highest number, whole or not. So COMPLETE.json is written last,
after everything it vouches for is on the disk, and nothing without it, or not matching it, is ever resumed.

What is thrown away, and when: a checkpoint that was never finished at once; an older whole one when a newer one is
whole and there is no room for both; a damaged one when the next one is whole. One of another recipe never.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pushtrain.differences import differences
from pushtrain.run import spec_digest
from trainer.failures import DiskFull, OtherRecipe, Preempted
from trainer.job import file_sha256, read_json
from trainer.report import say, sync, write_whole

MARKER = "COMPLETE.json"
# Two to fall back on where the disk has room: a network volume can hand back other bytes than it took.
MOST_KEPT = 3
# Of the bytes that are free or held by checkpoints, what they may hold; the last whole one is kept whatever it takes.
DISK_SHARE = 0.5
# Named by whoever started several processes and verified it for all of them; empty: from the start.
RESUME_FROM = "PUSHTRAIN_RESUME_FROM"
_DAMAGED = "damaged-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`is_final`: training had ended, only evaluation and publishing were left."""

    path: Path
    step: int
    is_final: bool


def mark_complete(folder: Path, recipe: Mapping[str, Any], *, is_final: bool) -> None:
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
    marker = {"digest": spec_digest(recipe), "recipe": recipe, "is_final": is_final, "files": listed}
    write_whole(folder / MARKER, json.dumps(marker, indent=1) + "\n")


def latest_complete(root: Path, recipe: Mapping[str, Any]) -> Checkpoint | None:
    """The furthest checkpoint below `root` that is whole. What was not finished is removed, what is damaged set aside:
    training would write into it.

    Raises OtherRecipe when it belongs to another recipe, and leaves it as it is: it may be the only copy.
    """
    for folder in _numbered(root):
        marker = _marker(folder)
        if not marker:
            say(f"checkpoint: {folder.name} was not finished: removed")
            remove(folder)
        elif marker.get("digest") != spec_digest(recipe):
            raise _other_recipe(folder, marker.get("recipe") or {}, recipe)
        elif fault := _fault(folder, marker["files"]):
            aside = folder.with_name(_DAMAGED + folder.name)
            say(f"checkpoint: {folder.name} is not resumed: {fault}; set aside as {aside.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        else:
            return Checkpoint(folder, _step_of(folder), bool(marker["is_final"]))
    return None


def newest_whole(
    root: Path, recipe: Mapping[str, Any], is_good: Callable[[Path], bool] = lambda _: True
) -> Checkpoint | None:
    """The furthest checkpoint of this recipe that is whole and good. Changes nothing, and raises nothing of its own."""
    for folder in _numbered(root):
        marker = _marker(folder)
        if marker.get("digest") == spec_digest(recipe) and not _fault(folder, marker["files"]) and is_good(folder):
            return Checkpoint(folder, _step_of(folder), bool(marker["is_final"]))
    return None


def to_resume(root: Path, recipe: Mapping[str, Any]) -> Checkpoint | None:
    """`latest_complete`, or in one of several processes the one that whoever started them has found and verified."""
    found = os.environ.get(RESUME_FROM)
    if found is None:
        return latest_complete(root, recipe)
    return Checkpoint(root / found, _step_of(root / found), bool(_marker(root / found)["is_final"])) if found else None


def make_room(root: Path, need: int, free: Callable[[Path], int], kept: frozenset[str] = frozenset()) -> None:
    """Before a checkpoint of `need` bytes is written: remove the oldest whole ones until it fits, never the last one,
    nor those whose names are in `kept`.

    Raises DiskFull when it does not fit beside those: half a checkpoint is of no use.
    """
    spare = [folder for folder in _whole(root)[1:] if folder.name not in kept]
    while (left := free(root)) < need:
        if not spare:
            text = f"the disk is filling: a checkpoint takes {need / 1e6:.1f} MB, {root} has {left / 1e6:.1f} MB free"
            raise DiskFull(text, hint="raise compute.volume.size_gb; the last whole checkpoint is kept")
        remove(spare.pop())


def rotate(root: Path, free: Callable[[Path], int], kept: frozenset[str] = frozenset()) -> None:
    """After a checkpoint has its marker: keep it, those in `kept`, and of the older ones what MOST_KEPT and DISK_SHARE
    allow."""
    for folder in root.glob(_DAMAGED + "checkpoint-*"):
        shutil.rmtree(folder)
    whole = _whole(root)
    sizes = [size_bytes(folder) for folder in whole]
    share = DISK_SHARE * (free(root) + sum(sizes))
    for index, folder in enumerate(whole):
        is_spare = index >= MOST_KEPT or (index > 0 and sum(sizes[: index + 1]) > share)
        if is_spare and folder.name not in kept:
            remove(folder)


def whole_at(root: Path, step: int) -> Path | None:
    """The checkpoint of this step, every byte of it verified; None, and the reason in the log, where there is none."""
    folder = root / f"checkpoint-{step}"
    marker = _marker(folder)
    fault = _fault(folder, marker["files"]) if marker else "it is not there"
    if fault is not None:
        say(f"checkpoint: {folder.name} cannot be used: {fault}")
        return None
    return folder


def remove(folder: Path) -> None:
    """The marker first: what is left of a removal that was cut short is then an unfinished checkpoint."""
    (folder / MARKER).unlink(missing_ok=True)
    sync(folder)
    shutil.rmtree(folder)


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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


def _numbered(root: Path) -> list[Path]:
    """The furthest first."""
    return sorted(root.glob("checkpoint-*"), key=_step_of, reverse=True)


def _step_of(folder: Path) -> int:
    number = folder.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _whole(root: Path) -> list[Path]:
    return [folder for folder in _numbered(root) if (folder / MARKER).exists()]


def _marker(folder: Path) -> dict[str, Any]:
    """Empty where there is none, or half of one."""
    try:
        return read_json(folder / MARKER)
    except ValueError:
        return {}


def _other_recipe(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> OtherRecipe:
    changed = [str(difference) for difference in differences(theirs, ours)]
    what = "; ".join(changed[:5]) or "its marker names none"
    return OtherRecipe(
        f"{folder} belongs to another recipe: {what}",
        hint="give this training another --run-dir, or remove the checkpoints if nobody needs them",
    )


def _fault(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why this checkpoint must not be resumed; None when it may. Sizes first: they cost nothing."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["size"]:
            return f"{name} is missing or cut off"
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(file_sha256, [folder / name for name in files])
        changed = [name for name, sha256 in zip(files, hashes, strict=True) if sha256 != files[name]["sha256"]]
    return f"{changed[0]} does not have the bytes that were written" if changed else None
