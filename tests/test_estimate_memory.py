"""The memory estimate: models' sizes, the tensors of real steps, published peaks, and what a card is told to have."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.known import known_shape
from pushtrain.estimate.memory import GIB, NF4_BYTES, NF4_DOUBLE_BYTES, memory
from pushtrain.estimate.recipe import Recipe, recipe_of, trained_parameters
from pushtrain.estimate.shape import ModelShape, ShapeUnknown
from pushtrain.spec import TrainingSpec

ROOT = Path(__file__).parents[1]
KNOWN = json.loads((ROOT / "pushtrain/estimate/known_models.json").read_text(encoding="utf-8"))["models"]
PUBLISHED = json.loads((ROOT / "benchmarks/published.json").read_text(encoding="utf-8"))
UNITS = {"G": 1e9, "GB": 1e9, "GiB": GIB, "card": GIB}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "eos_token_id": 2}
GEMMA2 = {**LLAMA, "model_type": "gemma2", "head_dim": 32, "pad_token_id": 0, "tie_word_embeddings": True}
T5 = {
    "model_type": "t5",
    "d_model": 256,
    "d_kv": 32,
    "num_heads": 8,
    "d_ff": 704,
    "num_layers": 4,
    "vocab_size": 2048,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
    "dropout_rate": 0.0,
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_models_parameters_are_those_its_page_says(name: str) -> None:
    entry = KNOWN[name]
    assert shape_of(entry["config"]).parameters == pytest.approx(entry["parameters"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("unsloth/Qwen3-4B-Instruct-2507-bnb-4bit", "Qwen/Qwen3-4B"),
        ("google/gemma-2-9b-it", "google/gemma-2-9b"),
    ],
)
def test_a_variant_is_known_by_the_model_it_is_named_after(name: str, entry: str) -> None:
    found = known_shape(name)
    assert found is not None and found[1] == entry


def test_a_model_nobody_knows_is_not_guessed() -> None:
    assert known_shape("somebody/something-8B") is None


def test_a_config_of_other_layers_or_without_sizes_is_refused_and_says_why() -> None:
    for config, said in (
        ({**LLAMA, "layer_types": ["full_attention", "linear_attention"]}, "neither attention"),
        ({"model_type": "llama"}, "hidden_size"),
        ({**LLAMA, "hidden_size": "4096"}, "hidden_size"),
        ({**LLAMA, "hidden_size": 10**12}, "hidden_size"),
        ({"model_type": "whisper", "is_encoder_decoder": True}, "encoder-decoder"),
    ):
        with pytest.raises(ShapeUnknown, match=said):
            shape_of(config)


def test_what_is_assumed_is_said() -> None:
    assert "taken for a Llama" in shape_of({**LLAMA, "model_type": "brandnew"}).note
    seen = shape_of({"model_type": "llava", "text_config": LLAMA, "tie_word_embeddings": True})
    assert seen.is_tied is True or "other modalities" in seen.note
    assert shape_of(LLAMA).note == ""


def test_what_the_hub_counts_beyond_the_layers_is_weight_too() -> None:
    shape = shape_of(LLAMA)
    assert shape.with_total(shape.parameters + 1000).parameters == shape.parameters + 1000
    assert shape.with_total(10).parameters == shape.parameters


# Not below the tensors by more than 3 %, and above by what the formula's margins are for.
STEPS = [
    (LLAMA, Recipe(length=256), -0.03, 0.10),
    (LLAMA, Recipe(length=256, checkpointing=False), -0.03, 0.10),
    (LLAMA, Recipe(length=256, checkpointing=False, target_modules=("q_proj", "v_proj")), -0.03, 0.15),
    (LLAMA, Recipe(length=256, builds_logits=True), -0.03, 0.10),
    (LLAMA, Recipe(length=256, checkpointing=False, is_full=True), -0.03, 0.15),
    (LLAMA, Recipe(length=256, is_dora=True, rank=8), -0.05, 0.10),
    ({**LLAMA, "model_type": "qwen3", "head_dim": 64}, Recipe(length=256), -0.03, 0.12),
    (MIXTRAL, Recipe(length=256, checkpointing=False), -0.03, 0.12),
    (GEMMA2, Recipe(length=256), -0.05, 0.12),
    (T5, Recipe(task="seq2seq", length=256, target_length=64), -0.10, 0.25),
]


@pytest.mark.parametrize(("config", "recipe", "below", "above"), STEPS)
def test_the_estimate_is_what_a_real_step_holds(
    config: dict[str, Any], recipe: Recipe, below: float, above: float
) -> None:
    from tensor_bytes import peak_bytes

    expected = memory(shape_of(config), recipe).closed_bytes
    error = expected / peak_bytes(config, recipe) - 1
    assert below <= error <= above, f"{error:+.1%}"


@pytest.mark.parametrize(("double", "bytes_each"), [(True, NF4_DOUBLE_BYTES), (False, NF4_BYTES)])
def test_a_weight_in_four_bits_takes_what_bitsandbytes_takes(double: bool, bytes_each: float) -> None:
    import torch
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(
        torch.randn(1024, 4096, dtype=torch.bfloat16), compress_statistics=double, quant_type="nf4"
    )
    tensors = [packed, state.absmax, *([state.state2.absmax] if double else [])]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert taken / (1024 * 4096) == pytest.approx(bytes_each, abs=1e-4)


def test_the_estimate_needs_nothing_that_a_bare_trainer_lacks() -> None:
    modules = [f"pushtrain.estimate.{path.stem}" for path in (ROOT / "pushtrain" / "estimate").glob("[!_]*.py")]
    heavy = ("torch", "httpx", "rich", "git", "huggingface_hub", "transformers")
    program = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_need_covers_what_was_published_and_the_floor_refuses_nothing_that_ran() -> None:
    """But for the table's own coarseness: G is read as 10^9 bytes for the need, as 2^30 for the floor."""
    uncovered = []
    for row in PUBLISHED["memory"]:
        if "other" in row or row["unit"] == "card":
            continue
        modules = row["recipe"].get("target_modules")
        recipe = Recipe(**{**row["recipe"], "target_modules": tuple(modules) if modules else None})
        found = memory(published_shape(row["model"]), recipe)
        if found.need_bytes < row["peak"] * UNITS[row["unit"]]:
            uncovered.append(row)
        assert found.floor_bytes <= row["peak"] * GIB * 1.08, row
    assert uncovered == []


