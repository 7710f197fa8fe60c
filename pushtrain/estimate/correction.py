"""What past runs say about the next estimate: how long their training took, and how much of the GPU's memory, beside
what was expected of it. Pure.

A receipt holds the estimate of its claim; only that estimate before any correction is compared, so that corrections do
not pile up. Runs of the same card and method count first, then of the same method, then all.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# One wild run must not turn the next plan into nonsense, and a few say more than one.
LEAST, MOST, NEWEST = 0.25, 4.0, 8
# The same for memory, where a run that needed less than it should have had lowers nothing: what torch reserves grows
# with what there is.
MOST_MEMORY = 2.0
_GB_IN_GIB = 1e9 / 2**30


@dataclass(frozen=True, slots=True)
class Past:
    """One finished run: the card, the method, its training's seconds over those that were expected, and where it was
    measured the peak of its GPU's memory over the `need_gb` of its claim."""

    gpu: str
    kind: str
    ratio: float
    memory_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Correction:
    factor: float
    how: str


NONE = Correction(1.0, "no finished run to learn from")


def past(run: Mapping[str, Any], receipt: Mapping[str, Any] | None) -> Past | None:
    """What one run teaches; None where it did not end well in one attempt, or was claimed without an expectation."""
    estimate = run.get("estimate")
    if not isinstance(estimate, Mapping) or not receipt or receipt.get("outcome") != "succeeded":
        return None
    expected, phases = estimate.get("training_s"), receipt.get("phases_s")
    history = receipt.get("history") or [{}]
    if not isinstance(expected, int | float) or expected <= 0 or not isinstance(phases, Mapping) or len(history) != 1:
        return None
    took = sum(float(phases.get(name) or 0.0) for name in ("training", "evaluating"))
    # Of another card than the expected one the ratio would be of two things.
    gpu = str(estimate.get("gpu", ""))
    if took <= 0 or (history[0].get("gpu") or gpu) != gpu:
        return None
    return Past(gpu, str(estimate.get("kind", "")), took / float(expected), _memory_ratio(estimate, receipt))


def _memory_ratio(estimate: Mapping[str, Any], receipt: Mapping[str, Any]) -> float | None:
    need_gib, peak_gb = estimate.get("need_gb"), receipt.get("peak_gpu_memory_gb")
    if not isinstance(need_gib, int | float) or not isinstance(peak_gb, int | float) or min(need_gib, peak_gb) <= 0:
        return None
    return float(peak_gb) * _GB_IN_GIB / float(need_gib)


def memory_correction(runs: Iterable[Past], kind: str) -> Correction:
    """`runs` newest first; the largest of their ratios counts, since memory that is missing once ends a run. Never
    below 1: `how` says what was measured in any case, and is empty where nothing was."""
    ratios = [it.memory_ratio for it in runs if it.kind == kind and it.memory_ratio is not None][:NEWEST]
    if not ratios:
        return Correction(1.0, "")
    named = "1 finished run" if len(ratios) == 1 else f"{len(ratios)} finished runs"
    how = f"{named} with {kind} peaked at {max(ratios):.2f} of the memory that was to be safe"
    return Correction(min(MOST_MEMORY, max(1.0, *ratios)), how)


def correction(runs: Iterable[Past], gpu: str, kind: str) -> Correction:
    """`runs` newest first."""
    known = list(runs)
    circles = (
        (f"on {gpu} with {kind}", [it for it in known if (it.gpu, it.kind) == (gpu, kind)]),
        (f"with {kind}", [it for it in known if it.kind == kind]),
        ("of any kind", known),
    )
    for words, found in circles:
        if found:
            ratio = statistics.median(it.ratio for it in found[:NEWEST])
            count = len(found[:NEWEST])
            named = "1 finished run" if count == 1 else f"{count} finished runs"
            return Correction(min(MOST, max(LEAST, ratio)), f"× {ratio:.2f} by {named} {words}")
    return NONE
