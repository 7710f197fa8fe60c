"""The time estimate: operations, published tokens per second, steps of a dataset, hours, and what past runs correct."""

import json
from pathlib import Path
from typing import Any

import pytest

from pushtrain.estimate.cards import card, usable_gb
from pushtrain.estimate.config import shape_of
from pushtrain.estimate.correction import NONE, Correction, Past, correction, memory_correction, past
from pushtrain.estimate.hours import hours
from pushtrain.estimate.known import known_shape
from pushtrain.estimate.recipe import Recipe
from pushtrain.estimate.shape import ModelShape
from pushtrain.estimate.speed import flops_per_token, speed
from pushtrain.estimate.tokens import dataset_of, scaled, text_tokens, work
from pushtrain.gpus import GPU_TYPES, unusable
from pushtrain.spec import TrainingSpec

PUBLISHED = json.loads((Path(__file__).parents[1] / "benchmarks/published.json").read_text(encoding="utf-8"))
A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"


def llama_8b() -> ModelShape:
    found = known_shape("meta-llama/Llama-3.1-8B")
    assert found is not None
    return found[0]


def spec(train: dict[str, Any] | None = None, **changes: Any) -> TrainingSpec:
    document: dict[str, Any] = {
        "version": 1,
        "name": "job",
        "model": {"id": "a/b"},
        "data": {"path": "data/x.jsonl", "eval_fraction": 0.0},
        "train": {"gradient_accumulation_steps": 4, "max_length": 100, **(train or {})},
        "compute": {"gpus": ["NVIDIA A40"]},
        "budget": {"max_hours": 1.0, "max_usd": 1.0},
        "publish": {"repo": "a/c"},
    }
    return TrainingSpec.model_validate({**document, **changes})


def test_operations_are_two_for_each_weight_and_pass() -> None:
    shape, short = llama_8b(), {"length": 64}
    weights = shape.active_parameters
    for recipe, passes in (
        (Recipe(**short, checkpointing=False), 2),
        (Recipe(**short), 3),
        (Recipe(**short, is_full=True, checkpointing=False), 3),
        (Recipe(**short, is_full=True), 4),
        (Recipe(**short, task="dpo"), 4),
    ):
        assert flops_per_token(shape, recipe) == pytest.approx(2 * passes * weights, rel=0.01)
    assert flops_per_token(shape, Recipe(length=65536)) > 1.5 * flops_per_token(shape, Recipe(length=64))
    mixture = known_shape("Qwen/Qwen3-30B-A3B")
    assert mixture is not None and flops_per_token(mixture[0], Recipe(**short)) < 6.5 * 3.3e9


@pytest.mark.parametrize("row", [it for it in PUBLISHED["speed"] if not it.get("compiled") and "other" not in it])
def test_what_was_published_without_compiling_is_met_within_a_quarter(row: dict[str, Any]) -> None:
    known = known_shape(row["model"])
    shape = known[0] if known else shape_of(PUBLISHED["configs"][row["model"]])
    found = speed(shape, Recipe(**row["recipe"]), row["gpu"], row.get("count", 1))
    assert found is not None
    assert found.tokens_per_s == pytest.approx(row["tokens_per_s"], rel=0.25)


def test_no_card_is_given_more_memory_than_it_is_sold_with() -> None:
    for gpu in GPU_TYPES:
        known = card(gpu.name)
        if known is None:
            assert unusable(gpu.name) or "MIG" in gpu.name, f"{gpu.name} has no figures"
        else:
            assert 0.85 * gpu.memory_gb <= known.usable_gb < gpu.memory_gb
    assert usable_gb("NVIDIA Something New", 48) == 44.5


def test_a_card_without_figures_has_no_estimate_and_more_cards_are_faster() -> None:
    shape = llama_8b()
    assert speed(shape, Recipe(), "NVIDIA Something New") is None
    one, two = (speed(shape, Recipe(), A100, count) for count in (1, 2))
    assert one and two and one.tokens_per_s < two.tokens_per_s < 2 * one.tokens_per_s
    short = speed(shape, Recipe(length=16), H100)
    long = speed(shape, Recipe(length=2048), H100)
    assert short and long and short.tokens_per_s < long.tokens_per_s / 10, "kernels have to be started"


def test_a_narrow_model_reaches_less_of_the_card() -> None:
    shapes = [known_shape(name) for name in ("google/flan-t5-base", "google/flan-t5-xl")]
    small, large = (speed(found[0], Recipe(task="seq2seq"), A100) for found in shapes if found)
    assert small and large and small.share < 0.7 * large.share


