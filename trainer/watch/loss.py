"""Whether a loss has left its course: a single bad batch is none, a training that has come apart is."""

from collections import deque
from collections.abc import Iterable
from math import isfinite
from statistics import median

WINDOW = 10
FACTOR, NATS = 2.0, 1.0
# The first loss is one batch's: it may lie this much below what is usual.
FIRST = 1.5


class LossCourse:
    """Explodes when the median of the last 10 logged losses is above twice the best such median, and 1 nat more.

    A median, because one odd batch may cost five times the others; the nat, because twice a loss of 0.05 is nothing.
    The first loss, half as much again, counts as a median too: a training may come apart at its second step. Before
    there are 20 losses nothing explodes. `earlier` are those logged before a resume.
    """

    def __init__(self, earlier: Iterable[float] = ()) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._seen = 0
        self.best = float("inf")
        for loss in earlier:
            self.explodes(loss)

    @property
    def limit(self) -> float:
        """Above it a median has left its course."""
        return FACTOR * self.best + NATS

    @property
    def is_on(self) -> bool:
        """Whether the last loss alone is one to go on from."""
        return not self._window or (isfinite(self._window[-1]) and self._window[-1] <= self.limit)

    @property
    def is_near(self) -> bool:
        """Whether the last losses are near the best ones, too: a quarter of the way to the limit at most. What comes
        apart is known only when it is all the way there."""
        return not self._window or (self.is_on and median(self._window) <= self.best + (self.limit - self.best) / 4)

    def explodes(self, loss: float) -> float | None:
        """Take the next loss; the median, when it has left its course."""
        self._window.append(loss)
        self._seen += 1
        if self._seen == 1:
            self.best = FIRST * loss
        if self._seen < WINDOW:
            return None
        middle = median(self._window)
        self.best = min(self.best, middle)
        return middle if self._seen >= 2 * WINDOW and middle > self.limit else None
