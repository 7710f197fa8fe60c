"""Rows to datasets of tokens: where rows come from, which are held out, what is cut or dropped, all counted."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pushtrain.errors import SpecError
from pushtrain.rows import Form, Row, judged
from trainer.failures import DatasetError, hub_errors, is_disk_full
from trainer.job import Job
from trainer.pieces import Encoded, Piece, Writer
from trainer.report import say, say_if_quiet

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

QUESTIONS = 3
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to try the model on, as text and as token ids, and what the row answers."""

    prompt: str
    prompt_ids: list[int]
    expected: str


@dataclass(kw_only=True, slots=True)
class Counts:
    """Of the rows that are trained on; `dropped` ones, with nothing to learn within max_length, are not among them."""

    rows: int = 0
    held_out: int = 0
    tokens: int = 0
    learned_tokens: int = 0
    cut: int = 0
    dropped: int = 0
    merged: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Columns of both datasets: `input_ids` and `labels`. `questions` are held-out rows where there are any."""

    train: "Dataset"
    held_out: "Dataset | None"
    questions: list[Question]
    form: Form
    counts: Counts


def prepare(job: Job, rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase") -> Prepared:
    """Tokens of `rows`, or of the dataset on the Hub when there are none.

    Raises DatasetError naming the row, or when nothing is left to train on.
    """
    rows = rows or list(_hub_rows(job))
    writer = Writer(tokenizer, job.spec.train.max_length)
    held = held_out_indexes(len(rows), job.spec.data.eval_fraction, job.spec.train.seed)
    counts = Counts()
    train = [row for index, row in enumerate(rows) if index not in held]
    encoded = list(_encoded(train, writer, counts))
    if not encoded:
        raise DatasetError(
            f"no row has anything to learn within its first {writer.max_length} tokens", hint="raise train.max_length"
        )
    counts.rows = len(encoded)
    counts.tokens = sum(len(row.input_ids) for row in encoded)
    counts.learned_tokens = sum(row.learned for row in encoded)
    kept_out = [rows[index] for index in sorted(held)]
    evaluated = list(_encoded(kept_out, writer, Counts()))
    counts.held_out = len(evaluated)
    _describe(job, rows[0], counts, writer, encoded[0])
    return Prepared(
        train=_dataset(encoded),
        held_out=_dataset(evaluated) if evaluated else None,
        questions=_questions(kept_out or train, writer),
        form=rows[0].form,
        counts=counts,
    )


def held_out_indexes(count: int, fraction: float, seed: int) -> set[int]:
    """Which of `count` rows are held out: ranked by a hash of seed and index, the same on every machine and version."""
    if fraction == 0 or count < 2:
        return set()
    wanted = min(max(1, round(count * fraction)), count - 1)
    ranked = sorted(range(count), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    return set(ranked[:wanted])


def _hub_rows(job: Job) -> Iterator[Row]:
    where = f"{job.dataset_name}@{job.inputs.data_version[:8]} {job.spec.data.split}"
    try:
        yield from judged(enumerate(_hub_dataset(job), start=1), where, job.spec.reading)
    except SpecError as error:
        raise DatasetError(str(error), hint=error.hint) from error


def _hub_dataset(job: Job) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    name, split = job.dataset_name, job.spec.data.split
    try:
        with hub_errors(f"dataset {name}", missing=DatasetError):
            dataset: Iterable[dict[str, Any]] = load_dataset(name, revision=job.inputs.data_version, split=split)
    except (ValueError, FileNotFoundError, DatasetGenerationError) as error:
        if is_disk_full(error):
            raise
        raise DatasetError(f"dataset {name}, split {split!r}, cannot be read: {error}") from error
    return dataset


def _encoded(rows: Sequence[Row], writer: Writer, counts: Counts) -> Iterator[Encoded]:
    """The rows that have something to learn, in order; `counts` grows by what was cut, dropped and merged."""
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        say_if_quiet(f"data: {start} of {len(rows)} rows are tokens now")
        for row in writer.encode([writer.pieces(row) for row in batch], is_chat=writer.is_chat(batch[0])):
            counts.cut += row.is_cut
            counts.merged += row.is_merged
            if row.learned:
                yield row
            else:
                counts.dropped += 1


def _dataset(rows: Sequence[Encoded]) -> "Dataset":
    import numpy
    from datasets import Dataset

    # 32 bits hold any vocabulary, and half the memory of Arrow's default.
    columns = {
        "input_ids": [numpy.asarray(row.input_ids, dtype=numpy.int32) for row in rows],
        "labels": [numpy.asarray(row.labels, dtype=numpy.int32) for row in rows],
    }
    return Dataset.from_dict(columns)


def _questions(rows: Sequence[Row], writer: Writer) -> list[Question]:
    """The first rows whose prompt is short enough to be answered as it was trained."""
    found: list[Question] = []
    for row in rows:
        question = _question(writer.pieces(row), writer, is_chat=writer.is_chat(row))
        if question is not None:
            found.append(question)
        if len(found) == QUESTIONS:
            break
    return found


def _question(pieces: Sequence[Piece], writer: Writer, *, is_chat: bool) -> Question | None:
    """Everything before the last learned piece asks, that piece answers; a text is asked its first half."""
    last = max(index for index, piece in enumerate(pieces) if piece.is_learned)
    prompt, expected = "".join(piece.text for piece in pieces[:last]), pieces[last].text
    if not prompt:
        middle = expected.rfind(" ", 0, len(expected) // 2 + 1)
        prompt, expected = expected[:middle], expected[middle:]
    [encoded] = writer.encode([[Piece(prompt, False)]], is_chat=is_chat)
    if encoded.is_cut or not encoded.input_ids:
        return None
    answer = writer.tokenizer(expected, add_special_tokens=False)["input_ids"]
    return Question(prompt, encoded.input_ids, writer.tokenizer.decode(answer, skip_special_tokens=True).strip())


def _describe(job: Job, row: Row, counts: Counts, writer: Writer, first: Encoded) -> None:
    way = ", written by the model's chat template" if writer.is_chat(row) else ""
    say(f"data: {job.dataset_name}: rows of {row.form}{way}; {counts.rows} to train on, {counts.held_out} held out")
    say(f"data: {counts.tokens} tokens, {counts.learned_tokens} of them carry the loss")
    if counts.cut or counts.dropped:
        say(
            f"data: {counts.cut} rows are cut at train.max_length {writer.max_length}, "
            f"{counts.dropped} have nothing to learn before the cut and are left out"
        )
    if counts.merged:
        say(f"data: in {counts.merged} rows a token spans prompt and completion: inference will see other tokens there")
    say(f"data: first row, what carries the loss between « and »: {writer.marked(first)}")
