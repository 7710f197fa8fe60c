"""What `pushtrain check` says about the data of a spec, of whatever file it is."""

import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from pushtrain.check import HEAD_ROWS, check

SPEC = """\
version: 1
name: x
model: {{id: Qwen/Qwen3-8B}}
data: {{{data}}}
compute: {{gpus: [NVIDIA A40]}}
budget: {{max_hours: 1, max_usd: 1}}
publish: {{repo: org/x}}
"""


def problems(root: Path, data: str) -> list[str]:
    (root / "jobs").mkdir(exist_ok=True)
    (root / "jobs" / "x.yaml").write_text(SPEC.format(data=data))
    return [str(problem) for problem in check([], root).problems]


def test_rows_the_task_cannot_train_on_are_refused_before_anything_is_rented(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt,chosen,rejected\na,b,c\n")
    [problem] = problems(tmp_path, "path: x.csv")
    assert problem.startswith("x.csv:2: row 2: has the form preference, but task sft takes messages")


def test_columns_and_form_are_part_of_the_check(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("question,answer\na,b\n")
    assert not problems(tmp_path, "path: x.csv, columns: {prompt: question, completion: answer}")
    assert (
        "has the form prompt/completion, but data.form says messages"
        in problems(tmp_path, "path: x.csv, form: messages, columns: {prompt: question, completion: answer}")[0]
    )
    [problem] = problems(tmp_path, "path: x.csv, columns: {promt: question}")
    assert "jobs/x.yaml:4:" in problem and "promt" in problem
    assert "data.form: task sft takes" in problems(tmp_path, "path: x.csv, form: preference")[0]


def test_of_a_million_rows_the_head_is_looked_at(tmp_path: Path) -> None:
    row = json.dumps({"text": "red green blue"}) + "\n"
    (tmp_path / "x.jsonl").write_text(row * 1_000_000 + "broken\n")
    tracemalloc.start()
    try:
        started = time.process_time()
        assert not problems(tmp_path, "path: x.jsonl")
        assert time.process_time() - started < 5  # measured: 0.6 s
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    (tmp_path / "x.jsonl").write_text(row * (HEAD_ROWS - 1) + "broken\n")
    assert f"x.jsonl:{HEAD_ROWS}: row {HEAD_ROWS}: is not JSON" in problems(tmp_path, "path: x.jsonl")[0]


def test_without_pyarrow_a_parquet_file_is_known_by_its_ends_alone(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "x.yaml").write_text(SPEC.format(data="path: x.parquet"))
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path; from pushtrain.check import check\n"
        "report = check([], Path(sys.argv[1])); print(len(report.problems), report.warnings)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, timeout=150
    )
    assert done.stdout.startswith("0 ") and "Parquet needs pyarrow" in done.stdout


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_file_of_another_kind_than_its_ending_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"x.{ending}").write_text("<html>\n<p>a\n")
    [problem] = problems(tmp_path, f"path: x.{ending}")
    assert problem.startswith(f"x.{ending}")


def test_a_chat_template_has_to_be_in_the_commit_and_inside_it(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "red"}) + "\n")
    for path, what in [("chat.jinja", "is not there"), ("../chat.jinja", "relative path"), ("chat.txt", "must match")]:
        (tmp_path / "jobs").mkdir(exist_ok=True)
        text = SPEC.format(data="path: x.jsonl") + f"train: {{chat_template_path: {path}}}\n"
        (tmp_path / "jobs" / "x.yaml").write_text(text)
        [problem] = check([], tmp_path).problems
        assert "train.chat_template_path" in str(problem) and what in str(problem)
        assert (problem.where or "").startswith("jobs/x.yaml:8:")
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    (tmp_path / "jobs" / "x.yaml").write_text(text.replace("chat.txt", "chat.jinja"))
    assert not check([], tmp_path).problems


def test_rows_that_will_be_skipped_are_a_warning_with_the_first(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt,completion\na,\na,b\n")
    assert "'completion' is empty" in problems(tmp_path, "path: x.csv")[0]
    assert not problems(tmp_path, "path: x.csv, bad_rows: skip")
    [warning] = check([], tmp_path).warnings
    assert "1 of the first rows will be skipped" in warning and "x.csv:2: row 2: 'completion' is empty" in warning
    (tmp_path / "x.csv").write_text("prompt,completion\na,\n")
    assert "'completion' is empty" in problems(tmp_path, "path: x.csv, bad_rows: skip")[0]