def test_steps_and_tokens_of_padded_and_of_packed_rows() -> None:
    dataset = dataset_of([10, 50, 200, 40], rows=400, source="counted", how="")
    padded = work(dataset, spec({"per_device_train_batch_size": 2, "padding_free": False}))
    assert padded.steps == 50  # 400 rows in batches of 2 × 4
    assert padded.tokens == 50 * 8 * 75  # pairs padded to 50 and 100
    assert padded.share_cut == 0.25
    packed = work(dataset, spec({"packing": True}))
    assert packed.tokens == pytest.approx(400 * 50, rel=0.02)
    assert work(dataset, spec({"epochs": 3.0, "packing": False})).steps == 300
    assert work(dataset, spec()).steps == packed.steps, "left out, single rows are packed"
    joined = work(dataset, spec({"per_device_train_batch_size": 2}))
    assert joined.steps == 50 and joined.tokens == 50 * 8 * 50, "small batches are joined without padding"
    assert work(dataset, spec({"max_steps": 7})).steps == 7
    held = work(dataset, spec({"packing": False}, data={"path": "data/x.jsonl", "eval_fraction": 0.1}))
    assert held.steps == 90 and held.eval_tokens == pytest.approx(2 * 40 * 50)
    assert scaled(dataset, 2.0).lengths == (20, 100, 400, 80)


def test_text_is_counted_in_bytes() -> None:
    assert text_tokens("x" * 400) == 100
    assert text_tokens("学" * 100) == 75
    assert text_tokens("", turns=2) == 13
    assert text_tokens("half a pair \ud83d") > 0


def test_hours_have_a_band_and_the_start_in_them() -> None:
    shape, recipe = llama_8b(), Recipe(length=2048, is_packed=True)
    found = speed(shape, recipe, A100)
    assert found is not None
    dataset = dataset_of([2048], rows=5000, source="counted", how="")
    asked = work(dataset, spec({"max_length": 2048, "packing": True}))
    plain = hours(shape, recipe, asked, found, stored_bytes=16e9)
    assert plain.total.low < plain.total.expected < plain.total.high
    assert plain.training.expected == pytest.approx(asked.tokens / found.tokens_per_s / 3600, rel=0.05)
    assert plain.start.expected * 60 == pytest.approx(8, abs=3)
    twice = hours(shape, recipe, asked, found, stored_bytes=16e9, correction=2.0)
    assert twice.total.expected - plain.total.expected == pytest.approx(plain.training.expected, rel=0.05)


def receipt(took_s: float, **changes: Any) -> dict[str, Any]:
    return {"outcome": "succeeded", "phases_s": {"training": took_s}, "history": [{"gpu": "NVIDIA A40"}], **changes}


def test_a_run_teaches_only_what_it_can() -> None:
    run = {"estimate": {"training_s": 100.0, "gpu": "NVIDIA A40", "kind": "lora"}}
    assert past(run, receipt(150.0)) == Past("NVIDIA A40", "lora", 1.5)
    for nothing in (
        past({"estimate": {"at_most_usd": 1.0}}, receipt(150.0)),
        past({}, receipt(150.0)),
        past(run, None),
        past(run, receipt(150.0, outcome="failed")),
        past(run, receipt(0.0)),
        past(run, receipt(150.0, history=[{"gpu": "NVIDIA A40"}] * 2)),
        past(run, receipt(150.0, history=[{"gpu": "NVIDIA RTX A6000"}])),
    ):
        assert nothing is None


def test_a_peak_of_memory_is_held_against_what_was_to_be_safe_and_never_lowers_it() -> None:
    run = {"estimate": {"training_s": 100.0, "gpu": "NVIDIA A40", "kind": "lora", "need_gb": 10.0}}
    found = past(run, receipt(150.0, peak_gpu_memory_gb=16.0))
    assert found is not None and found.memory_ratio == pytest.approx(16e9 / 2**30 / 10)
    unmeasured = past(run, receipt(150.0))
    assert unmeasured is not None and unmeasured.memory_ratio is None
    assert memory_correction([unmeasured], "lora") == memory_correction([found], "qlora") == Correction(1.0, "")
    small = Past("NVIDIA A40", "lora", 1.0, 0.5)
    assert memory_correction([small, found], "lora").factor == found.memory_ratio
    assert memory_correction([small], "lora") == Correction(
        1.0, "1 finished run with lora peaked at 0.50 of the memory that was to be safe"
    )


def test_the_nearest_runs_correct_and_the_words_say_which() -> None:
    runs = [Past("NVIDIA A40", "qlora", 1.5), Past("NVIDIA A40", "lora", 2.0), Past("NVIDIA L4", "lora", 100.0)]
    assert correction([], "NVIDIA A40", "lora") == NONE
    own = correction(runs, "NVIDIA A40", "lora")
    assert (own.factor, own.how) == (2.0, "× 2.00 by 1 finished run on NVIDIA A40 with lora")
    assert correction(runs, "NVIDIA RTX A6000", "qlora").how.endswith("1 finished run with qlora")
    assert correction(runs, "NVIDIA RTX A6000", "full").how.endswith("3 finished runs of any kind")
    assert correction(runs, "NVIDIA L4", "lora").factor == 4.0, "one wild run is bounded"
