"""Rows of a dataset: the forms, and the row and field an error names."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pushtrain.errors import SpecError
from pushtrain.rows import DATA_MISSING, data_file, fault, form_of, read_rows

PROMPT = {"prompt": "What is 2 + 2?", "completion": "4"}
INSTRUCTION = {"instruction": "Add.", "input": "2 2", "output": "4"}
MESSAGES = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
TEXT = {"text": "2 + 2 = 4"}


def written(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "x.jsonl"
    parts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(part + b"\n" for part in parts))
    return path


def refused(tmp_path: Path, *lines: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        list(read_rows(written(tmp_path, *lines), "data/x.jsonl"))
    return caught.value


@pytest.mark.parametrize(
    ("record", "form"),
    [
        (PROMPT, "prompt/completion"),
        (INSTRUCTION, "instruction/output"),
        ({**INSTRUCTION, "input": None}, "instruction/output"),
        ({"instruction": "Add 2 and 2.", "output": "4"}, "instruction/output"),
        (MESSAGES, "messages"),
        (TEXT, "text"),
        ({**MESSAGES, "prompt": "left over"}, "messages"),
        ({**INSTRUCTION, "text": "rendered"}, "instruction/output"),
    ],
)
def test_each_form_is_recognised(tmp_path: Path, record: dict[str, Any], form: str) -> None:
    rows = list(read_rows(written(tmp_path, record, record)))
    assert [(row.number, row.form) for row in rows] == [(1, form), (2, form)]
    assert rows[0].record == record


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"prompt": "x"}, "'completion' is missing"),
        ({"prompt": "x", "completion": None}, "'completion' is missing"),
        ({"prompt": "x", "completion": 4}, "'completion' must be text, not a number"),
        ({"prompt": "x", "completion": " "}, "'completion' is empty"),
        ({"instruction": "x"}, "'output' is missing"),
        ({"instruction": "x", "input": ["y"], "output": "z"}, "'input' must be text, not a list"),
        ({"text": ""}, "'text' is empty"),
        ({"messages": []}, "'messages' must be a list of {role, content}, not an empty one"),
        ({"messages": "hello"}, "'messages' must be a list of {role, content}, not text"),
        ({"messages": ["hello"]}, "messages[0] must be an object with role and content, not text"),
        ({"messages": [{"role": "user"}]}, "messages[0]: 'content' is missing"),
        ({"messages": [{"role": "user", "content": 4}]}, "messages[0]: 'content' must be text, not a number"),
        ({"messages": [{"from": "human", "value": "x"}]}, "messages[0]: 'role' is missing"),
        ({"messages": [{"role": "user", "content": "x"}]}, "has no assistant message with content"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "has no assistant message with content"),
        ({"question": "x", "answer": "y"}, "has none of the known forms (its fields: answer, question)"),
        ({}, "has none of the known forms"),
        ([1, 2], "must be a JSON object, not a list"),
        ("words", "must be a JSON object, not text"),
        (None, "must be a JSON object, not null"),
        (b"{broken", "is not JSON"),
        (b"[" * 200_000, "is nested too deep"),
        (b'{"text": "caf\xe9"}', "is not UTF-8"),
        (b'{"text": "\\ud83d"}', "half of a surrogate pair"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named(tmp_path: Path, record: object, what: str) -> None:
    good = TEXT if isinstance(record, dict) and "text" in record else PROMPT
    error = refused(tmp_path, record, good)
    assert error.where == "data/x.jsonl:1"
    assert str(error).startswith("data/x.jsonl:1: row 1: ")
    assert what in str(error)
    assert "one JSON object a line" in (error.hint or "")


def test_the_row_number_counts_lines_and_passes_over_blank_ones(tmp_path: Path) -> None:
    error = refused(tmp_path, PROMPT, b"", PROMPT, b"   ", {"prompt": "x"})
    assert error.where == "data/x.jsonl:5"
    assert "row 5: 'completion' is missing" in str(error)


def test_the_first_row_of_another_form_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, PROMPT, PROMPT, TEXT, MESSAGES)
    assert str(error).startswith("data/x.jsonl:3: row 3: has the form text, the rows before it prompt/completion")


@pytest.mark.parametrize("lines", [(), (b"",), (b"  ", b"")])
def test_a_dataset_without_a_row_is_refused(tmp_path: Path, lines: tuple[bytes, ...]) -> None:
    error = refused(tmp_path, *lines)
    assert (error.where, error.reason) == ("data/x.jsonl", "EmptyDataset")


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    error = refused(tmp_path, b"version https://git-lfs.github.com/spec/v1", b"oid sha256:00")
    assert "Git LFS pointer" in str(error)


def test_a_byte_order_mark_and_characters_in_two_halves_are_fine(tmp_path: Path) -> None:
    rows = list(
        read_rows(written(tmp_path, b"\xef\xbb\xbf" + json.dumps(TEXT).encode(), b'{"text": "\\ud83d\\ude00"}'))
    )
    assert rows[1].record["text"] == "\U0001f600"


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, PROMPT, b"broken"))
    assert next(rows).number == 1
    with pytest.raises(SpecError, match="row 2"):
        next(rows)


def test_a_row_of_the_hub_is_judged_by_the_same_rules() -> None:
    assert form_of(INSTRUCTION) == "instruction/output"
    assert fault(INSTRUCTION, "instruction/output") is None
    assert fault({"prompt": "x"}, "prompt/completion") == "'completion' is missing"
    assert form_of({"other": 1}) is None


def test_a_hundred_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text((json.dumps(MESSAGES) + "\n") * 100_000)
    started = time.process_time()
    assert sum(1 for _ in read_rows(path)) == 100_000
    assert time.process_time() - started < 10  # measured: 1 s


def test_a_data_file_is_found_inside_the_repository_only(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    (root / "data").mkdir(parents=True)
    inside = root / "data" / "x.jsonl"
    inside.write_text("{}\n")
    (tmp_path / "secret.jsonl").write_text("{}\n")
    (root / "out.jsonl").symlink_to("../secret.jsonl")
    (root / "in.jsonl").symlink_to("data/x.jsonl")
    (root / "loop.jsonl").symlink_to("loop.jsonl")
    (root / "folder").symlink_to(tmp_path)
    assert data_file("data/x.jsonl", root) == data_file("in.jsonl", root) == inside.resolve()
    for path, message in [
        ("out.jsonl", "leaves the repository"),
        ("folder/secret.jsonl", "leaves the repository"),
        ("../secret.jsonl", "leaves the repository"),
        ("loop.jsonl", "cannot be followed"),
        ("data", "is not a file"),
        ("data/x\0.jsonl", "cannot be followed"),
        ("data/x.jsonl/y", "is not there"),
    ]:
        with pytest.raises(SpecError, match=message):
            data_file(path, root)
    with pytest.raises(SpecError) as caught:
        data_file("gone.jsonl", root)
    assert caught.value.reason == DATA_MISSING
