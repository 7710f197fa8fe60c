"""Rows of a dataset: the forms, and the row and field an error names."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pushtrain.errors import SpecError
from pushtrain.rows import DATA_MISSING, Reading, Row, data_file, fault, form_of, judged, read_rows, split_pair

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
    assert str(error).startswith("data/x.jsonl:3: row 3: has the form text, not prompt/completion")


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


@pytest.mark.parametrize(
    ("name", "content", "kept", "skipped"),
    [
        ("x.jsonl", b'{"text": "a"}\nbroken\n[1]\n{"text": "\xe9"}\n{"text": ""}\n{"text": "b"}', [1, 6], [2, 3, 4, 5]),
        ("x.jsonl", b"broken\n" + b'{"text": "' + b"a" * 3000 + b'"}\n{"text": "b"}', [3], [1, 2]),
        ("x.csv", b'prompt,completion\na,b\nc\na"b,"c"d\nd,\ne,f\n', [2, 6], [3, 4, 5]),
    ],
)
def test_what_cannot_be_read_is_skipped_like_what_cannot_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, kept: list[int], skipped: list[int]
) -> None:
    monkeypatch.setattr("pushtrain.rows.files.MAX_RECORD_BYTES", 1000)
    told: list[SpecError] = []
    (tmp_path / name).write_bytes(content)
    rows = read_rows(tmp_path / name, name, Reading(skipped=told.append))
    assert [row.number for row in rows] == kept
    assert [error.where for error in told] == [f"{name}:{number}" for number in skipped]
    with pytest.raises(SpecError, match=rf"^{name}:{skipped[0]}: row {skipped[0]}: "):
        list(read_rows(tmp_path / name, name))


def test_where_every_line_is_broken_the_first_is_named_though_they_are_to_be_skipped(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^x.jsonl:1: row 1: is not JSON"):
        list(read_rows(written(tmp_path, b"{", b"}"), "x.jsonl", Reading(skipped=lambda _: None)))


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


PAIR = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
CHAT_PAIR = {
    "chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
    "rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}],
}
SUMMARY = {"source": "It rained all day.", "summary": "Rain."}
DPO, SEQ2SEQ = Reading(task="dpo"), Reading(task="seq2seq")


def judge(record: dict[str, Any], reading: Reading) -> Row:
    return next(iter(judged([(1, record)], "x", reading)))


@pytest.mark.parametrize(
    ("record", "reading", "form"),
    [
        (PAIR, DPO, "preference"),
        (CHAT_PAIR, DPO, "preference"),
        ({**CHAT_PAIR, "prompt": "2 + 2?"}, DPO, "preference"),
        ({"prompt": CHAT_PAIR["chosen"][:1], **{k: v[1:] for k, v in CHAT_PAIR.items()}}, DPO, "preference"),
        (SUMMARY, SEQ2SEQ, "source/summary"),
        (PROMPT, SEQ2SEQ, "prompt/completion"),
        ({**SUMMARY, "text": "rendered"}, SEQ2SEQ, "source/summary"),
        ({**PAIR, **TEXT}, Reading(task="sft", form="text"), "text"),
    ],
)
def test_a_task_takes_the_rows_it_can_train_on(record: dict[str, Any], reading: Reading, form: str) -> None:
    assert judge(record, reading).form == form


@pytest.mark.parametrize(
    ("record", "reading", "what"),
    [
        (PROMPT, DPO, "has the form prompt/completion, but task dpo takes preference"),
        (PAIR, Reading(), "has the form preference, but task sft takes messages or prompt/completion"),
        (TEXT, Reading(form="messages"), "has the form text, but data.form says messages"),
        (MESSAGES, SEQ2SEQ, "has the form messages, but task seq2seq takes source/summary"),
        ({**PAIR, "rejected": "4"}, DPO, "are the same: nothing to prefer"),
        ({**PAIR, "chosen": ""}, DPO, "'chosen' is empty"),
        ({"chosen": "4", "rejected": "5"}, DPO, "'prompt' is missing"),
        ({"chosen": CHAT_PAIR["chosen"], "rejected": "5"}, DPO, "'rejected' must be a list of {role, content}"),
        ({**CHAT_PAIR, "rejected": MESSAGES["messages"][1:]}, DPO, "must begin with the same messages"),
        ({**SUMMARY, "source": " "}, SEQ2SEQ, "'source' is empty: nothing to read"),
        ({**MESSAGES, "tools": "{broken"}, Reading(), "'tools' is text, but not JSON"),
        ({**MESSAGES, "tools": ["river"]}, Reading(), "'tools' must be a list of objects"),
        ({"prompt": MESSAGES["messages"], "completion": "4"}, Reading(), "'completion' must be a list of {role"),
    ],
)
def test_what_a_task_cannot_train_on_is_said(record: dict[str, Any], reading: Reading, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        judge(record, reading)
    assert str(caught.value).startswith("x:1: row 1: ")
    assert what in str(caught.value)


def test_a_message_that_only_calls_a_tool_has_something_to_learn() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    assert fault({"messages": [*MESSAGES["messages"][:1], call]}, "messages") is None


def test_a_preference_is_parted_where_its_two_ends_begin_to_differ() -> None:
    explicit = {
        "prompt": CHAT_PAIR["chosen"][:1],
        "chosen": CHAT_PAIR["chosen"][1:],
        "rejected": CHAT_PAIR["rejected"][1:],
    }
    assert split_pair(CHAT_PAIR) == split_pair(explicit) == tuple(explicit.values())
    answers = {**explicit, "prompt": "2 + 2?"}
    assert split_pair(answers) == split_pair(CHAT_PAIR)
    assert split_pair(PAIR) is None


def test_columns_of_other_names_are_read_as_the_fields_they_hold(tmp_path: Path) -> None:
    path = written(tmp_path, {"question": "2 + 2?", "answer": "4", "text": "left over"})
    reading = Reading(columns={"prompt": "question", "completion": "answer"})
    [row] = read_rows(path, "x.jsonl", reading)
    assert (row.form, row.record["prompt"], row.record["completion"]) == ("prompt/completion", "2 + 2?", "4")
    with pytest.raises(SpecError, match=r"x.jsonl:1: row 1: data.columns.prompt: there is no column 'ask'") as caught:
        list(read_rows(path, "x.jsonl", Reading(columns={"prompt": "ask", "completion": "answer"})))
    assert caught.value.hint == "the columns of this row: answer, question, text"


def table(path: Path, text: str) -> list[Row]:
    path.write_text(text, encoding="utf-8")
    return list(read_rows(path, path.name))


def test_a_csv_has_a_header_and_cells_with_line_breaks(tmp_path: Path) -> None:
    rows = table(tmp_path / "x.csv", '\ufeffprompt,completion\n"a, b\n2nd line",one\nc,"two ""quoted"""\n\n')
    assert [(row.number, row.record) for row in rows] == [
        (2, {"prompt": "a, b\n2nd line", "completion": "one"}),
        (4, {"prompt": "c", "completion": 'two "quoted"'}),
    ]
    assert table(tmp_path / "x.tsv", "text\tother\nhello, you\t1\n")[0].record["text"] == "hello, you"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("what is red,a bird\nwhat is blue,a fish\n", "x.csv:1", "the header names no column of a known form"),
        ("prompt,prompt\na,b\n", "x.csv:1", "the header names 'prompt' twice"),
        ("prompt,\na,b\n", "x.csv:1", "the header has a column without a name"),
        ("prompt,completion\na,b,c\n", "x.csv:2", "row 2: has 3 cells, the header has 2"),
        ("prompt,completion\na,b\n\nc\n", "x.csv:4", "row 4: has 1 cells, the header has 2"),
        ('prompt,completion\n"a\nb,c\n', "x.csv:2", "row 2: is not CSV"),
        ("prompt,completion\na,\n", "x.csv:2", "row 2: 'completion' is empty"),
        ("prompt,completion\n", "x.csv", "the dataset is empty"),
        ("", "x.csv", "the dataset is empty"),
    ],
)
def test_what_is_wrong_with_a_csv_is_named_by_its_line(tmp_path: Path, text: str, where: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        table(tmp_path / "x.csv", text)
    assert str(caught.value).startswith(f"{where}: {what}")


def test_a_csv_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"text\ncaf\xe9\n")
    with pytest.raises(SpecError, match="is not UTF-8"):
        list(read_rows(tmp_path / "x.csv", "x.csv"))