def published_shape(model: str) -> ModelShape:
    if model in PUBLISHED["configs"]:
        return shape_of(PUBLISHED["configs"][model])
    known = known_shape(model)
    assert known is not None
    return known[0]


def test_every_knob_of_memory_moves_it_the_right_way() -> None:
    shape = published_shape("meta-llama/Llama-3.1-8B")

    def closed(**changes: Any) -> float:
        return memory(shape, Recipe(**{"length": 2048, "rank": 16, **changes})).closed_bytes / GIB

    # 8B LoRA r16, 1 × 2048, checkpointing: the dry run of the real step held 16.62 GiB, 30.02 without it.
    assert closed() == pytest.approx(16.62, rel=0.03)
    assert closed(checkpointing=False) == pytest.approx(30.02, rel=0.04)
    assert closed(builds_logits=True) == pytest.approx(18.90, rel=0.03)
    assert closed(bits=4) < closed(bits=8) < closed()
    assert closed(micro_batch=2) > closed() and closed(length=1024) < closed()
    assert closed(task="dpo") > closed()
    assert closed(is_full=True) > 8 * 16 / GIB * 1e9 > closed(is_full=True, optimizer="adamw_8bit") * 0.8
    assert closed(modules_to_save=("embed_tokens",)) - closed() == pytest.approx(16 * 128256 * 4096 / GIB, rel=1e-6)
    assert closed(is_full=True, shards=8) < closed(is_full=True) / 4
    reference = memory(shape, Recipe(task="dpo", is_full=True)).reference
    assert reference == pytest.approx(2 * 8.03e9, rel=0.01)
    assert closed(is_full=True, optimizer="adafactor") < closed(is_full=True, optimizer="adamw_8bit")
    assert memory(shape, Recipe(task="dpo")).reference == 0.0


