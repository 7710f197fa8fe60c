"""Rows in sequences: which layout is chosen, how rows are packed, and that joined rows do not see each other."""

import random
from typing import Any

import numpy
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from pushtrain.spec.recipe import Train
from trainer.data.layout import JOINS, MIN_STEPS, best_fit, choose

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
MORE = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "phi3": {**SIZES, **MORE, "original_max_position_embeddings": 64},
    "opt": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
}


def model(family: str) -> Any:
    experts = EXPERTS if "moe" in family or family == "mixtral" else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **OWN.get(family, {**SIZES, **MORE, **experts}))
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def difference(family: str) -> float:
    """Between the logits of rows alone and of the same rows in one sequence, as a share of the largest logit."""
    torch.manual_seed(1)
    rows = [torch.randint(3, 90, (size,)).tolist() for size in (7, 1, 9)]
    examples = [{"input_ids": row, "labels": row} for row in rows]
    joined = DataCollatorForLanguageModeling(0, padding_free=True)(examples)
    del joined["labels"]
    network = model(family)
    with torch.inference_mode():
        apart = torch.cat([network(input_ids=torch.tensor([row])).logits[0] for row in rows])
        together = network(**joined, use_cache=False).logits[0]
    return float((apart - together).abs().max() / apart.abs().max())


@pytest.mark.parametrize("family", sorted(JOINS))
def test_joined_rows_do_not_see_each_other(family: str) -> None:
    assert difference(family) < 1e-5


def test_a_family_in_which_they_do_is_not_on_the_list() -> None:
    assert difference("opt") > 0.01
    assert "opt" not in JOINS


def sizes(*lengths: int) -> Any:
    return numpy.array(lengths)


@pytest.mark.parametrize(
    ("keys", "lengths", "packing", "free", "why"),
    [
        ({"packing": True}, [10] * 4, True, True, "as train.packing says"),
        ({"packing": True, "per_device_train_batch_size": 4}, [10] * 4, True, True, "as train.packing says"),
        ({}, [10] * 4, False, False, "one row a batch needs no padding"),
        ({}, [100] * 32 * MIN_STEPS * 20, True, True, "rows are short, and about"),
        ({}, [1500] * 32 * MIN_STEPS, False, False, "one row a batch needs no padding"),
        ({"packing": False}, [100] * 32 * MIN_STEPS * 20, False, False, "one row a batch needs no padding"),
        ({"epochs": 1.0, "max_steps": 9}, [100] * 40, False, False, "one row a batch needs no padding"),
        ({"per_device_train_batch_size": 4}, [10, 20, 30, 40, 50], False, True, "a batch has 140 tokens at most"),
        (
            {"per_device_train_batch_size": 4},
            [10, 2000, 2048, 2048, 2048, 2048],
            False,
            True,
            "has 8192 tokens at most",
        ),
        ({"per_device_train_batch_size": 8}, [2000] * 8, False, False, "a batch may have 16000 tokens"),
        (
            {"per_device_train_batch_size": 8, "padding_free": True},
            [2000] * 8,
            False,
            True,
            "as train.padding_free says",
        ),
        ({"per_device_train_batch_size": 4, "padding_free": False}, [10] * 8, False, False, "as the spec says"),
    ],
)
def test_the_layout_is_what_the_spec_says_else_what_is_fast(
    keys: dict[str, Any], lengths: list[int], packing: bool, free: bool, why: str
) -> None:
    layout = choose(Train(**keys), sizes(*lengths), "llama", 1)
    assert (layout.packing, layout.padding_free) == (packing, free)
    assert why in layout.why


def test_a_family_that_is_not_known_is_padded_and_asked_for_anyway_refused() -> None:
    layout = choose(Train(per_device_train_batch_size=4), sizes(10, 20, 30, 40), "opt", 1)
    assert not layout.padding_free and "not known that opt models keep" in layout.why
    for key in ("packing", "padding_free"):
        with pytest.raises(ValueError, match=rf"train.{key}: rows of a opt model would see each other"):
            choose(Train(**{key: True}), sizes(10, 20), "opt", 1)


def test_every_row_is_packed_once_and_no_sequence_is_too_long() -> None:
    chance = random.Random(7)
    lengths = [min(int(chance.lognormvariate(4.9, 0.8)) + 1, 1024) for _ in range(3000)]
    filled = best_fit(lengths, 1024)
    assert sorted(row for sequence in filled for row in sequence) == list(range(3000))
    room = [sum(lengths[row] for row in sequence) for sequence in filled]
    assert max(room) <= 1024
    assert sum(lengths) / (1024 * len(filled)) > 0.99
    assert filled == best_fit(lengths, 1024)


def test_best_fit_takes_the_fullest_sequence_that_has_room() -> None:
    assert best_fit([5, 3, 7, 5, 2, 3], 10) == [[2, 1], [0, 3], [5, 4]]
    assert best_fit([10, 10], 10) == [[0], [1]]
    assert best_fit([], 10) == []