def test_a_parquet_file_is_read_in_batches_and_a_bad_row_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    path = tmp_path / "x.parquet"
    rows = [MESSAGES] * 2500
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    read = list(read_rows(path, "x.parquet"))
    assert [row.number for row in read] == list(range(1, 2501))
    assert read[-1].record == MESSAGES
    parquet.write_table(pyarrow.Table.from_pylist([PROMPT, {"prompt": "x", "completion": None}]), path)
    with pytest.raises(SpecError, match=r"x.parquet:2: row 2: 'completion' is missing"):
        list(read_rows(path, "x.parquet"))
    whole = path.read_bytes()
    for broken in (b"prompt,completion\na,b\n", whole[:-9], b"", b"PAR1PAR1", b"PAR1" + b"\0" * 40 + b"PAR1"):
        path.write_bytes(broken)
        with pytest.raises(SpecError, match=r"^x.parquet: (is not a Parquet file|cannot be read)"):
            list(read_rows(path, "x.parquet"))


def test_the_head_of_a_file_is_looked_at_without_the_rest(tmp_path: Path) -> None:
    path = written(tmp_path, *[TEXT] * 5, b"broken")
    assert len(list(read_rows(path, head=5))) == 5


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushtrain.rows.files.MAX_RECORD_BYTES", 1 << 20)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "' + b"a" * (2 << 20) + b'"}')
    with pytest.raises(SpecError, match="row 1: is longer than 1 MiB"):
        list(read_rows(path, "x.jsonl"))


def test_conversations_as_sharegpt_has_them_are_messages() -> None:
    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4", "weight": 1}]
    row = judge({"conversations": turns, "id": "x"}, Reading())
    assert row.form == "messages"
    assert row.record["messages"] == [*MESSAGES["messages"][:1], {"role": "assistant", "content": "4", "weight": 1}]
    assert judge({"conversations": MESSAGES["messages"]}, Reading()).record["messages"] == MESSAGES["messages"]
    with pytest.raises(SpecError, match=r"messages\[0\]: 'content' must be text, not a number"):
        judge({"conversations": [{"from": "human", "value": 4}]}, Reading())
    with pytest.raises(SpecError, match="must be an object with role and content"):
        judge({"conversations": ["hello"]}, Reading())


def test_a_summary_is_made_of_texts_alone() -> None:
    turns = {"prompt": MESSAGES["messages"][:1], "completion": MESSAGES["messages"][1:]}
    with pytest.raises(SpecError, match="'prompt' must be text for seq2seq, not a list"):
        judge(turns, SEQ2SEQ)
