"""A data file to records, by its ending. Each comes with its number: the line of a text file, the row of Parquet.

.jsonl           one JSON object a line; blank lines are passed over
.csv .tsv        a header line, then one record a line; a cell in quotes may hold line breaks
.parquet         a batch of rows at a time
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pushtrain.errors import SpecError
from pushtrain.rows.forms import FORMS_HINT, kind

DATA_MISSING = "DataMissing"
PYARROW_MISSING = "PyarrowMissing"
ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
MAX_RECORD_BYTES = 64 * 1024 * 1024

# In place of a record that cannot be read stands the error that says why.
Records = Iterator[tuple[int, dict[str, Any] | SpecError]]

_PARQUET_MAGIC = b"PAR1"
_PARQUET_BATCH = 1024


def data_file(path: str, root: Path, key: str = "data.path") -> Path:
    """The file of the commit that `key` of a spec names, symlinks followed.

    Raises SpecError when it leaves the repository at `root`, is not a file, or (reason DATA_MISSING) is not there.
    """
    base = root.resolve()
    try:
        found = (base / path).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        hint = "the path counts from the repository's root"
        raise SpecError(f"{key} {path!r} is not there", hint=hint, reason=DATA_MISSING) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(f"{key} {path!r} cannot be followed: {error}") from None
    if not found.is_relative_to(base):
        raise SpecError(
            f"{key} {path!r} leaves the repository by a symlink", hint="commit the file itself, not a link to it"
        )
    if not found.is_file():
        raise SpecError(f"{key} {path!r} is not a file")
    return found


def records(path: Path, shown: str) -> Records:
    """Every record of a file and its number, from 1; for one that is broken a SpecError with `where` = `shown:number`.

    Raises SpecError, with `where` = `shown`, for a file in which no next record can be found.
    """
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            hint = "commit the data itself, or put it on the Hub and use data.source"
            raise SpecError("is a Git LFS pointer, not the data", where=shown, hint=hint)
    if path.suffix == ".parquet":
        return _parquet(path, shown)
    if path.suffix in (".csv", ".tsv"):
        return _csv(path, shown, "\t" if path.suffix == ".tsv" else ",")
    return _jsonl(path, shown)


def row_error(what: str, number: int, shown: str) -> SpecError:
    return SpecError(f"row {number}: {what}", where=f"{shown}:{number}", hint=FORMS_HINT, reason="InvalidRow")


def _jsonl(path: Path, shown: str) -> Records:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_RECORD_BYTES + 1):
            number += 1
            if len(line) > MAX_RECORD_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_RECORD_BYTES)
                yield number, row_error(f"is longer than {MAX_RECORD_BYTES >> 20} MiB", number, shown)
                continue
            try:
                record = _decode(line, number, shown)
            except SpecError as error:
                yield number, error
                continue
            if record is not None:
                yield number, record


def _decode(line: bytes, number: int, shown: str) -> dict[str, Any] | None:
    """The JSON object on a line, None for a blank line."""
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    if not line.strip():
        return None
    try:
        record = json.loads(line.decode())
        # \ud83d alone is JSON but no text: it would stop the tokenizer in the middle of a run.
        if b"\\ud" in line or b"\\uD" in line:
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise row_error(f"is not UTF-8 at byte {error.start + 1}", number, shown) from None
    except UnicodeEncodeError:
        raise row_error("holds half of a surrogate pair, which is no character", number, shown) from None
    except RecursionError:
        raise row_error("is nested too deep", number, shown) from None
    except ValueError as error:
        raise row_error(f"is not JSON: {error}", number, shown) from None
    if not isinstance(record, dict):
        raise row_error(f"must be a JSON object, not {kind(record)}", number, shown)
    return record


def _csv(path: Path, shown: str, delimiter: str) -> Records:
    csv.field_size_limit(MAX_RECORD_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        names: list[str] | None = None
        number = 1
        while True:
            try:
                cells = next(lines, None)
            except UnicodeDecodeError as error:
                raise row_error(f"or one soon after it is not UTF-8: {error.reason}", number, shown) from None
            except csv.Error as error:
                broken = row_error(f"is not CSV: {error}", number, shown)
                if names is None:  # nobody knows the columns then
                    raise broken from None
                yield number, broken
                number = lines.line_num + 1
                continue
            if cells is None:
                return
            if names is None:
                names = _header(cells, shown)
            elif cells:
                yield number, _named(names, cells, number, shown)
            number = lines.line_num + 1


def _named(names: list[str], cells: list[str], number: int, shown: str) -> dict[str, Any] | SpecError:
    if len(cells) != len(names):
        return row_error(f"has {len(cells)} cells, the header has {len(names)}", number, shown)
    return dict(zip(names, cells, strict=True))


def _header(cells: list[str], shown: str) -> list[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice or not all(name.strip() for name in cells):
        what = f"names {twice[0]!r} twice" if twice else "has a column without a name"
        hint = "the first line of a CSV names its columns"
        raise SpecError(f"the header {what}", where=f"{shown}:1", hint=hint, reason="InvalidRow")
    return cells


def _parquet(path: Path, shown: str) -> Records:
    with path.open("rb") as file:
        begins = file.read(4) == _PARQUET_MAGIC
        file.seek(max(path.stat().st_size - 4, 0))
        if not begins or file.read(4) != _PARQUET_MAGIC:
            raise SpecError("is not a Parquet file, or only a part of one", where=shown, reason="InvalidRow")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        hint = "uv sync --extra trainer brings pyarrow, and the pod has it"
        text = "the rows of this file are not looked at here: Parquet needs pyarrow"
        raise SpecError(text, where=shown, hint=hint, reason=PYARROW_MISSING) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        _unreadable(shown, number, error)


def _unreadable(shown: str, number: int, error: Exception) -> NoReturn:
    lines = str(error).strip().splitlines() or ["no reason given"]
    after = f" after row {number}" if number else ""
    raise SpecError(f"cannot be read{after}: {lines[0][:300]}", where=shown, reason="InvalidRow") from None
