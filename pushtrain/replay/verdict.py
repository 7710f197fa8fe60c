"""Did a run come out the same the second time, and if not, why? Pure: two runs as the ledger has them.

equal             every file of weights has the same bytes
within tolerance  other bytes, and every loss, of training and evaluation, within a share of the first run's
drifted           a loss beyond it, or none to compare
failed            the second run did not get to a result
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pushtrain.differences import Difference, differences
from pushtrain.ledger import RunRecord

Word = Literal["equal", "within tolerance", "drifted", "failed"]
# Share of a loss. Two trainings that differ in the order of sums alone stay far below it at the first steps and come
# apart slowly; another seed or other data differ by more at the first step.
TOLERANCE = 0.01
_WEIGHTS = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the ledger has of one run that counts here. `losses` is step → training loss, `weights` file → SHA-256,
    `locks` one for each attempt that trained."""

    run_id: str
    outcome: str
    reason: str
    lock: Mapping[str, Any]
    locks: tuple[Mapping[str, Any], ...]
    losses: Mapping[int, float]
    eval_loss: float | None
    weights: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`loss_difference` is the largest share by which a loss differs, at `at_step` (None: the evaluation's). `lock` is
    what the two locks say differently, `why` all of it in words."""

    run_id: str
    replay_id: str
    verdict: Word
    why: tuple[str, ...]
    weights_equal: bool
    steps_compared: int
    loss_difference: float | None
    at_step: int | None
    tolerance: float
    lock: tuple[Difference, ...]

    @property
    def exit_code(self) -> int:
        return 0 if self.verdict in ("equal", "within tolerance") else 1

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        return "\n".join([f"{self.replay_id}: {self.verdict}, beside {self.run_id}", *(f"  {it}" for it in self.why)])


def told(record: RunRecord, metrics: bytes) -> Told:
    """Of a run that is over; `metrics` are all its chunks, joined."""
    result = record.result or {}
    starts = (event.data.get("lock") for event in record.events if event.state == "training")
    files = (result.get("adapter") or {}).get("files") or {}
    return Told(
        run_id=record.run_id,
        outcome=str((record.receipt or {}).get("outcome", "")),
        reason=next((event.reason for event in reversed(record.events) if event.reason), ""),
        lock=result.get("lock") or {},
        locks=tuple(lock for lock in starts if isinstance(lock, Mapping)),
        losses=_losses(metrics),
        eval_loss=(result.get("metrics") or {}).get("eval_loss"),
        weights={name: str(sha256) for name, sha256 in files.items() if name.endswith(_WEIGHTS)},
    )


def compare(first: Told, second: Told, tolerance: float = TOLERANCE) -> Verdict:
    """`first` is the run, `second` its replay."""
    changed = tuple(differences(first.lock, second.lock)) if second.lock else ()
    same_weights = bool(first.weights) and first.weights == second.weights
    shared = sorted(first.losses.keys() & second.losses.keys())
    apart, at_step = _furthest(first, second, shared)
    word: Word = "drifted"
    if second.outcome != "succeeded":
        word = "failed"
    elif same_weights:
        word = "equal"
    elif apart is not None and apart <= tolerance:
        word = "within tolerance"
    verdict = Verdict(
        run_id=first.run_id,
        replay_id=second.run_id,
        verdict=word,
        why=(),
        weights_equal=same_weights,
        steps_compared=len(shared),
        loss_difference=apart,
        at_step=at_step,
        tolerance=tolerance,
        lock=changed,
    )
    return Verdict(**{**_fields(verdict), "why": tuple(_why(verdict, first, second))})


def _fields(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in Verdict.__slots__}


def _why(verdict: Verdict, first: Told, second: Told) -> Iterator[str]:
    if verdict.verdict == "failed":
        yield f"it ended {second.outcome or 'without an outcome'}{f', {second.reason}' if second.reason else ''}"
        return
    if verdict.weights_equal:
        yield f"the weights have the same bytes: {', '.join(sorted(first.weights))}"
    elif first.weights.keys() != second.weights.keys():
        yield f"other files of weights: {', '.join(sorted(second.weights)) or 'none'}"
    else:
        yield "the weights have other bytes"
    yield _course(verdict)
    yield from (f"lock: {difference}" for difference in verdict.lock)
    for it in (first, second):
        for before, after in zip(it.locks, it.locks[1:], strict=False):
            yield from (f"{it.run_id} went on elsewhere: {change}" for change in differences(before, after))
    if not verdict.weights_equal and not verdict.lock:
        yield "the locks say the same, so kernels vary from call to call; train.determinism: strict asks for others"


def _course(verdict: Verdict) -> str:
    if verdict.loss_difference is None:
        return "no loss of theirs can be compared"
    where = "of the evaluation" if verdict.at_step is None else f"at step {verdict.at_step}"
    if verdict.loss_difference == 0:
        return f"the losses are the same in all {verdict.steps_compared} steps that both have"
    apart = f"{verdict.loss_difference:.2g}"
    return f"losses of {verdict.steps_compared} steps: furthest apart by a share of {apart}, {where}"


def _furthest(first: Told, second: Told, shared: list[int]) -> tuple[float | None, int | None]:
    pairs: list[tuple[int | None, float, float]] = [(step, first.losses[step], second.losses[step]) for step in shared]
    if first.eval_loss is not None and second.eval_loss is not None:
        pairs.append((None, first.eval_loss, second.eval_loss))
    apart = [(abs(after - before) / max(abs(before), 1e-12), step) for step, before, after in pairs]
    return max(apart, key=lambda it: it[0], default=(None, None))


def _losses(metrics: bytes) -> dict[int, float]:
    """Where a lost pod's steps were trained twice, the second time counts."""
    found: dict[int, float] = {}
    for line in metrics.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line cut by the end of a pod
        if isinstance(row, dict) and isinstance(loss := row.get("loss"), int | float) and math.isfinite(loss):
            found[int(row["step"])] = float(loss)
    return found
