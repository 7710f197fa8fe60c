"""Rows become datasets: what is held out, cut, dropped and counted, and which prompts are tried."""

from pathlib import Path

import pytest
from tiny_model import rows, spec, tokenizer

from pushtrain.rows import Row
from pushtrain.spec import job_spec
from trainer.data import held_out_indexes, prepare
from trainer.failures import DatasetError
from trainer.job import Inputs, Job


def job(root: Path, **changes: object) -> Job:
    return Job(
        spec=job_spec(spec(**changes)),
        root=root,
        run_dir=root / "run",
        processes=1,
        run_id="run",
        commit=None,
        inputs=Inputs(model_sha="a" * 40, data_version="sha256:0"),
    )


def completions(count: int = 48) -> list[Row]:
    return [Row(number, "prompt/completion", record) for number, record in enumerate(rows(count), start=1)]


def test_the_held_out_rows_depend_on_seed_and_count_alone() -> None:
    first = held_out_indexes(100, 0.1, seed=17)
    assert first == held_out_indexes(100, 0.1, seed=17) == {0, 17, 34, 37, 64, 65, 70, 71, 75, 98}
    assert first != held_out_indexes(100, 0.1, seed=18)


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(100, 0.0, 0), (100, 0.02, 2), (10, 0.02, 1), (1, 0.5, 0), (2, 0.99, 1)]
)
def test_at_least_one_row_is_held_out_and_one_is_left(count: int, fraction: float, expected: int) -> None:
    assert len(held_out_indexes(count, fraction, seed=1)) == expected


def test_no_row_is_both_trained_and_held_out_and_the_counts_add_up(tmp_path: Path) -> None:
    prepared = prepare(job(tmp_path), completions(), tokenizer())
    assert prepared.held_out is not None
    assert (len(prepared.train), len(prepared.held_out)) == (42, 6)
    assert (prepared.counts.rows, prepared.counts.held_out) == (42, 6)
    lengths = [len(ids) for ids in prepared.train["input_ids"]]
    assert prepared.counts.tokens == sum(lengths)
    learned = [sum(label != -100 for label in labels) for labels in prepared.train["labels"]]
    assert prepared.counts.learned_tokens == sum(learned)
    assert prepared.form == "prompt/completion"


def test_questions_are_held_out_rows_whose_answer_is_not_in_the_prompt(tmp_path: Path) -> None:
    prepared = prepare(job(tmp_path), completions(), tokenizer())
    held = {rows()[index]["prompt"] for index in held_out_indexes(48, 0.125, 17)}
    assert len(prepared.questions) == 3
    for question in prepared.questions:
        assert question.prompt in held
        assert question.expected.startswith("the answer is")
        assert "answer" not in question.prompt


def test_a_text_is_asked_its_first_half(tmp_path: Path) -> None:
    texts = [Row(number, "text", {"text": "red green blue one two three four"}) for number in (1, 2)]
    prepared = prepare(job(tmp_path), texts, tokenizer())
    assert prepared.questions[0].prompt == "red green blue one"
    assert prepared.questions[0].expected == "two three four"


def test_rows_with_nothing_left_to_learn_are_left_out_and_counted(tmp_path: Path) -> None:
    long = [Row(99, "prompt/completion", {"prompt": "red " * 200, "completion": "bird"})] * 5
    prepared = prepare(job(tmp_path, data={"eval_fraction": 0.0}), [*completions(), *long], tokenizer())
    assert (prepared.counts.rows, prepared.counts.dropped, prepared.counts.cut) == (48, 5, 5)
    assert prepared.held_out is None
    assert len(prepared.train) == 48


def test_nothing_to_learn_at_all_is_an_error_that_says_what_to_raise(tmp_path: Path) -> None:
    long = [Row(1, "prompt/completion", {"prompt": "red " * 200, "completion": "bird"})] * 3
    with pytest.raises(DatasetError) as refused:
        prepare(job(tmp_path), long, tokenizer())
    assert "train.max_length" in str(refused.value.hint)
