"""From rows to datasets of tokens, in the order of the package's list; what is lost on the way is counted and said."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushtrain.rows import Reading, Row, judged
from trainer.data import cache
from trainer.data.encode import Encoder, Example, Lenient, Question
from trainer.data.fit import model_config
from trainer.data.layout import Layout, choose, packed
from trainer.data.parallel import encoded
from trainer.data.prepared import Counts, Prepared, check_batch, describe, nothing_left, say_skipped
from trainer.data.sources import Rows, as_dataset_error, hub_rows, hub_stream, named, reading_of, shown
from trainer.data.split import held_out_indexes
from trainer.failures import DatasetError, ModelUnsupported
from trainer.job import Job
from trainer.report import say

if TYPE_CHECKING:
    pass

QUESTIONS = 3


def prepare(job: Job, rows: Rows | None, encode: Encoder) -> Prepared:
    """Tokens of `rows`, or of the dataset on the Hub when there are none; from the cache where it has them.

    Raises DatasetError naming the row, or when nothing is left to train on.
    """
    if job.spec.data.bad_rows == "skip":
        encode = Lenient(encode)
    if job.spec.data.streaming:
        return _streamed(job, encode)
    folder = cache.entry(job)
    with cache.alone():
        known = cache.read(folder)
        if known is None:
            with cache.making(folder) as part, named(job):
                cache.finish(part, _make(job, rows, encode, part))
            known = cache.read(folder)
        else:
            say("data: the tokens are still here from an earlier start")
    assert known is not None
    made = cache.datasets(folder)
    prepared = Prepared(
        train=made["train"],
        held_out=made.get("held_out"),
        questions=[Question(**question) for question in known["questions"]],
        form=known["form"],
        counts=Counts(**known["counts"]),
        layout=Layout(**known["layout"]),
    )
    describe(job, prepared, known["is_chat"])
    check_batch(job, prepared)
    return prepared


def _make(job: Job, rows: Rows | None, encode: Encoder, folder: Path) -> dict[str, Any]:
    """Write the Arrow files of one entry of the cache; what is kept beside them."""
    if rows is None:
        rows = hub_rows(job, job.spec.data.split)
    counts, data = Counts(), job.spec.data
    held = held_out_indexes(len(rows), 0.0 if data.eval_split else data.eval_fraction, job.spec.train.seed)
    first = next(iter(rows))
    aside: list[Row] = []
    trained = _without(rows, held, aside)
    _write(folder / "train.arrow", encode, _counted(trained, len(rows), encode, counts))
    if not counts.rows:
        raise nothing_left(job, counts)
    say_skipped(rows.reading, counts)
    kept_out: Rows | list[Row] = aside
    if data.eval_split is not None:
        kept_out = hub_rows(job, data.eval_split)
        _check_same_form(first, kept_out)
    evaluated = Counts()
    if len(kept_out):
        _write(folder / "held_out.arrow", encode, _counted(iter(kept_out), len(kept_out), encode, evaluated))
    if not evaluated.rows:
        (folder / "held_out.arrow").unlink(missing_ok=True)
    counts.held_out = evaluated.rows
    layout = _lay_out(job, encode, folder / "train.arrow", counts)
    questions = _questions(iter(kept_out) if len(kept_out) else islice(rows, 100), encode)
    return {
        "form": first.form,
        "is_chat": encode.is_chat(first),
        "counts": asdict(counts),
        "layout": asdict(layout),
        "questions": [asdict(question) for question in questions],
    }


def _without(rows: Rows, held: set[int], kept_out: list[Row]) -> Iterator[Row]:
    """The rows that are trained on; the others are put into `kept_out` on the way."""
    for index, row in enumerate(rows):
        if index in held:
            kept_out.append(row)
        else:
            yield row


def _streamed(job: Job, encode: Encoder) -> Prepared:
    """The first rows of a stream are looked at and counted; the others come when they are trained on."""
    from datasets import Dataset

    from trainer.data.stream import BLOCK_ROWS, Recipe, Stream

    data, train = job.spec.data, job.spec.train
    reading = reading_of(job)
    rows = _head(job, data.split, BLOCK_ROWS, reading)
    held = held_out_indexes(len(rows), 0.0 if data.eval_split else data.eval_fraction, train.seed)
    kept_out = [rows[index] for index in sorted(held)]
    if data.eval_split is not None:
        kept_out = _head(job, data.eval_split, BLOCK_ROWS, reading)
        _check_same_form(rows[0], kept_out)
    counts, evaluated = Counts(), Counts()
    for _ in _counted((row for index, row in enumerate(rows) if index not in held), len(rows), encode, counts):
        pass  # counted
    held_out = [it.columns for batch in _counted(iter(kept_out), len(kept_out), encode, evaluated) for it in batch]
    counts.held_out, counts.sequences = evaluated.rows, counts.rows
    layout = _layout(job, [train.max_length] * train.per_device_train_batch_size)
    recipe = Recipe(
        shown=shown(job, data.split),
        reading=replace(reading, form=rows[0].form),
        encode=encode,
        seed=train.seed,
        held_out=frozenset(rows[index].number - 1 for index in held),
        max_length=train.max_length,
        is_packed=layout.packing,
    )
    say(f"data: {data.place} is streamed; of its first {len(rows)} rows:")
    prepared = Prepared(
        train=Stream(hub_stream(job, data.split), recipe),
        held_out=Dataset.from_list(held_out) if held_out else None,
        questions=_questions(iter(kept_out or rows), encode),
        form=rows[0].form,
        counts=counts,
        layout=layout,
    )
    describe(job, prepared, encode.is_chat(rows[0]))
    return prepared


def _head(job: Job, split: str, count: int, reading: Reading) -> list[Row]:
    """The first rows of a split, read as a stream."""
    records = enumerate(islice(hub_stream(job, split), count), start=1)
    return list(as_dataset_error(judged(records, shown(job, split), reading)))


def _check_same_form(first: Row, kept_out: Iterable[Row]) -> None:
    other = next(iter(kept_out)).form
    if other != first.form:
        raise DatasetError(f"data.split has rows of {first.form}, data.eval_split of {other}")


def _counted(rows: Iterator[Row], count: int, encode: Encoder, counts: Counts) -> Iterator[list[Example]]:
    """The rows that have something to learn, in order; `counts` grows by them and by what was cut and dropped."""
    for examples in encoded(rows, count, encode):
        kept = [example for example in examples if example.learned]
        counts.cut += sum(example.lost > 0 for example in examples)
        counts.lost_tokens += sum(example.lost for example in examples)
        counts.merged += sum(example.is_merged for example in examples)
        bad = sum(example.is_bad for example in examples)
        counts.bad += bad
        counts.dropped += len(examples) - len(kept) - bad
        counts.rows += len(kept)
        counts.tokens += sum(example.tokens for example in kept)
        counts.learned_tokens += sum(example.learned for example in kept)
        yield kept


def _write(path: Path, encode: Encoder, batches: Iterator[list[Example]]) -> None:
    """32 bits hold any vocabulary, and take half the room of Arrow's default."""
    import pyarrow

    kind = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema([(name, kind) for name in encode.columns])
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        for batch in batches:
            columns = [pyarrow.array([example.columns[name] for example in batch], kind) for name in encode.columns]
            stream.write_batch(pyarrow.record_batch(columns, schema=schema))


