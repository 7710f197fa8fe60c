"""The trainer of a virtual pod: real files on its volume, real checkpoints of `trainer.checkpoint`, no torch."""

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint import latest_complete, mark_complete

from .boards import Windows

Clock = Callable[[], float]

EXIT_FAILED, EXIT_PREEMPTED, EXIT_KILLED = 1, 75, -9
HUB_TRIES, HUB_PAUSE_S = 4, 20.0
RECIPE = {"recipe": "of every virtual pod"}


@dataclass(frozen=True, kw_only=True)
class Work:
    """How long everything takes, in seconds; a checkpoint every `save_every` steps."""

    steps: int
    step_s: float
    save_every: int
    save_s: float
    load_s: float
    environment_s: float
    fetch_s: float
    upload_s: float


@dataclass(kw_only=True)
class Orders:
    """What befalls this trainer. `stop`: SIGTERM; `killed`: SIGKILL, say by a kernel that is short of memory."""

    stop: bool = False
    killed: bool = False
    hangs: bool = False
    fails: bool = False


def train(
    run_dir: Path, attempt: int, work: Work, orders: Orders, hub: Windows, clock: Clock
) -> Generator[float, None, int]:
    """Yields seconds to wait; returns the exit code. `clock` is the pod's own, which may be wrong."""
    here = run_dir / f"attempt-{attempt}"
    note = _noter(here, clock)
    note("events.jsonl", state="preparing", message="data", data={})
    yield from _pause(work.load_s, orders)
    best = latest_complete(run_dir / "checkpoints", RECIPE)
    first = best.step if best else 0
    note("events.jsonl", state="training", message=f"from step {first}", data={"resumed_from_step": first})
    for step in range(first + 1, work.steps + 1):
        while orders.hangs and not (orders.killed or orders.stop):
            yield 5.0
        yield from _pause(work.step_s, orders)
        if orders.killed:
            return EXIT_KILLED
        if orders.fails:
            (here / "failure.json").write_text(json.dumps({"reason": "LossNotFinite", "message": "loss is NaN"}))
            return EXIT_FAILED
        note("metrics.jsonl", step=step, total_steps=work.steps, loss=5.0 / step)
        if orders.stop or step % work.save_every == 0 or step == work.steps:
            yield from _save(run_dir / "checkpoints" / f"checkpoint-{step}", work.save_s, step == work.steps)
        if orders.stop:
            return EXIT_PREEMPTED
    return (yield from _publish(here, work, first, orders, hub, note))


def _publish(
    here: Path, work: Work, first: int, orders: Orders, hub: Windows, note: Callable[..., None]
) -> Generator[float, None, int]:
    note("events.jsonl", state="publishing", message="adapter", data={})
    for _ in range(HUB_TRIES):
        yield from _pause(work.upload_s, orders)
        if orders.killed:
            return EXIT_KILLED
        if orders.stop:
            return EXIT_PREEMPTED
        if not hub:
            break
        yield from _pause(HUB_PAUSE_S, orders)
    else:
        (here / "failure.json").write_text(json.dumps({"reason": "HubUnreachable", "message": "503"}))
        return EXIT_FAILED
    metrics = {"base_eval_loss": 5.0, "eval_loss": 1.0, "steps": work.steps, "resumed_from_step": first}
    result = {"adapter": {"repo": "o/x", "revision": "0" * 40, "files": {}}, "metrics": metrics, "samples": []}
    (here / "result.json").write_text(json.dumps(result))
    return 0


def _save(folder: Path, save_s: float, is_final: bool) -> Iterator[float]:
    """A pod that dies between the two halves leaves a checkpoint that must never be resumed."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights"
    weights.write_bytes(b"half")
    yield save_s / 2
    weights.write_bytes(b"whole weights")
    yield save_s / 2
    mark_complete(folder, RECIPE, is_final=is_final)


def _pause(seconds: float, orders: Orders) -> Iterator[float]:
    """In pieces, so that a signal is heard."""
    left = seconds
    while left > 0 and not (orders.killed or orders.stop):
        yield min(5.0, left)
        left -= 5.0


def _noter(here: Path, clock: Clock) -> Callable[..., None]:
    def note(name: str, **row: object) -> None:
        with (here / name).open("a") as out:
            out.write(json.dumps({"time": clock(), **row}) + "\n")

    return note
