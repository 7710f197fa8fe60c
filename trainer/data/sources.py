"""Where rows come from. Rows can be gone through more than once and are never all in memory; each was judged by
`pushtrain.rows`, so that the first bad one ends the run under its name, file:row."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pushtrain.errors import SpecError
from pushtrain.rows import Reading, Row, data_file, judged, read_rows
from trainer.data import cache
from trainer.data.buckets import copy_of
from trainer.failures import DatasetError, hub_errors, is_disk_full
from trainer.job import Job, rank


class Rows(Protocol):
    """Rows of one form. Going through them raises DatasetError at the first bad one, unless they are skipped, and where
    there is none."""

    @property
    def reading(self) -> Reading: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Row]: ...


class Skipped:
    """The rows of one pass that cannot be trained on: how many, and the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def __call__(self, error: SpecError) -> None:
        self.count += 1
        if self.count <= 3:
            self.first.append(str(error))

    def reset(self) -> None:
        self.count, self.first = 0, []


@dataclass(frozen=True)
class FileRows:
    """The rows of a file, read anew each time. `shown` is its name for people."""

    path: Path
    shown: str
    reading: Reading

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Row]:
        _begin(self.reading)
        return as_dataset_error(read_rows(self.path, self.shown, self.reading))


@dataclass(frozen=True)
class HubRows:
    """The rows of a split that was downloaded: Arrow files, mapped into memory."""

    dataset: Any
    shown: str
    reading: Reading

    def __len__(self) -> int:
        return len(self.dataset) if self.reading.skipped is None else self._count

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Row]:
        _begin(self.reading)
        return as_dataset_error(judged(enumerate(self.dataset, start=1), self.shown, self.reading))


def local_rows(job: Job) -> FileRows | None:
    """The rows of `data.path`, or of the copy of a file in a bucket; None when the dataset is on the Hub.

    Every row is looked at, except where the tokens of this very file are there already.

    Raises DatasetError naming the first bad row.
    """
    data, reading = job.spec.data, reading_of(job)
    if data.is_on_hub:
        return None
    if data.bucket is not None:
        rows = FileRows(copy_of(data.place, job.inputs.data_version), data.place, reading)
    else:
        try:
            rows = FileRows(data_file(data.place, job.root), data.place, reading)
        except SpecError as error:
            raise DatasetError(str(error), hint=error.hint) from error
    if rank() == 0 and not cache.is_there(job):
        len(rows)
    return rows


def reading_of(job: Job) -> Reading:
    """What the spec says about rows, with a place for those that are skipped where it wants that."""
    return replace(job.spec.reading, skipped=Skipped() if job.spec.data.bad_rows == "skip" else None)


def hub_rows(job: Job, split: str) -> HubRows:
    """The rows of a split of `data.source`, downloaded at the commit that the run has pinned.

    Raises DatasetError, or one of the failures of the Hub.
    """
    return HubRows(_loaded(job, split), shown(job, split), reading_of(job))


def shown(job: Job, split: str) -> str:
    """A split of the Hub's dataset for people."""
    return f"{job.dataset_name}@{job.inputs.data_version[:8]} {split}"


@contextmanager
def named(job: Job) -> Iterator[None]:
    """Of a row that was read, and cannot be written, the file or split, too: `file:row`, as of one that cannot be
    read."""
    try:
        yield
    except DatasetError as error:
        found = re.match(r"row (\d+): ", str(error))
        if found is None:
            raise
        where = job.spec.data.place if not job.spec.data.is_on_hub else shown(job, job.spec.data.split)
        raise DatasetError(str(error), where=f"{where}:{found[1]}", hint=error.hint) from error


def _begin(reading: Reading) -> None:
    if isinstance(reading.skipped, Skipped):
        reading.skipped.reset()


def _loaded(job: Job, split: str, *, streaming: bool = False) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    name, version = job.dataset_name, job.inputs.data_version
    try:
        with hub_errors(f"dataset {name}", missing=DatasetError):
            return load_dataset(name, job.spec.data.config, revision=version, split=split, streaming=streaming)
    except (ValueError, FileNotFoundError, DatasetGenerationError) as error:
        if is_disk_full(error):
            raise
        raise DatasetError(f"dataset {name}, split {split!r}, cannot be read: {error}") from error


def hub_stream(job: Job, split: str) -> Any:
    """A split of `data.source` that is read as it is gone through. Raises as `hub_rows` does."""
    return _loaded(job, split, streaming=True)


def as_dataset_error(rows: Iterable[Row]) -> Iterator[Row]:
    try:
        yield from rows
    except SpecError as error:
        raise DatasetError(str(error), hint=error.hint) from error