def _lay_out(job: Job, encode: Encoder, path: Path, counts: Counts) -> Layout:
    """Choose how rows lie in sequences, and pack them where that is to be. Only sft has a choice."""
    import pyarrow
    import pyarrow.compute

    counts.sequences = counts.rows
    if job.spec.task != "sft":
        return Layout(packing=False, padding_free=False, why=f"task {job.spec.task} pads")
    with pyarrow.memory_map(str(path)) as file:
        table = pyarrow.ipc.open_stream(file).read_all()
        sizes = pyarrow.compute.list_value_length(table.column(encode.columns[0])).to_numpy()
        layout = _layout(job, sizes)
        if layout.packing:
            joined = packed(table, job.spec.train.max_length)
            counts.sequences = len(joined)
            part = path.with_suffix(".packed")
            with pyarrow.OSFile(str(part), "wb") as out, pyarrow.ipc.new_stream(out, joined.schema) as stream:
                stream.write_table(joined)
            part.replace(path)
    return layout


def _layout(job: Job, sizes: Sequence[int] | Any) -> Layout:
    import numpy

    try:
        return choose(job.spec.train, numpy.asarray(sizes), str(model_config(job).get("model_type")), job.processes)
    except ValueError as error:
        raise ModelUnsupported(str(error), hint="leave the key out") from error


def _questions(rows: Iterator[Row], encode: Encoder) -> list[Question]:
    """The first rows whose prompt is short enough to be answered as it was trained."""
    found = (question for row in rows if (question := encode.question(row)) is not None)
    return list(islice(found, QUESTIONS))
