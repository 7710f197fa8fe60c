"""How large a dataset is: its own file read, the Hub's page, or a small table. No tokenizer, no download of rows."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pushtrain.errors import SpecError
from pushtrain.estimate.tokens import BYTES_PER_TOKEN, Dataset, dataset_of, text_tokens
from pushtrain.plan.hub import DatasetFacts
from pushtrain.rows import Row, data_file, read_rows
from pushtrain.spec import TrainingSpec

# Enough for the mean to stand; a file of millions of rows must not cost a reviewer's minutes.
SAMPLED_ROWS = 5000
_RATIO = f"at {BYTES_PER_TOKEN:g} bytes a token"


def local_dataset(spec: TrainingSpec, root: Path) -> tuple[Dataset | None, str]:
    """The dataset at `data.path`, or None and why not."""
    path = spec.data.path
    assert path is not None
    try:
        found = data_file(path, root)
        lengths = [row_tokens(row) for row in read_rows(found, path, spec.reading, head=SAMPLED_ROWS)]
    except SpecError as problem:
        return None, f"tokens are not counted: {problem}"
    if len(lengths) < SAMPLED_ROWS:
        return dataset_of(lengths, len(lengths), "counted", f"{len(lengths)} rows counted {_RATIO}"), ""
    rows = max(len(lengths), _rows_of(found))
    how = f"{rows} rows, of which the first {len(lengths)} were counted {_RATIO}"
    return dataset_of(lengths, rows, "sampled", how), ""


def hub_dataset(spec: TrainingSpec, facts: DatasetFacts) -> tuple[Dataset | None, str]:
    """The dataset at `data.source`, or None and why not."""
    name = str(spec.data.source).removeprefix("hf://datasets/")
    if facts.rows and facts.text_bytes:
        how = f"{facts.rows} rows as the dataset's page says, {_RATIO}"
        return Dataset(rows=facts.rows, tokens=facts.text_bytes / BYTES_PER_TOKEN, source="known", how=how), ""
    known = _table().get(name, {}).get("splits", {}).get(spec.data.split)
    if known is None:
        return None, f"nobody says how many tokens {name} ({spec.data.split}) has: hours and dollars are the budget's"
    how = f"{known['rows']} rows as pushtrain's table says, {_RATIO}"
    return Dataset(rows=known["rows"], tokens=known["text_bytes"] / BYTES_PER_TOKEN, source="known", how=how), ""


def row_tokens(row: Row) -> int:
    """About how many tokens one row is; of a preference one answer with its prompt, the mean of both."""
    record = row.record
    if row.form == "preference":
        prompt, *answers = (_tokens(record.get(name)) for name in ("prompt", "chosen", "rejected"))
        return prompt + sum(answers) // 2
    if row.form == "source/summary":
        return _tokens(record.get("source"))
    fields = {
        "messages": ("messages", "tools"),
        "prompt/completion": ("prompt", "completion"),
        "instruction/output": ("instruction", "input", "output"),
        "text": ("text",),
    }[row.form]
    return sum(_tokens(record.get(name)) for name in fields)


def _tokens(value: Any) -> int:
    if isinstance(value, str):
        return text_tokens(value) if value else 0
    if isinstance(value, list):
        contents = [item.get("content") if isinstance(item, Mapping) else item for item in value]
        return sum(text_tokens(content if isinstance(content, str) else str(content), turns=1) for content in contents)
    return 0


def _rows_of(path: Path) -> int:
    """Lines of a text file; a quoted line break of CSV counts as one more. Of Parquet what its footer says."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return int(parquet.read_metadata(path).num_rows)
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


@cache
def _table() -> dict[str, Any]:
    path = Path(__file__).parents[1] / "estimate" / "known_datasets.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["datasets"]
    return found
