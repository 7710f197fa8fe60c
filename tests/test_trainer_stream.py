"""Rows that are streamed: in which order, how a position is kept, and a run that goes on at the very next example."""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from hub_server import Hub
from huggingface_hub import CommitOperationAdd
from tiny_model import Bench, hub_with_model, rows, spec, tokenizer

from pushtrain.rows import Reading
from pushtrain.spec import TrainingSpec
from trainer.data.encode import Texts
from trainer.data.pieces import Writer
from trainer.data.stream import Recipe, Stream
from trainer.failures import DatasetError

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

WORDS = tokenizer()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.stream.BLOCK_ROWS", 50)


def written(folder: Path, counts: tuple[int, ...] = (70, 60)) -> list[str]:
    """Files of rows `0 bird`, `1 bird`…, which are two shards of one dataset."""
    number = itertools.count()
    files = []
    for index, count in enumerate(counts):
        lines = [json.dumps({"text": f"{next(number)} bird"}) for _ in range(count)]
        path = folder / f"{index}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        files.append(str(path))
    return files


def stream(files: list[str], folder: Path, **changes: Any) -> Stream:
    source = datasets.load_dataset("json", data_files=files, split="train", streaming=True, cache_dir=str(folder))
    encode = Texts(Writer(WORDS), 64)
    recipe = {"shown": "x", "reading": Reading(), "encode": encode, "seed": 17, "max_length": 64, **changes}
    return Stream(source, Recipe(**recipe))


def numbers(examples: Iterator[dict[str, list[int]]], count: int) -> list[int]:
    """Which rows the next examples hold, in order."""
    found = []
    for example in itertools.islice(examples, count):
        found += [int(text.split()[0]) for text in WORDS.decode(example["input_ids"]).split("<|end|>") if text.strip()]
    return found


def test_a_pass_has_every_row_once_and_the_next_one_another_order(tmp_path: Path) -> None:
    examples = iter(stream(written(tmp_path), tmp_path))
    first, second = numbers(examples, 130), numbers(examples, 130)
    assert sorted(first) == sorted(second) == list(range(130))
    assert first != second
    assert sorted(first[:50]) == list(range(50)), "rows are mixed within a block"
    assert first[:50] != list(range(50))
    assert numbers(iter(stream(written(tmp_path), tmp_path)), 130) == first
    assert numbers(iter(stream(written(tmp_path), tmp_path, seed=18)), 130) != first


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("given", [0, 49, 50, 129, 137])
def test_it_goes_on_with_the_very_next_example(tmp_path: Path, given: int, is_packed: bool) -> None:
    given = given // 4 if is_packed else given
    files = written(tmp_path)
    straight = stream(files, tmp_path, is_packed=is_packed)
    examples = iter(straight)
    before = list(itertools.islice(examples, given + 3))  # the trainer is some examples ahead of what it has done
    straight.save(tmp_path, given)
    after = before[given:] + list(itertools.islice(examples, 40))
    resumed = stream(files, tmp_path, is_packed=is_packed)
    resumed.resume(tmp_path)
    again = iter(resumed)
    assert all(not any(example.values()) for example in itertools.islice(again, given)), "what was trained on is empty"
    assert list(itertools.islice(again, 43)) == after
    resumed.save(tmp_path, given + 20)
    third = stream(files, tmp_path, is_packed=is_packed)
    third.resume(tmp_path)
    assert list(itertools.islice(iter(third), given + 20, given + 43)) == after[20:]


def test_held_out_rows_are_never_given_and_packed_ones_fill_their_sequences(tmp_path: Path) -> None:
    held = frozenset({0, 5, 49})
    files = written(tmp_path, (75,))
    found = numbers(iter(stream(files, tmp_path, held_out=held)), 72 * 2)
    assert sorted(found) == sorted([*range(1, 5), *range(6, 49), *range(50, 75)] * 2)
    packed = list(itertools.islice(stream(files, tmp_path, held_out=held, is_packed=True), 8))
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) <= 64 for row in packed)
    assert sum(len(row["input_ids"]) for row in packed) / (64 * 8) > 0.8


def test_what_is_cut_and_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [{"prompt": "red " * 100, "completion": "bird"}, {"prompt": "red", "completion": " bird" * 99}]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *rows(8)]))
    made = stream([str(path)], tmp_path)
    list(itertools.islice(made, 9))
    assert made.lost == {"rows": 10, "cut": 2, "lost_tokens": 102 - 64 + 101 - 64, "dropped": 1}


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([{"text": "red"}, {"text": ""}], "x:2: row 2: 'text' is empty"),
        ([{"prompt": "red " * 100, "completion": "bird"}] * 3, "x: of 3 rows none has anything to learn"),
    ],
)
def test_a_stream_that_teaches_nothing_ends(tmp_path: Path, lines: list[dict[str, str]], what: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DatasetError, match=what):
        list(itertools.islice(stream([str(path)], tmp_path), 3))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data": {"path": "x.jsonl", "streaming": True}}, "has streaming, which is for a dataset of the Hub"),
        (
            {"data": {"source": "hf://datasets/a/b", "streaming": True}, "train": {"max_steps": None}},
            "train.max_steps is needed",
        ),
        (
            {
                "data": {"source": "hf://datasets/a/b", "streaming": True},
                "compute": {"gpus": ["NVIDIA A40"], "count": 2},
            },
            "on one GPU",
        ),
    ],
)
def test_a_stream_that_could_not_be_trained_on_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        TrainingSpec.model_validate(spec(**changes))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub_with_model(tmp_path_factory.mktemp("stream")) as hub:
        content = "".join(json.dumps(row) + "\n" for row in rows(60)).encode()
        hub.alice.create_repo("demo/rows", repo_type="dataset", private=True)
        add = [CommitOperationAdd("train.jsonl", content)]
        hub.alice.create_commit("demo/rows", add, commit_message="rows", repo_type="dataset")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
            yield hub


def bench(hub: Hub, root: Path) -> Bench:
    root.mkdir()
    made = Bench(root, hub, root / "home")
    made.write(data={"source": "hf://datasets/demo/rows", "streaming": True}, publish={"repo": f"demo/{root.name}"})
    return made


def test_a_stopped_run_that_streams_ends_with_the_bytes_of_an_unbroken_one(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = bench(hub, tmp_path / "straight")
    assert straight.run() == 0
    said = capsys.readouterr().out
    assert "hf://datasets/demo/rows is streamed; of its first 50 rows:" in said
    assert "first batch: 2 rows," in said
    stopped = bench(hub, tmp_path / "stopped")
    killer = threading.Thread(target=signal_after, args=(stopped, 3))
    killer.start()
    assert stopped.run() == 75
    killer.join()
    assert stopped.run(attempt=2) == 0
    said = capsys.readouterr().out
    assert "data: the stream goes on from row 1, pass 1" in said
    assert stopped.file("result.json", 2)["metrics"]["resumed_from_step"] >= 3
    assert stopped.adapter_sha256() == straight.adapter_sha256()
    [first, second] = [record for record in said.splitlines() if record.startswith("first batch: 2 rows")]
    assert first != second, "the second attempt does not begin anew"


def signal_after(bench: Bench, step: int) -> None:
    """SIGTERM to this process once `step` steps are done; gives up after some minutes."""
    ends = time.monotonic() + 150
    while time.monotonic() < ends:
        if len([it for it in bench.file("metrics.jsonl") or [] if it.get("loss")]) >= step:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(0.002)
