"""The card that is there, from an nvidia-smi on PATH that answers as the real one does."""

import os
from pathlib import Path

import pytest

from trainer.gpu import Card, cards

TWO = "NVIDIA A40, 46068, 4, 580.65.06\nNVIDIA A40, 46068, 1024, 580.65.06"


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


@pytest.mark.parametrize(("visible", "used"), [("1,0", [1024, 4]), ("1", [1024]), ("", []), ("-1", []), ("7", [])])
def test_only_the_visible_ones_in_their_order(tmp_path: Path, visible: str, used: list[int]) -> None:
    found = cards({"PATH": path_with_smi(tmp_path, TWO), "CUDA_VISIBLE_DEVICES": visible})
    assert [card.used_bytes // 2**20 for card in found] == used


@pytest.mark.parametrize("answer", ["", "No devices were found", "NVIDIA GB10, [N/A], [N/A], 580.95.05"])
def test_an_answer_without_a_figure_is_no_card(tmp_path: Path, answer: str) -> None:
    assert cards({"PATH": path_with_smi(tmp_path, answer)}) == []


def test_no_driver_is_no_card(tmp_path: Path) -> None:
    assert cards({"PATH": str(tmp_path)}) == []
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    assert cards({"PATH": path_with_smi(tmp_path, said, code=9)}) == []
