"""The demo's base model, made small: a folder the Hub can hold, the same weights every time, and more than noise."""

import hashlib
import math
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pushtrain.demo_data import corpus
from trainer.demo_base import EOS, PAD, Built, Recipe, build

SMALL = Recipe(vocab_size=512, hidden_size=64, layers=1, length=32, batch=4, steps=40)


@pytest.fixture(scope="module")
def text() -> str:
    return corpus()[:40_000]


@pytest.fixture(scope="module")
def made(text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Path]:
    folder = tmp_path_factory.mktemp("base")
    return build(text, folder, SMALL), folder


def weights_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_base_model_is_more_than_noise(made: tuple[Built, Path]) -> None:
    built, _ = made
    assert built.first_loss > 0.9 * math.log(SMALL.vocab_size)
    assert built.last_loss < 0.8 * built.first_loss


def test_the_folder_loads_as_one_from_the_hub(made: tuple[Built, Path]) -> None:
    built, folder = made
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "llama" and model.num_parameters() == built.parameters
    assert len(tokenizer) == model.config.vocab_size == SMALL.vocab_size
    assert (tokenizer.eos_token, tokenizer.pad_token) == (EOS, PAD)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_the_tokenizer_writes_any_text_and_no_token_spans_question_and_answer(made: tuple[Built, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made[1])
    question, answer = "What does café.naïve do?", " Return ☃, twice."
    ids = tokenizer(question + answer)["input_ids"]
    assert tokenizer.decode(ids) == question + answer
    assert ids == tokenizer(question)["input_ids"] + tokenizer(answer)["input_ids"]


def test_the_chat_template_ends_each_turn_and_opens_the_answer(made: tuple[Built, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made[1])
    turns = [{"role": "user", "content": "What is json?"}]
    written = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert written == f"<|user|>What is json?{EOS}<|assistant|>"


def test_the_same_text_and_seed_make_the_same_weights_and_another_seed_others(
    made: tuple[Built, Path], text: str, tmp_path: Path
) -> None:
    build(text, tmp_path / "again", SMALL)
    assert weights_digest(tmp_path / "again") == weights_digest(made[1])
    other = Recipe(vocab_size=512, hidden_size=64, layers=1, length=32, batch=4, steps=2, seed=18)
    build(text, tmp_path / "other", other)
    assert weights_digest(tmp_path / "other") != weights_digest(made[1])
