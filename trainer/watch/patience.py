"""Early stopping: which evaluation was the best so far, and how many came after it that were no better.

Counted as transformers' EarlyStoppingCallback counts. Both follow from the evaluations in the trainer's own log, which
is in every checkpoint: a resumed training stops where an unbroken one does.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pushtrain.spec.recipe import Train


class Patience:
    """`best_step` is None before the first evaluation; `history` is the log of the trainer (`state.log_history`)."""

    def __init__(self, patience: int, threshold: float = 0.0, history: Iterable[Mapping[str, Any]] = ()) -> None:
        self.best_step: int | None = None
        self.best_loss = math.inf
        self.waited = 0
        self._patience, self._threshold = patience, threshold
        for entry in history:
            if "eval_loss" in entry:
                self.is_better(entry["step"], entry["eval_loss"])

    @classmethod
    def of(cls, train: Train, history: Iterable[Mapping[str, Any]] = ()) -> "Patience | None":
        """None where the spec asks for no early stopping."""
        if train.early_stopping_patience is None:
            return None
        return cls(train.early_stopping_patience, train.early_stopping_threshold, history)

    @property
    def is_over(self) -> bool:
        return self.waited >= self._patience

    def is_better(self, step: int, loss: float) -> bool:
        """Take the next evaluation. A loss that is not a number is no better than any."""
        if self.best_step is None or loss < self.best_loss - self._threshold:
            self.best_step, self.best_loss, self.waited = step, loss, 0
            return True
        self.waited += 1
        return False
