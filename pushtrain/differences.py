"""What two records say differently, key by key. Pure; standard library only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """`key` is dotted, as in `train.learning_rate`; None stands for a key that one of them does not have, too."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.before)} → {_short(self.after)}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any], under: str = "") -> Iterator[Difference]:
    """Every leaf that is not the same, in the order of `before`; lists count as one leaf."""
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{under}{key}.")
        elif old != new:
            yield Difference(f"{under}{key}", None if old is _ABSENT else old, None if new is _ABSENT else new)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
