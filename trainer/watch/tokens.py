"""How many tokens a run has trained on, over all its attempts.

TRL counts from the start of the process, the batch that was tried for its memory included; transformers, which counts
for seq2seq, goes on after a resume. The sum is kept in the trainer's log, and so in every checkpoint.
"""

from collections.abc import Mapping, Sequence
from typing import Any

KEY = "tokens_seen"


class TokenCount:
    """`history` is the log of the trainer at the start of this attempt, `tried` what TRL has counted before its first
    step."""

    def __init__(self, history: Sequence[Mapping[str, Any]] = (), tried: int = 0) -> None:
        self._before = trained_tokens(history) or 0
        self._tried = tried

    def total(self, logs: Mapping[str, Any], seen_by_transformers: int) -> int:
        """After the step that `logs` are of."""
        if "num_tokens" in logs:
            return self._before + int(logs["num_tokens"]) - self._tried
        return seen_by_transformers


def trained_tokens(history: Sequence[Mapping[str, Any]]) -> int | None:
    """What the last logged step says; None where none was logged."""
    return next((int(entry[KEY]) for entry in reversed(history) if KEY in entry), None)
