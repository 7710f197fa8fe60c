"""The first batch in the log, as the model gets it: which tokens there are, and which of them carry the loss."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from trainer.data.tokens import IGNORED
from trainer.report import say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS, _CHARACTERS = 4, 300
_GREEN, _GREY, _PLAIN = "\x1b[32m", "\x1b[90m", "\x1b[0m"


class FirstBatch:
    """A collator that says its first batch."""

    def __init__(self, inner: Any, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.inner = inner
        self._tokenizer = tokenizer
        self._is_said = False
        # What a resumed stream gives for batches that are dropped, thousands of them.
        self._passed = {"input_ids": torch.zeros((1, 1), dtype=torch.long)}

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        if not next(iter(examples[0].values())):
            return self._passed
        batch = self.inner(examples)
        if not self._is_said:
            self._is_said = True
            for line in shown(batch, self._tokenizer, colour=has_colours()):
                say(f"first batch: {line}")
        return batch


def say_first_batch(trainer: Any) -> None:
    """Let `trainer`'s next batch be said."""
    trainer.data_collator = FirstBatch(collator_of(trainer), trainer.processing_class)


def collator_of(trainer: Any) -> Any:
    """The collator itself, to be asked without a word in the log."""
    collator = trainer.data_collator
    return collator.inner if isinstance(collator, FirstBatch) else collator


def shown(batch: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", *, colour: bool = False) -> list[str]:
    """A line about the batch, then one for each of its first rows."""
    rows, tokens = list(_rows(batch)), batch["input_ids"]
    real = sum(len(ids) for ids, _ in rows)
    learned = sum(label != IGNORED for _, labels in rows for label in labels)
    about = f"{len(rows)} rows, {real} tokens in {tokens.numel()} places, {learned} carry the loss: those in « »"
    return [about, *(marked(tokenizer, ids, labels, colour=colour) for ids, labels in rows[:_ROWS])]


def marked(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], labels: Sequence[int], *, colour: bool = False
) -> str:
    """A row as text for people, what carries the loss between « and »; with `colour` also green, the rest grey."""
    parts, start = [], 0
    for end in range(1, len(ids) + 1):
        is_learned = labels[start] != IGNORED
        if end < len(ids) and (labels[end] != IGNORED) == is_learned:
            continue
        text = str(tokenizer.decode(ids[start:end]))
        if len(text) > _CHARACTERS:
            text = f"{text[: _CHARACTERS // 2]} … {text[-_CHARACTERS // 2 :]}"
        text = f"«{text}»" if is_learned else text
        parts.append(f"{_GREEN if is_learned else _GREY}{text}{_PLAIN}" if colour else text)
        start = end
    return "".join(parts)


def has_colours(environ: Mapping[str, str] = os.environ) -> bool:
    """Only on a terminal: a log that is read as a file would be full of escapes. NO_COLOR as no-color.org has it."""
    return sys.stdout.isatty() and not environ.get("NO_COLOR")


def _rows(batch: Mapping[str, Any]) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of each row without its padding; a source and its target as one row, the target learned."""
    ids = batch["input_ids"].tolist()
    if "position_ids" in batch and "attention_mask" not in batch:
        yield from _joined(ids[0], batch["labels"][0].tolist(), batch["position_ids"][0].tolist())
        return
    masks = batch["attention_mask"].tolist()
    if "completion_mask" in batch:
        learned = batch["completion_mask"].tolist()
        labels = [[t if m else IGNORED for t, m in zip(*row, strict=True)] for row in zip(ids, learned, strict=True)]
    else:
        labels = batch["labels"].tolist()
    for row, label, mask in zip(ids, labels, masks, strict=True):
        kept = [index for index, is_real in enumerate(mask) if is_real]
        if "decoder_input_ids" in batch or len(label) != len(row):
            target = [token for token in label if token != IGNORED]
            yield [row[index] for index in kept] + target, [IGNORED] * len(kept) + target
        else:
            yield [row[index] for index in kept], [label[index] for index in kept]


def _joined(ids: list[int], labels: list[int], positions: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The rows of one sequence without padding: each begins at position 0."""
    starts = [index for index, position in enumerate(positions) if position == 0]
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        yield ids[start:end], labels[start:end]
