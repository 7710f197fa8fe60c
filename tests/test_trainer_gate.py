"""The estimate beside the card that is there: what is let through, what is said, what is refused."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import Hub
from test_trainer_gpu import path_with_smi
from tiny_model import Bench, hub_with_model

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.known import known_shape
from pushtrain.estimate.memory import GIB, memory
from pushtrain.estimate.recipe import recipe_of
from trainer.failures import GpuUnavailable, OutOfMemory
from trainer.fit.gate import check_memory, proposals
from trainer.gpu import Card
from trainer.job import Job

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

# config.json of Qwen/Qwen3-8B.
QWEN3_8B = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub_with_model(tmp_path_factory.mktemp("gate")) as hub:
        yield hub


@pytest.fixture
def bench(hub: Hub, tmp_path: Path) -> Bench:
    return Bench(tmp_path, hub, tmp_path / "home")


def card(total_gb: float, used_gb: float = 0.0) -> Card:
    return Card(name="NVIDIA A40", total_bytes=int(total_gb * GIB), used_bytes=int(used_gb * GIB), driver="580.65.06")


def job_of(bench: Bench, kind: str = "lora", **train: object) -> Job:
    base = {"per_device_train_batch_size": 4, "max_length": 2048, "gradient_checkpointing": False}
    bench.write(method={"kind": kind}, train={**base, **train})
    return bench.job()


def test_on_a_card_with_room_the_numbers_are_said(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_of(bench, "qlora", per_device_train_batch_size=1, gradient_checkpointing=True)
    check_memory(job, QWEN3_8B, [card(44.98)])
    said = capsys.readouterr().out
    assert "NVIDIA A40 has 45.0 GB free: fits" in said
    assert "weights" in said


def test_what_the_trainer_can_come_down_to_by_itself_is_let_through_with_advice(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    check_memory(job_of(bench), QWEN3_8B, [card(44.98)])
    said = capsys.readouterr().out
    assert "tight, the longest batch is tried first" in said
    assert "what would fit: train.gradient_checkpointing: true" in said


def test_what_cannot_fit_with_the_smallest_batches_is_refused_with_numbers_and_a_way_out(bench: Bench) -> None:
    with pytest.raises(
        OutOfMemory, match=r"needs \d+\.\d GB .*NVIDIA A40 has 8\.0 GB free: the job cannot fit"
    ) as error:
        check_memory(job_of(bench), QWEN3_8B, [card(44.98), card(44.98, used_gb=36.98)])
    assert "train.check_memory: false" in str(error.value.hint)
    assert "method.kind: qlora" not in str(error.value.hint), "that does not fit 8 GB either"


def test_the_refusal_can_be_turned_off(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write(train={"max_length": 2048, "check_memory": False})
    check_memory(bench.job(), QWEN3_8B, [card(8)])
    assert "tried anyway" in capsys.readouterr().out


def test_a_model_that_cannot_be_estimated_and_a_machine_without_a_card_are_no_hindrance(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    check_memory(job_of(bench), {"model_type": "mamba2"}, [card(1)])
    assert "not estimated" in capsys.readouterr().out
    check_memory(job_of(bench), QWEN3_8B, [])
    assert capsys.readouterr().out == ""


def test_what_is_proposed_fits_by_the_same_estimate(bench: Bench) -> None:
    known = known_shape("Qwen/Qwen3-8B")
    assert known is not None
    recipe = recipe_of(job_of(bench).spec)
    [proposal] = proposals(known[0], recipe, 24 * GIB)
    assert proposal.startswith("train.gradient_checkpointing: true, train.per_device_train_batch_size: 1")
    changed = replace(recipe, checkpointing=True, micro_batch=1, optimizer="paged_adamw_8bit", bits=4)
    assert memory(known[0], changed).verdict(24 * GIB) == "fits"
    assert list(proposals(known[0], recipe, 2 * GIB)) == []


def test_it_is_refused_before_torch_is_imported(bench: Bench) -> None:
    bench.write()
    code = "import sys; from trainer.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    path = path_with_smi(bench.root / "bin", "NVIDIA GeForce RTX 3070, 600, 0, 580.65.06, 8.6")
    done = subprocess.run(
        [sys.executable, "-c", code, *bench.command()],
        cwd=bench.root,
        env={**os.environ, **bench.environ(), "PATH": path},
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "1 False", done.stdout + done.stderr
    failure = bench.file("failure.json")
    assert failure["reason"] == "OutOfMemory"
    assert "RTX 3070 has 0.6 GB free" in failure["message"]


def test_a_card_without_bf16_ends_the_run_before_anything_is_asked_of_the_hub(bench: Bench) -> None:
    bench.write(model={"id": "demo/nowhere"})
    path = path_with_smi(bench.root / "bin", "Tesla T4, 15360, 0, 580.65.06, 7.5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, value in bench.environ().items():
            patch.setenv(name, value)
        with contextlib.chdir(bench.root):
            from trainer.__main__ import main

            assert main(bench.command()) == 1
    failure = bench.file("failure.json")
    assert failure["reason"] == "GpuUnavailable"
    assert failure["message"].startswith("Tesla T4 has no bf16") and "train.bf16: false" in failure["message"]


def test_fp32_is_estimated_to_need_more(bench: Bench) -> None:
    shape = shape_of(QWEN3_8B)
    half, whole = (memory(shape, recipe_of(job_of(bench, bf16=bf16).spec)) for bf16 in (True, False))
    assert whole.weights == pytest.approx(2 * half.weights) and whole.activations == pytest.approx(2 * half.activations)
    assert whole.optimizer == half.optimizer


def test_bitsandbytes_without_kernels_is_known_before_the_model_is_loaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the text of the library itself, where it finds no binary for its CUDA."""
    from bitsandbytes.cextension import ErrorHandlerMockBNBNativeLibrary

    from trainer.device import check_device

    missing = ErrorHandlerMockBNBNativeLibrary("Configured CUDA binary not found at libbitsandbytes_cuda140.so")
    monkeypatch.setattr("bitsandbytes.functional.quantize_4bit", lambda *_, **__: missing.cquantize_blockwise())
    for changes in ({"method": {"kind": "qlora"}}, {"train": {"optim": "adamw_8bit"}}):
        bench.write(**changes)
        with pytest.raises(GpuUnavailable, match=r"bitsandbytes has no kernels here: .*not available") as error:
            check_device(bench.job())
        assert "method.kind: lora" in str(error.value.hint)
    bench.write()
    check_device(bench.job())


def test_the_flag_counts_and_trains_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.__main__ import main

    bench.write()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(bench.root):
        for name, value in bench.environ().items():
            patch.setenv(name, value)
        assert main([*bench.command(), "--dry-run-memory"]) == 0
    assert "dry run of the real step" in capsys.readouterr().out
    assert not (bench.run_dir / "checkpoints").exists()
    assert bench.file("result.json") is None
