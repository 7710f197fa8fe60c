"""A training that does not fit is made smaller and stays the same training: real memory limits, no pretended errors."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from tiny_model import WORDS, Bench, hub_with_model

from trainer.fit.batches import Batches

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

# `python -m trainer` that may take as much more memory, once everything is imported, as the first argument says.
LIMITED = """
import resource, sys
import torch, trainer.run, trainer.tasks.sft, peft
from trl import SFTTrainer
from trainer.__main__ import main
torch.set_num_threads(1)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""
# Address space that is reserved and never used would count, too.
QUIET_ALLOCATORS = {
    "HF_HUB_DISABLE_XET": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
MB = 1_000_000


def batches(rows: int, passes: int, *, checkpointing: bool = False) -> Batches:
    return Batches(
        per_device_train_batch_size=rows, gradient_accumulation_steps=passes, gradient_checkpointing=checkpointing
    )


def test_each_smaller_one_has_the_same_effective_batch_and_checkpointing_comes_last() -> None:
    found, at = [], batches(12, 3)
    while (smaller := at.smaller()) is not None:
        found.append(smaller)
        at = smaller
    assert found == [batches(6, 6), batches(3, 12), batches(1, 36), batches(1, 36, checkpointing=True)]


def test_a_prime_goes_to_one() -> None:
    assert batches(7, 2).smaller() == batches(1, 14)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub_with_model(tmp_path_factory.mktemp("fit")) as hub:
        yield hub


@pytest.fixture
def bench(hub: Hub, tmp_path: Path) -> Bench:
    return Bench(tmp_path, hub, tmp_path / "home")


def long_rows(count: int) -> list[dict[str, Any]]:
    """About 250 tokens each."""
    return [{"text": " ".join(WORDS[(index + step) % len(WORDS)] for step in range(190))} for index in range(count)]


def limited(bench: Bench, more_bytes: int, attempt: int = 1) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(more_bytes), *bench.command(attempt)],
        cwd=bench.root,
        env={"PATH": os.environ["PATH"], **bench.environ(), **QUIET_ALLOCATORS, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def losses(bench: Bench) -> list[float]:
    return [record["loss"] for record in bench.file("metrics.jsonl") if "loss" in record]


def test_where_memory_runs_out_the_batch_is_cut_and_the_training_stays_the_same(
    bench: Bench, hub: Hub, tmp_path: Path
) -> None:
    train = {
        "max_steps": 2,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
        "max_length": 256,
    }
    spec = {"data": {"eval_fraction": 0.05}, "train": train, "publish": {"repo": "demo/fit"}}
    bench.write(long_rows(40), **spec)
    done = limited(bench, 400 * MB)
    assert done.returncode == 0, done.stdout + done.stderr
    fit = json.loads((bench.run_dir / "fit.json").read_text())
    rows = fit["per_device_train_batch_size"]
    assert rows < 16
    assert rows * fit["gradient_accumulation_steps"] == 32
    [event] = [event for event in bench.file("events.jsonl") if "out of memory" in event["message"]]
    assert event["data"]["per_device_train_batch_size"] == rows
    assert "the same 32 rows a step" in event["message"]
    with_memory = Bench(tmp_path / "large", hub, tmp_path / "home")
    with_memory.write(long_rows(40), **spec)
    assert with_memory.run() == 0
    assert losses(bench) == pytest.approx(losses(with_memory), rel=1e-5)
    assert not (with_memory.run_dir / "fit.json").exists()


def test_where_nothing_smaller_is_left_the_failure_has_the_numbers() -> None:
    from trainer.failures import OutOfMemory
    from trainer.fit.trial import next_smaller

    with pytest.raises(
        OutOfMemory, match=r"tried 8 GB, also with micro-batch 1 × accumulation 9, .*took up to [\d.]+ GB"
    ):
        next_smaller(batches(1, 9, checkpointing=True), "tried 8 GB")


def test_an_attempt_begins_with_what_the_one_before_came_down_to_and_another_training_does_not(bench: Bench) -> None:
    from trainer.fit.again import remembered

    bench.write(train={"per_device_train_batch_size": 4})
    job = bench.job()
    bench.run_dir.mkdir()
    assert remembered(job).batches == batches(4, 2, checkpointing=True)
    known = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "gradient_checkpointing": True}
    (bench.run_dir / "fit.json").write_text(json.dumps({"digest": job.digest, **known}))
    assert remembered(job).batches == batches(2, 4, checkpointing=True)
    assert remembered(job).digest == job.digest
    (bench.run_dir / "fit.json").write_text(json.dumps({"digest": "of another", **known}))
    assert remembered(job) == job
    (bench.run_dir / "fit.json").write_text(json.dumps({"digest": job.digest, "rows": 2}))
    assert remembered(job) == job
