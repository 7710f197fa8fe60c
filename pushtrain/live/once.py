"""One log that comes two ways, quick and lossy by the cloud, late and whole by the ledger: each line once. Pure."""

from collections import Counter
from typing import Literal

Way = Literal["cloud", "ledger"]


class Once:
    """Which lines are new. A line that one way brought is awaited by the other, as often as it was brought; what never
    comes by both (what the cloud has forgotten, what the pod says of itself) is shown all the same."""

    def __init__(self) -> None:
        self._ahead: dict[Way, Counter[str]] = {"cloud": Counter(), "ledger": Counter()}

    def is_new(self, way: Way, line: str) -> bool:
        other: Way = "ledger" if way == "cloud" else "cloud"
        line = line.rstrip()
        if self._ahead[other][line] > 0:
            self._ahead[other][line] -= 1
            return False
        self._ahead[way][line] += 1
        return True
