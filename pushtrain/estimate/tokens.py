"""How many tokens a dataset is, and how many optimizer steps a job makes of them. Pure.

Without a tokenizer text is counted in bytes of UTF-8: byte-level BPE with 100,000 words and more makes 4 to 4.6 bytes
of English a token, 2.5 to 3.5 of other languages and of code; 4 is the ratio used. A chat template adds some tokens
for each turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pushtrain.spec import TrainingSpec

BYTES_PER_TOKEN = 4.0
TURN_TOKENS = 6

Source = Literal["counted", "sampled", "known", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The rows of a split and the tokens in them. `lengths` are tokens of some of its rows, in their order; empty where
    only sums are known. `how` says in words where the figures are from."""

    rows: int
    tokens: float
    lengths: tuple[int, ...] = ()
    source: Source = "counted"
    how: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a job goes through: optimizer `steps`, `tokens` computed (padding included), the share of rows cut."""

    steps: int
    tokens: float
    eval_tokens: float
    share_cut: float


def dataset_of(lengths: Sequence[int], rows: int, source: Source, how: str) -> Dataset:
    """From the tokens of some rows to the whole split of `rows`."""
    tokens = sum(lengths) * rows / len(lengths) if lengths else 0.0
    return Dataset(rows=rows, tokens=tokens, lengths=tuple(lengths), source=source, how=how)


def text_tokens(text: str, turns: int = 0) -> int:
    """About how many tokens a text is."""
    return max(1, round(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)) + TURN_TOKENS * turns


def work(dataset: Dataset, spec: TrainingSpec) -> Work:
    """Steps and tokens of the whole training; of DPO's rows both answers are computed, each with the prompt.

    Left out, `train.packing` is chosen by the trainer: rows are packed at one row a batch, and batches of up to 8192
    tokens are joined without padding.
    """
    train, micro = spec.train, spec.train.per_device_train_batch_size
    held = dataset.rows * spec.data.eval_fraction
    rows = max(1.0, dataset.rows - held)
    mean, padded, cut = _row_tokens(dataset, train.max_length, micro)
    batch = micro * train.gradient_accumulation_steps * spec.compute.count
    if packs(spec):
        per_step: float = train.max_length * batch
        steps = math.ceil(max(1.0, rows * mean / per_step) * train.epochs)
    else:
        joined = train.padding_free if train.padding_free is not None else micro * train.max_length <= 8192
        per_step = (mean if joined and train.packing is None else padded) * batch
        steps = math.ceil(max(1.0, rows / batch) * train.epochs)
    steps = min(steps, train.max_steps or steps)
    evaluations = 2 + (steps // train.eval_steps if train.eval_steps else 0)
    both = 2 if spec.task == "dpo" else 1
    return Work(
        steps=steps, tokens=both * steps * per_step, eval_tokens=both * held * mean * evaluations, share_cut=cut
    )


def bounded_work(spec: TrainingSpec) -> Work | None:
    """The most that `train.max_steps` can be, where nobody knows the dataset: every row full. None without it."""
    train = spec.train
    if train.max_steps is None:
        return None
    rows = train.max_steps * train.per_device_train_batch_size * train.gradient_accumulation_steps * spec.compute.count
    both = 2 if spec.task == "dpo" else 1
    return Work(steps=train.max_steps, tokens=float(both * rows * train.max_length), eval_tokens=0.0, share_cut=0.0)


def packs(spec: TrainingSpec) -> bool:
    """Whether rows fill whole sequences, by the spec or by the trainer's choice (trainer/data/layout.py)."""
    train = spec.train
    if train.packing is not None or train.padding_free is not None:
        return bool(train.packing)
    return spec.task == "sft" and train.per_device_train_batch_size == 1


def _row_tokens(dataset: Dataset, length: int, batch: int) -> tuple[float, float, float]:
    """Mean tokens of a row once it is cut, the same with what its batch is padded to, and the share that is cut."""
    if not dataset.lengths:
        mean = min(dataset.tokens / max(1, dataset.rows), float(length))
        return mean, mean, 0.0
    cut = [min(tokens, length) for tokens in dataset.lengths]
    batches = [cut[start : start + batch] for start in range(0, len(cut), batch)]
    padded = sum(max(group) * len(group) for group in batches) / len(cut)
    return sum(cut) / len(cut), padded, sum(tokens > length for tokens in dataset.lengths) / len(cut)


def scaled(dataset: Dataset, factor: float) -> Dataset:
    """The dataset with so many times the tokens: what a better tokenizer says about the ratio."""
    lengths = tuple(max(1, round(tokens * factor)) for tokens in dataset.lengths)
    return replace(dataset, tokens=dataset.tokens * factor, lengths=lengths)
