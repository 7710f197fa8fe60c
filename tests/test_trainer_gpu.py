"""The card that is there, from an nvidia-smi on PATH that answers as the real one does."""

import json
import os
from pathlib import Path

import pytest
from tiny_model import spec

from pushtrain.spec import TrainingSpec
from pushtrain.spec.file import loads
from trainer.failures import GpuUnavailable
from trainer.gpu import Card, cards, check_bf16

TWO = "NVIDIA A40, 46068, 4, 580.65.06, 8.6\nNVIDIA A40, 46068, 1024, 580.65.06, [N/A]"


def path_with_smi(folder: Path, answer: str, code: int = 0) -> str:
    """PATH with an nvidia-smi first that prints `answer`."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit {code}\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_each_card_with_its_memory_in_bytes(tmp_path: Path) -> None:
    found = cards({"PATH": path_with_smi(tmp_path, TWO)})
    assert found[1] == Card(name="NVIDIA A40", total_bytes=46068 * 2**20, used_bytes=1024 * 2**20, driver="580.65.06")
    assert [card.capability for card in found] == [8.6, None]


@pytest.mark.parametrize(("visible", "used"), [("1,0", [1024, 4]), ("1", [1024]), ("", []), ("-1", []), ("7", [])])
def test_only_the_visible_ones_in_their_order(tmp_path: Path, visible: str, used: list[int]) -> None:
    found = cards({"PATH": path_with_smi(tmp_path, TWO), "CUDA_VISIBLE_DEVICES": visible})
    assert [card.used_bytes // 2**20 for card in found] == used


@pytest.mark.parametrize("answer", ["", "No devices were found", "NVIDIA GB10, [N/A], [N/A], 580.95.05, 12.1"])
def test_an_answer_without_a_figure_is_no_card(tmp_path: Path, answer: str) -> None:
    assert cards({"PATH": path_with_smi(tmp_path, answer)}) == []


def test_a_card_without_bf16_is_refused_with_what_to_write_unless_the_job_computes_in_fp32() -> None:
    def train(**keys: object) -> TrainingSpec:
        loaded = loads(json.dumps(spec(train=keys)), "jobs/tiny.yaml")
        assert isinstance(loaded, TrainingSpec)
        return loaded

    def card(capability: float | None) -> Card:
        return Card(name="Tesla T4", total_bytes=1, used_bytes=0, driver="580.65.06", capability=capability)

    with pytest.raises(GpuUnavailable, match=r"^Tesla T4 has no bf16, .* unless train.bf16 is false") as error:
        check_bf16(train(), [card(8.6), card(7.5)])
    assert "train.bf16: false" in str(error.value.hint)
    check_bf16(train(bf16=False), [card(7.5)])
    check_bf16(train(), [card(8.0), card(None)])  # torch is asked again


def test_no_driver_is_no_card(tmp_path: Path) -> None:
    assert cards({"PATH": str(tmp_path)}) == []
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    assert cards({"PATH": path_with_smi(tmp_path, said, code=9)}) == []
