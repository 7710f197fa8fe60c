"""How large a dataset is: its own file read, the Hub's page, or a small table. Rows are never downloaded.

Where the package tokenizers is installed and the model's tokenizer.json lies in the Hub's cache, a sample of the rows
is tokenised and the ratio of bytes to tokens is the model's own; elsewhere it is a stated one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pushtrain.errors import SpecError
from pushtrain.estimate.tokens import BYTES_PER_TOKEN, Dataset, dataset_of, scaled, text_tokens
from pushtrain.plan.hub import DatasetFacts
from pushtrain.rows import Form, Row, data_file, read_rows
from pushtrain.spec import TrainingSpec

# Enough for the mean to stand; a file of millions of rows must not cost a reviewer's minutes.
SAMPLED_ROWS = 5000
TOKENISED_ROWS = 200
# What is read of a row, by its form; of a summary only what the encoder reads.
_FIELDS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages", "tools"),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt/completion": ("prompt", "completion"),
    "instruction/output": ("instruction", "input", "output"),
    "source/summary": ("source",),
    "text": ("text",),
}
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


def with_tokenizer(dataset: Dataset, spec: TrainingSpec, root: Path, tokenizer: Path | None) -> Dataset:
    """The dataset by the model's own tokenizer, where there is one; of a file only."""
    if tokenizer is None or spec.data.path is None or find_spec("tokenizers") is None:
        return dataset
    from tokenizers import Tokenizer

    try:
        own = Tokenizer.from_file(str(tokenizer))
    except Exception:  # noqa: BLE001  the package raises bare Exceptions; a broken cache is no reason not to plan
        return dataset
    rows = list(read_rows(data_file(spec.data.path, root), spec.data.path, spec.reading, head=TOKENISED_ROWS))
    texts = ["".join(texts_of(row)) for row in rows]
    guessed = sum(text_tokens(text) for text in texts)
    counted = sum(len(encoding.ids) for encoding in own.encode_batch(texts))
    if not counted:
        return dataset
    how = f"{dataset.how.partition(' at ')[0]} by the model's own tokenizer on {len(rows)} of them"
    return replace(scaled(dataset, counted / guessed), how=how)


def hub_dataset(spec: TrainingSpec, facts: DatasetFacts) -> tuple[Dataset | None, str]:
    """The dataset at `data.source`, or None and why not."""
    name = str(spec.data.source).removeprefix("hf://datasets/")
    rows, size, who = facts.rows, facts.text_bytes, "the dataset's page"
    if not rows or not size:
        known = _table().get(name, {}).get("splits", {}).get(spec.data.split, {})
        rows, size, who = known.get("rows"), known.get("text_bytes"), "pushtrain's table"
    if not rows or not size:
        return None, f"nobody says how many tokens {name} ({spec.data.split}) has"
    # A row of preferences has two answers, each with its prompt: one of them is a sequence.
    tokens = size / BYTES_PER_TOKEN / (2 if spec.task == "dpo" else 1)
    return Dataset(rows=rows, tokens=tokens, source="known", how=f"{rows} rows as {who} says, {_RATIO}"), ""


def row_tokens(row: Row) -> int:
    """About how many tokens one row is; of a preference one answer with its prompt, the mean of both."""
    if row.form == "preference":
        prompt, *answers = (_tokens(row.record.get(name)) for name in ("prompt", "chosen", "rejected"))
        return prompt + sum(answers) // 2
    return sum(_tokens(row.record.get(name)) for name in _FIELDS[row.form])


def texts_of(row: Row) -> Iterator[str]:
    """The texts of a row, without what a template adds."""
    for name in _FIELDS[row.form]:
        value = row.record.get(name)
        items = value if isinstance(value, list) else [value]
        contents = (item.get("content") if isinstance(item, Mapping) else item for item in items)
        yield from (content for content in contents if isinstance(content, str))


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
