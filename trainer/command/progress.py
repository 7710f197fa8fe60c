"""Lines of a command's output to steps and figures, by the regular expressions of its spec."""

import contextlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pushtrain.spec.command import Progress
from trainer.command.output import ReadBytes, folded
from trainer.report import Report, say, write_whole

# Figures stand near the beginning of a line; a page of JSON in one line is not searched to its end.
LONGEST_LOOK = 2000


class ProgressReader:
    """Feed it every line: it writes metrics, signs of steps and the event `training` to `report`.

    `first_step` is a file of the run: what the run's first attempt told of first. Where a later attempt begins beyond
    that, it has gone on from what was saved: the difference is the step it resumed from.
    """

    def __init__(self, progress: Progress | None, report: Report, first_step: Path) -> None:
        self._report, self._first_step = report, first_step
        self._patterns = _patterns(progress)
        self._total = progress.total_steps if progress and isinstance(progress.total_steps, int) else None
        self._has_loss = "loss" in self._patterns
        self._row: dict[str, float] = {}
        self._is_open = False
        self.step: int | None = None
        self.resumed_from_step: int | None = None
        self.last: dict[str, float] = {}

    def follow(self, source: ReadBytes) -> None:
        """Every line of an output into the log, and what it tells of steps into the report, until it ends.

        Nothing that goes wrong with figures stops it: a pipe that nobody empties would stop the command.
        """
        complained = ""
        for line in folded(source):
            try:
                self.read(line.text)
            except Exception as error:  # noqa: BLE001 — a full disk, or a line nobody thought of
                if (complaint := f"progress: {type(error).__name__}: {error}") != complained:
                    say(complaint)
                complained = complaint
            if line.is_shown:
                say(line.text)
        with contextlib.suppress(OSError):
            self.flush()

    def read(self, text: str) -> None:
        """Take in one line. The row of a step waits for its loss, which may come on a line of its own."""
        found = _numbers(self._patterns, text[:LONGEST_LOOK])
        self._total = int(found.pop("total_steps", self._total or 0)) or None
        step = found.pop("step", None)
        is_new = step is not None and int(step) != self.step
        if is_new and step is not None:
            self.flush()
            self._begin(int(step))
        elif not found or self.step is None:
            return
        waits = self._has_loss and "loss" not in found and (is_new or self._is_open)
        self._is_open = True
        self.last |= found
        self._row |= found
        if not waits:
            self.flush()

    def flush(self) -> None:
        """Write the row of a step that is still waiting for its loss."""
        if self._is_open:
            total = {} if self._total is None else {"total_steps": self._total}
            self._report.metrics({"step": self.step, **total, **self._row})
        self._is_open, self._row = False, {}

    def _begin(self, step: int) -> None:
        is_first, self.step = self.step is None, step
        self._report.step()
        if is_first:
            if not self._first_step.exists():
                write_whole(self._first_step, str(step))
            self.resumed_from_step = max(0, step - int(self._first_step.read_text()))
            self._report.event("training", f"step {step}", resumed_from_step=self.resumed_from_step)


def _patterns(progress: Progress | None) -> dict[str, "re.Pattern[str]"]:
    if progress is None:
        return {}
    asked = {"step": progress.step, "total_steps": progress.total_steps, "loss": progress.loss, **progress.metrics}
    return {name: re.compile(pattern) for name, pattern in asked.items() if isinstance(pattern, str)}


def _numbers(patterns: Mapping[str, "re.Pattern[str]"], text: str) -> dict[str, Any]:
    """What the patterns find, as numbers; of several matches in a line the last one, as a progress bar has it."""
    found = {}
    for name, pattern in patterns.items():
        for match in pattern.finditer(text):
            number = _number(match[1] or "")
            if number is not None and (math.isfinite(number) or name not in ("step", "total_steps")):
                found[name] = number
    return found


def _number(written: str) -> float | None:
    """`1,234.5`, `3e-4`; a NaN stays one, so that it is seen. None for what is no number."""
    try:
        return float(written.replace(",", ""))
    except ValueError:
        return None
