"""What the rows became: its counts, what is said of them, and when there are too few."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from pushtrain.rows import Form, Reading
from trainer.data.encode import Question
from trainer.data.layout import Layout
from trainer.data.sources import Skipped
from trainer.failures import DatasetError
from trainer.job import Job
from trainer.report import say

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.data.stream import Stream


@dataclass(kw_only=True, slots=True)
class Counts:
    """Of the rows that are trained on; `dropped` ones, with nothing to learn within max_length, are not among them.

    `cut` rows are longer than max_length and lose `lost_tokens`; in `merged` rows a token spans prompt and answer.
    `bad` rows were skipped as `data.bad_rows` says. `sequences` are what the trainer draws: rows, or several in one.
    """

    rows: int = 0
    held_out: int = 0
    tokens: int = 0
    learned_tokens: int = 0
    cut: int = 0
    lost_tokens: int = 0
    dropped: int = 0
    merged: int = 0
    bad: int = 0
    sequences: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Columns of both datasets as `trainer.data.encode` lists them for the task. `questions` are held-out rows where
    there are any."""

    train: "Dataset | Stream"
    held_out: "Dataset | None"
    questions: list[Question]
    form: Form
    counts: Counts
    layout: Layout


def nothing_left(job: Job, counts: Counts) -> DatasetError:
    if counts.bad and not counts.dropped:
        text = f"not one of {counts.bad} rows can be written by the chat template, and data.bad_rows skips them all"
        return DatasetError(text, hint="data.bad_rows: refuse says what is wrong with the first")
    text = f"no row has anything to learn within its first {job.spec.train.max_length} tokens"
    return DatasetError(text, hint="raise train.max_length")


def check_batch(job: Job, data: Prepared) -> None:
    """Raises DatasetError where one optimizer step takes more than there is: it would not be the step of the spec."""
    train, counts = job.spec.train, data.counts
    factors = [train.per_device_train_batch_size, train.gradient_accumulation_steps, job.processes]
    if (wanted := prod(factors)) > counts.sequences:
        what = "packed sequences" if data.layout.packing else "rows"
        times = " × ".join(map(str, factors))
        text = f"an optimizer step takes {wanted} {what} ({times}), there are {counts.sequences} to train on"
        hint = "lower train.gradient_accumulation_steps or per_device_train_batch_size"
        raise DatasetError(text, hint=hint + (", or set train.packing: false" if data.layout.packing else ""))


def say_skipped(reading: Reading, counts: Counts) -> None:
    if isinstance(reading.skipped, Skipped) and reading.skipped.count:
        counts.bad += reading.skipped.count
        for text in reading.skipped.first:
            say(f"data: skipped: {text}")


def describe(job: Job, data: Prepared, is_chat: bool) -> None:
    counts, limit = data.counts, job.spec.train.max_length
    way = ", written by the model's chat template" if is_chat else ""
    by = "as data.form says" if job.spec.data.form else "recognised by their fields"
    say(f"data: {job.dataset_name}: rows of {data.form} ({by}){way}")
    say(f"data: {counts.rows} rows to train on, {counts.held_out} held out")
    say(f"data: {counts.tokens} tokens, {counts.learned_tokens} of them carry the loss")
    if counts.cut:
        share = 100 * counts.lost_tokens / (counts.tokens + counts.lost_tokens)
        say(f"data: {counts.cut} rows are cut at train.max_length {limit}: {counts.lost_tokens} tokens, {share:.1f} %")
    if counts.bad:
        say(f"data: {counts.bad} rows cannot be trained on and are skipped, as data.bad_rows says")
    if counts.dropped:
        say(f"data: {counts.dropped} rows have nothing to learn before the cut and are left out")
    layout = data.layout
    if layout.packing and job.spec.data.streaming:
        say(f"data: packed into sequences of {limit} tokens ({layout.why})")
    elif layout.packing:
        full = counts.tokens / (counts.sequences * limit)
        say(f"data: packed into {counts.sequences} sequences of {limit} tokens, {full:.0%} full ({layout.why})")
    else:
        say(f"data: batches are {'without padding' if layout.padding_free else 'padded'} ({layout.why})")
    if counts.merged:
        say(f"data: in {counts.merged} rows a token spans prompt and completion: inference will see other tokens there")
