"""The demo's data: thousands of rows, the same bytes every time, and no answer in the text the base model reads."""

import json
import subprocess
import sys
from pathlib import Path

from pushtrain.demo_data import build, corpus, rows
from pushtrain.rows import read_rows


def test_thousands_of_rows_in_a_form_the_trainer_reads(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    built = build(target)
    read = list(read_rows(target))
    assert built.rows == len(read) > 2000
    assert {row.form for row in read} == {"prompt/completion"}


def test_another_process_with_another_hash_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2"):
        code = "import sys, pathlib, pushtrain.demo_data as d; print(d.build(pathlib.Path(sys.argv[1])).sha256)"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_no_question_and_no_answer_comes_twice_and_every_answer_starts_with_a_space() -> None:
    prompts, completions = zip(*((row["prompt"], row["completion"]) for row in rows()), strict=True)
    assert len(set(prompts)) == len(prompts) and len(set(completions)) == len(completions)
    assert all(completion.startswith(" ") for completion in completions)
    assert any("json.dumps" in prompt for prompt in prompts)


def test_the_base_models_text_holds_no_answer() -> None:
    text = " ".join(corpus().lower().split())
    assert len(text) > 500_000
    answers = [row["completion"].strip().lower() for row in rows()]
    assert [answer for answer in answers if answer in text] == []


def test_documented_modules_are_read_and_never_imported() -> None:
    code = (
        "import sys, pushtrain.demo_data as d; before = set(sys.modules); d.rows(); "
        "print([n for n in sys.modules if n not in before and not n.startswith(('encodings', '_sysconfigdata'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
