"""A base model small enough for a CPU test, as a Hub holds it, and specs and rows to train it on."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

MODEL_ID = "demo/tiny"
ADAPTER_ID = "demo/adapter"
END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SENTENCE = "red green blue one two three four the a is was bird fish stone river answer question what where who"
WORDS = SENTENCE.split()


def tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Byte-level BPE trained on a few sentences, without a network."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=[END, PAD, *ROLES], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def write_model(folder: Path, *, seed: int = 7) -> None:
    """A Llama of 2 layers and 64 hidden units, with random weights, as `save_pretrained` leaves it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)


def publish_model(api: HfApi, folder: Path, model_id: str = MODEL_ID) -> str:
    """The commit that holds the model on the Hub `api` speaks to."""
    api.create_repo(model_id, exist_ok=True)
    return str(api.upload_folder(repo_id=model_id, folder_path=folder).oid)


def rows(count: int = 48) -> list[dict[str, Any]]:
    """Prompts with one right completion each, of different lengths, learnable in a few steps."""
    pairs = [(WORDS[i % len(WORDS)], WORDS[(i * 7 + 3) % len(WORDS)]) for i in range(count)]
    return [
        {"prompt": f"what is the {one} {'and ' * (i % 4)}?", "completion": f" the answer is {other}"}
        for i, (one, other) in enumerate(pairs)
    ]


def spec(**changes: Any) -> dict[str, Any]:
    """A spec that trains the tiny model for a few steps; what is a mapping is merged into it, the rest replaces."""
    base: dict[str, Any] = {
        "version": 1,
        "name": "tiny",
        "model": {"id": MODEL_ID},
        "data": {"path": "data/rows.jsonl", "eval_fraction": 0.125},
        "method": {"kind": "lora", "rank": 4, "alpha": 8},
        "train": {
            "max_steps": 6,
            "learning_rate": 0.005,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_length": 64,
            "save_steps": 2,
            "seed": 17,
        },
        "compute": {"gpus": ["NVIDIA A40"]},
        "budget": {"max_hours": 1.0, "max_usd": 1.0},
        "publish": {"repo": ADAPTER_ID},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
    if "source" in base["data"]:
        base["data"].pop("path", None)
    return base


def write_checkout(root: Path, document: dict[str, Any], lines: list[dict[str, Any]] | None = None) -> Path:
    """A checkout with one job and its data; the path of the spec, relative to `root`. JSON is YAML."""
    (root / "jobs").mkdir(parents=True, exist_ok=True)
    (root / "data").mkdir(exist_ok=True)
    path = root / "jobs" / f"{document['name']}.yaml"
    path.write_text(json.dumps(document, indent=1))
    if lines is not None:
        (root / "data" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.relative_to(root)