def test_paged_moments_may_leave_the_card() -> None:
    shape = published_shape("meta-llama/Llama-3.1-8B")
    plain, paged = (memory(shape, Recipe(is_full=True, optimizer=name)) for name in ("adamw_8bit", "paged_adamw_8bit"))
    assert plain.need_bytes == paged.need_bytes
    assert plain.floor_bytes - paged.floor_bytes == pytest.approx(1.05 * 2 * 8.03e9, rel=0.01)


def test_a_mixtures_experts_stay_in_sixteen_bits_and_take_adapters() -> None:
    known = known_shape("Qwen/Qwen3-30B-A3B")
    assert known is not None
    shape = known[0]
    quantised = memory(shape, Recipe(bits=4))
    assert quantised.weights > 2 * 0.9 * shape.parameters, "bitsandbytes leaves the experts alone"
    everywhere, attention = (
        trained_parameters(shape, Recipe(target_modules=names)) for names in (None, ("q_proj", "v_proj"))
    )
    assert everywhere > 900_000_000 > 10_000_000 > attention


def test_the_verdict_has_a_band_in_which_nobody_can_tell() -> None:
    found = memory(published_shape("meta-llama/Llama-3.1-8B"), Recipe())
    assert found.verdict(found.need_bytes) == "fits"
    assert found.verdict(found.floor_bytes) == found.verdict(found.need_bytes - 1) == "tight"
    assert found.verdict(found.floor_bytes - 1) == "too large"
    assert sum(found.terms_gb.values()) == pytest.approx(found.need_gb)


def test_what_gets_adapters_or_a_gradient_is_counted_by_name_and_layer() -> None:
    shape = published_shape("meta-llama/Llama-3.1-8B")

    def trained(**changes: Any) -> int:
        return trained_parameters(shape, Recipe(**changes))

    everywhere = trained()
    assert everywhere == 41_943_040, "PEFT's count for r=16 on all linear layers"
    assert trained(layers_to_transform=(0, 1, 99)) == everywhere // 16
    assert trained(exclude_modules=("mlp.down_proj",)) == everywhere - 32 * 16 * (14336 + 4096)
    assert trained(is_full=True, trainable_parameters=("model.layers.3?.*",)) == 2 * 218_103_808
    assert trained(is_full=True, trainable_parameters=("lm_head.weight",)) == 128256 * 4096
    assert trained(is_full=True) == shape.parameters


def test_a_spec_says_the_recipe() -> None:
    document: dict[str, Any] = {
        "version": 1,
        "name": "job",
        "model": {"id": "a/b"},
        "data": {"path": "data/x.jsonl"},
        "method": {"kind": "qlora", "rank": 8, "dropout": 0.1, "target_modules": ["q_proj"]},
        "train": {"per_device_train_batch_size": 3, "max_length": 512, "packing": True},
        "compute": {"gpus": ["NVIDIA A40"]},
        "budget": {"max_hours": 1.0, "max_usd": 1.0},
        "publish": {"repo": "a/c"},
    }
    assert recipe_of(TrainingSpec.model_validate(document)) == Recipe(
        bits=4, rank=8, dropout=0.1, target_modules=("q_proj",), micro_batch=3, length=512, is_packed=True
    )
    other = {**document, "task": "seq2seq", "method": {"kind": "full"}, "seq2seq": {"max_target_length": 64}}
    found = recipe_of(TrainingSpec.model_validate({**other, "train": {"optim": "adafactor"}}))
    assert (found.task, found.target_length, found.optimizer, found.is_full) == ("seq2seq", 64, "adafactor", True)
    several = {"train": {"parallel": "fsdp2"}, "compute": {"gpus": ["NVIDIA A40"], "count": 4}}
    divided = recipe_of(TrainingSpec.model_validate({**document, "method": {"kind": "lora"}, **several}))
    assert divided.shards == 4
