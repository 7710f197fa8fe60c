"""Rows become datasets: what is held out, cut, dropped and counted, kept on the volume, and shown."""

import hashlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from tiny_model import rows, spec, tokenizer, write_checkout
from transformers import DataCollatorForSeq2Seq
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from pushtrain.rows import Reading
from pushtrain.spec import TrainingSpec
from pushtrain.spec.file import load
from trainer.data import Prepared, cache, check_length, lengths, local_rows, model_config, pairs, prepare, texts
from trainer.data.batch import shown
from trainer.data.sources import FileRows
from trainer.data.split import held_out_indexes
from trainer.data.tokens import IGNORED
from trainer.failures import DatasetError, ModelUnsupported
from trainer.job import Inputs, Job

MODEL_SHA = "a" * 40


@pytest.fixture(autouse=True)
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tokens are kept."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "volume" / "huggingface"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("tiny", "other"):  # what a download leaves: a commit in the cache is not asked for again
        snapshot = tmp_path / "hub" / f"models--demo--{name}" / "snapshots" / MODEL_SHA
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 256}))
    return tmp_path / "volume" / "pushtrain" / "tokens"


def job(root: Path, records: Sequence[dict[str, Any]], **changes: object) -> Job:
    """A job on a file of these records."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    path = write_checkout(root, spec(**changes), list(records))
    loaded = load(root / path, root)
    assert isinstance(loaded, TrainingSpec)
    return Job(
        spec=loaded,
        root=root,
        run_dir=root / "run",
        processes=1,
        run_id="run",
        commit=None,
        inputs=Inputs(model_sha=MODEL_SHA, data_version=hashlib.sha256(text.encode()).hexdigest()),
        uploads=True,
    )


def made(job: Job) -> Prepared:
    return prepare(job, local_rows(job), texts(job, tokenizer()))


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
    prepared = made(job(tmp_path, rows()))
    assert prepared.held_out is not None
    assert (len(prepared.train), len(prepared.held_out)) == (42, 6)
    assert (prepared.counts.rows, prepared.counts.held_out) == (42, 6)
    lengths = [len(ids) for ids in prepared.train["input_ids"]]
    assert prepared.counts.tokens == sum(lengths)
    learned = [sum(label != -100 for label in labels) for labels in prepared.train["labels"]]
    assert prepared.counts.learned_tokens == sum(learned)
    assert prepared.form == "prompt/completion"


def test_questions_are_held_out_rows_whose_answer_is_not_in_the_prompt(tmp_path: Path) -> None:
    prepared = made(job(tmp_path, rows()))
    held = {rows()[index]["prompt"] for index in held_out_indexes(48, 0.125, 17)}
    assert len(prepared.questions) == 3
    for question in prepared.questions:
        assert question.prompt in held
        assert question.expected.startswith("the answer is")
        assert "answer" not in question.prompt


def test_a_text_is_asked_its_first_half(tmp_path: Path) -> None:
    prepared = made(job(tmp_path, [{"text": "red green blue one two three four"}] * 8))
    assert prepared.questions[0].prompt == "red green blue one"
    assert prepared.questions[0].expected == "two three four"


LONG = {"prompt": "red " * 200, "completion": "bird"}


def test_what_is_cut_and_left_out_is_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = {"prompt": "red", "completion": " bird" * 99}
    prepared = made(job(tmp_path, [*rows(), *[LONG] * 5, half], data={"eval_fraction": 0.0}))
    counts = prepared.counts
    assert (counts.rows, counts.dropped, counts.cut, counts.lost_tokens) == (49, 5, 6, 5 * (202 - 64) + 101 - 64)
    assert prepared.held_out is None
    assert len(prepared.train) == 49
    said = capsys.readouterr().out
    assert "rows of prompt/completion (recognised by their fields)" in said
    assert f"6 rows are cut at train.max_length 64: {counts.lost_tokens} tokens, " in said
    assert "5 rows have nothing to learn before the cut and are left out" in said


def test_nothing_to_learn_at_all_is_an_error_that_says_what_to_raise(tmp_path: Path, volume: Path) -> None:
    with pytest.raises(DatasetError) as refused:
        made(job(tmp_path, [LONG] * 3))
    assert "train.max_length" in str(refused.value.hint)
    assert not list(volume.iterdir())


def test_a_bad_row_is_named_before_anything_is_made_of_the_good_ones(tmp_path: Path, volume: Path) -> None:
    with pytest.raises(DatasetError, match=r"data/rows.jsonl:49: row 49: 'completion' is missing"):
        local_rows(job(tmp_path, [*rows(), {"prompt": "x"}]))
    assert not volume.exists()


def test_the_tokens_are_made_once_and_found_again(
    tmp_path: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made(job(tmp_path, rows()))
    [kept] = volume.iterdir()
    before = (kept / "train.arrow").stat().st_mtime_ns
    again = made(job(tmp_path, rows(), train={"learning_rate": 0.001}))
    assert "still here from an earlier start" in capsys.readouterr().out
    assert (kept / "train.arrow").stat().st_mtime_ns == before
    assert again.train[:] == first.train[:] and again.counts == first.counts and again.questions == first.questions
    assert again.held_out is not None and first.held_out is not None and again.held_out[:] == first.held_out[:]


def test_a_file_that_is_kept_as_tokens_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(job(tmp_path, rows()))
    monkeypatch.setattr("trainer.data.sources.read_rows", lambda *_: pytest.fail("the file was read"))
    made(job(tmp_path, rows()))


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"eval_fraction": 0.25}},
        {"data": {"form": "prompt/completion"}},
        {"train": {"max_length": 63}},
        {"train": {"seed": 18}},
        {"train": {"completion_only_loss": False}},
        {"model": {"id": "demo/other"}},
    ],
)
def test_what_changes_the_tokens_makes_them_anew(tmp_path: Path, volume: Path, change: dict[str, Any]) -> None:
    made(job(tmp_path, rows()))
    made(job(tmp_path, rows(), **change))
    assert len(list(volume.iterdir())) == 2


def test_other_rows_other_libraries_and_other_code_make_other_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [cache.entry(job(tmp_path, rows())), cache.entry(job(tmp_path, rows(47)))]
    monkeypatch.setattr(cache, "version", lambda name: "9.9" if name == "tokenizers" else "1.0")
    entries.append(cache.entry(job(tmp_path, rows())))
    monkeypatch.setattr(cache, "_code", lambda: "changed")
    entries.append(cache.entry(job(tmp_path, rows())))
    assert len(set(entries)) == 4


@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "no meta", "half a meta"])
def test_a_broken_entry_is_made_again(
    tmp_path: Path, volume: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made(job(tmp_path, rows())).train[:]
    [kept] = volume.iterdir()
    tokens, meta = kept / "train.arrow", kept / cache.META
    content = tokens.read_bytes()
    if harm == "cut":
        tokens.write_bytes(content[:-100])
    elif harm == "flip":
        tokens.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    elif harm == "gone":
        (kept / "held_out.arrow").unlink()
    elif harm == "no meta":
        meta.unlink()
    else:
        meta.write_text(meta.read_text()[:40])
    assert made(job(tmp_path, rows())).train[:] == first
    assert "are made again" in capsys.readouterr().out


def test_what_was_killed_while_it_was_made_is_not_taken_for_an_entry(tmp_path: Path, volume: Path) -> None:
    folder = cache.entry(job(tmp_path, rows()))
    with pytest.raises(KeyboardInterrupt), cache.making(folder) as part:
        (part / "train.arrow").write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(volume.iterdir())


def test_on_a_shared_volume_what_another_pod_finished_or_reads_stays(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = volume / "entry"
    with cache.making(folder) as mine:
        (mine / cache.META).write_text("mine")
        with cache.making(folder) as theirs:
            (theirs / cache.META).write_text("theirs, and first")
    assert (folder / cache.META).read_text() == "theirs, and first"
    monkeypatch.setenv("PUSHTRAIN_VOLUME_SHARED", "1")
    for number in range(cache.KEPT_ENTRIES + 2):
        with cache.making(volume / f"entry{number}") as part:
            (part / cache.META).write_text("")
    assert len(list(volume.iterdir())) == cache.KEPT_ENTRIES + 3, "each may be mapped by a pod at work"
    long_ago = time.time() - cache.IN_USE_S - 60
    os.utime(folder / cache.META, (long_ago, long_ago))
    with cache.making(volume / "last") as part:
        (part / cache.META).write_text("")
    assert not folder.exists()


def test_no_more_than_a_few_entries_are_kept_the_used_ones(tmp_path: Path, volume: Path) -> None:
    one = job(tmp_path, rows(8))
    made(one)
    for number in range(cache.KEPT_ENTRIES):
        made(one)
        made(job(tmp_path, rows(8), train={"max_length": 30 + number}))
    assert len(list(volume.iterdir())) == cache.KEPT_ENTRIES
    assert cache.is_there(one)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_same_rows_make_the_same_tokens_whatever_file_holds_them(tmp_path: Path, ending: str) -> None:
    expected = made(job(tmp_path, rows())).train[:]
    path = tmp_path / "data" / f"rows.{ending}"
    table = pyarrow.Table.from_pylist(rows())
    (pyarrow.csv.write_csv if ending == "csv" else pyarrow.parquet.write_table)(table, path)
    assert made(job(tmp_path, rows(), data={"path": f"data/rows.{ending}"})).train[:] == expected


def test_pairs_are_prepared_for_dpo(tmp_path: Path) -> None:
    records = [{"prompt": "what is red", "chosen": " a bird", "rejected": " a fish"}] * 8
    one = job(tmp_path, records)
    reading = Reading(task="dpo")
    prepared = prepare(one, FileRows(tmp_path / "data/rows.jsonl", "rows.jsonl", reading), pairs(one, tokenizer()))
    assert prepared.train.column_names == ["prompt_ids", "chosen_ids", "rejected_ids"]
    assert (prepared.form, prepared.counts.rows, prepared.questions[0].expected) == ("preference", 7, "a bird")
    assert lengths(prepared.train, prepared.train.column_names).tolist() == [9] * 7


def test_the_first_batch_shows_what_the_model_is_given() -> None:
    words = tokenizer()
    ids = words(["red green", "bird"])["input_ids"]
    labels = [[IGNORED, *ids[0][1:]], ids[1]]
    collator = DataCollatorForLanguageModeling(words.pad_token_id)
    examples = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    about, one, two = shown(collator(examples), words)
    assert about == "2 rows, 3 tokens in 4 places, 2 carry the loss: those in « »"
    assert (one, two) == ("red« green»", "«bird»")
    free = DataCollatorForLanguageModeling(words.pad_token_id, padding_free=True)
    assert shown(free(examples), words)[0].startswith("2 rows, 3 tokens in 3 places, 1 carry the loss")
    coloured = shown(collator(examples), words, colour=True)[1]
    assert re.sub("\x1b\\[[0-9]*m", "", coloured) == one and coloured != one


def test_of_pairs_and_of_targets_the_first_batch_shows_the_learned_ends() -> None:
    words = tokenizer()
    red, bird, fish = words(["red", " bird", " fish"])["input_ids"]
    pair = DataCollatorForPreference(words.pad_token_id)(
        [{"prompt_ids": red, "chosen_ids": bird, "rejected_ids": fish}]
    )
    assert shown(pair, words)[1:] == ["red« bird»", "red« fish»"]
    seq2seq = DataCollatorForSeq2Seq(words)([{"input_ids": red * 3, "labels": bird}])
    assert shown(seq2seq, words)[1:] == ["redredred« bird»"]


def test_a_length_the_model_has_no_positions_for_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    one = job(tmp_path, rows(), train={"max_length": 257})
    with pytest.raises(ModelUnsupported, match=r"train.max_length is 257, demo/tiny takes 256 tokens at most"):
        check_length(one, model_config(one))
    check_length(one, {"relative_attention_num_buckets": 32, "n_positions": 16})
    check_length(one, {"model_type": "mamba"})
    nested = tmp_path / "hub/models--demo--tiny/snapshots" / MODEL_SHA / "config.json"
    nested.write_text(json.dumps({"model_type": "gemma3", "text_config": {"max_position_embeddings": 64}}))
    with pytest.raises(ModelUnsupported, match="takes 64 tokens"):
        check_length(one, model_config(one))


def test_short_rows_are_packed_where_the_spec_asks_and_the_log_says_how_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = made(job(tmp_path, rows(), train={"packing": False, "padding_free": False}))
    prepared = made(job(tmp_path, rows(), train={"packing": True}))
    assert prepared.layout.packing and prepared.counts.rows == alone.counts.rows == 42
    assert prepared.train.column_names == ["input_ids", "labels", "seq_lengths"]
    assert len(prepared.train) == prepared.counts.sequences < 15
    parts = []
    for sequence in prepared.train:
        assert len(sequence["input_ids"]) == len(sequence["labels"]) == sum(sequence["seq_lengths"]) <= 64
        ends = list(itertools.accumulate(sequence["seq_lengths"]))
        starts = [0, *ends[:-1]]
        parts += [
            tuple(sequence["input_ids"][a:b] + sequence["labels"][a:b]) for a, b in zip(starts, ends, strict=True)
        ]
    assert sorted(parts) == sorted(tuple(row["input_ids"] + row["labels"]) for row in alone.train)
    said = capsys.readouterr().out
    assert f"packed into {len(prepared.train)} sequences of 64 tokens, 9" in said
    assert "batches are padded (as the spec says)" in said


@pytest.mark.parametrize(("packing", "what"), [(None, "4 rows"), (True, "4 packed sequences")])
def test_a_step_that_takes_more_rows_than_there_are_is_refused(tmp_path: Path, packing: bool | None, what: str) -> None:
    keys = {"packing": packing} if packing else {}
    with pytest.raises(DatasetError, match=rf"an optimizer step takes {what} \(2 × 2 × 1\), there are ") as refused:
        made(job(tmp_path, rows(4), train=keys))
    assert "gradient_accumulation_steps" in str(refused.value.hint)


def test_many_rows_are_encoded_by_several_processes_to_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(job(tmp_path, rows()))
    shutil.rmtree(cache.entry(job(tmp_path, rows())))
    monkeypatch.setattr("trainer.data.parallel.MANY_ROWS", 40)
    monkeypatch.setattr("trainer.data.parallel.BATCH", 5)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    several = made(job(tmp_path, rows()))
    assert several.train[:] == one.train[:] and several.counts == one.counts


def test_what_is_wrong_with_a_row_is_said_by_whichever_process_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.parallel.MANY_ROWS", 8)
    monkeypatch.setattr("trainer.data.parallel.BATCH", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    turns = [{"role": "user", "content": "what is red"}, {"role": "assistant", "content": "a bird"}]
    records = [{"messages": turns}] * 15 + [{"messages": [{"role": "king", "content": "no"}, *turns]}]
    one = job(tmp_path, records, data={"eval_fraction": 0.0})
    strict = "{% for m in messages %}{{ raise_exception('no king') if m.role == 'king' else m.content }}{% endfor %}"
    with pytest.raises(DatasetError, match="row 16: no chat text can be made of it: no king"):
        prepare(one, local_rows(one), texts(one, tokenizer(strict)))
    assert not multiprocessing.active_children()


def test_bad_rows_are_skipped_where_the_spec_says_so_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": "what is red"}, {"role": "assistant", "content": "a bird"}]
    king = [{"role": "king", "content": "no"}, *turns]
    records = [
        {"messages": []},
        *[{"messages": turns}] * 20,
        {"messages": turns[:1]},
        {"messages": king},
        {"text": "x"},
    ]
    strict = "{% for m in messages %}{{ raise_exception('no king') if m.role == 'king' else m.content }}{% endfor %}"
    one = job(tmp_path, records, data={"eval_fraction": 0.1, "bad_rows": "skip"})
    prepared = prepare(one, local_rows(one), texts(one, tokenizer(strict)))
    counts = prepared.counts
    assert (counts.rows + counts.held_out, counts.bad, counts.dropped) == (20, 4, 0)
    said = capsys.readouterr().out
    assert "data: skipped: data/rows.jsonl:1: row 1: 'messages' must be a list" in said
    assert "4 rows cannot be trained on and are skipped, as data.bad_rows says" in said
    for record in records[:1], records[:1] + records[-1:]:
        with pytest.raises(DatasetError, match=r"data/rows.jsonl:1: row 1: 'messages' must be a list"):
            made(job(tmp_path, record, data={"bad_rows": "skip", "form": "messages"}))
