"""RunPod's GPU type ids, and the one that was meant."""

import pytest

from pushtrain.gpus import GPU_NAMES, GPU_TYPES, USABLE_GPU_NAMES, memory_gb, nearest, unusable


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a40", "NVIDIA A40"),
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("RTX409", "NVIDIA GeForce RTX 4090"),
        ("A6000", "NVIDIA RTX A6000"),
        ("NVIDIA A100 80GB", "NVIDIA A100 80GB PCIe"),
        ("H100 SXM", "NVIDIA H100 80GB HBM3"),
        ("RTX 6000 Ada", "NVIDIA RTX 6000 Ada Generation"),
        ("nvidia l40s", "NVIDIA L40S"),
        ("MI300X", "AMD Instinct MI300X OAM"),
    ],
)
def test_the_gpu_that_was_meant_comes_first(written: str, meant: str) -> None:
    assert nearest(written)[0] == meant


def test_a_name_like_none_has_no_nearest() -> None:
    assert nearest("abacus") == nearest("") == []


def test_at_most_three_names_are_offered_from_any_list() -> None:
    assert len(nearest("NVIDIA H100")) == 3
    assert nearest("a40", ["NVIDIA A40X", "Other"]) == ["NVIDIA A40X"]


def test_what_the_trainers_torch_cannot_use_is_known_and_not_offered() -> None:
    useless = [name for name in GPU_NAMES if unusable(name)]
    assert useless == [
        "AMD Instinct MI300X OAM",
        "NVIDIA GH200 480GB",
        *(name for name in GPU_NAMES if name.startswith("Tesla V100")),
    ]
    assert not set(useless) & set(USABLE_GPU_NAMES) and len(useless) + len(USABLE_GPU_NAMES) == len(GPU_NAMES)
    for name in ("AMD Instinct MI355X", "Tesla P100-PCIE-16GB", "NVIDIA GeForce GTX 1080 Ti", "NVIDIA TITAN V"):
        assert unusable(name)
    for name in ("Tesla T4", "NVIDIA GeForce GTX 1650", "NVIDIA TITAN RTX", "NVIDIA RTX A4000", "NVIDIA L40S"):
        assert unusable(name) is None


def test_a_gpu_without_bf16_is_refused_where_the_job_computes_in_it() -> None:
    turing = (
        "Tesla T4",
        "NVIDIA GeForce GTX 1650",
        "NVIDIA TITAN RTX",
        "Quadro RTX 6000",
        "NVIDIA GeForce RTX 2080 Ti",
    )
    for name in turing:
        assert unusable(name) is None and "train.bf16 is false" in str(unusable(name, bf16=True))
    assert [name for name in GPU_NAMES if unusable(name, bf16=True)] == [name for name in GPU_NAMES if unusable(name)]
    for name in ("NVIDIA RTX 2000 Ada Generation", "NVIDIA RTX 6000 Ada Generation", "NVIDIA RTX A2000", "NVIDIA B200"):
        assert unusable(name, bf16=True) is None


def test_every_id_is_there_once_with_its_memory() -> None:
    assert len(set(GPU_NAMES)) == len(GPU_NAMES)
    assert all(5 < gpu.memory_gb < 300 for gpu in GPU_TYPES)
    assert memory_gb("NVIDIA A40") == 48
    assert memory_gb("NVIDIA A41") is None
