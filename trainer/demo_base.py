"""The demo's base model: a byte-level BPE tokenizer and a Llama of a few million parameters, made from plain text.

`python -m trainer.demo_base --data corpus.txt --out DIR` leaves a folder as the Hub holds one: safetensors, settings,
tokenizer and chat template. It reads prose only, no question and no answer: answering is what the adapter learns.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import init
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EOS, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    + EOS
    + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HEAD_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Sizes of the model and of its training: 36 s of one CPU core, about 20 s of two.

    Many small steps and a vocabulary of 2048 learn most in so short a time: half of each step is the output layer.
    """

    vocab_size: int = 2048
    hidden_size: int = 256
    layers: int = 2
    length: int = 64
    """Tokens a window of the training text."""
    batch: int = 8
    steps: int = 340
    seed: int = 17


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What came out; losses are nats a token on the training text, means of the first and of the last ten steps."""

    parameters: int
    tokens: int
    first_loss: float
    last_loss: float


def build(text: str, out: Path, recipe: Recipe) -> Built:
    """Writes tokenizer and model to `out`. The same text, recipe and machine give the same weights.

    `text` is documents with an empty line between two, and has at least `length` tokens.
    """
    tokenizer = train_tokenizer(text, recipe.vocab_size)
    tokens = _encode(text, tokenizer)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_config(tokenizer, recipe))
    _initialise(model)
    losses = list(_train(model, tokens, recipe))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return Built(
        parameters=model.num_parameters(),
        tokens=len(tokens),
        first_loss=sum(losses[:10]) / len(losses[:10]),
        last_loss=sum(losses[-10:]) / len(losses[-10:]),
    )


def train_tokenizer(text: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: it can write any text, and the space before a word belongs to the word."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        text.splitlines(),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[EOS, PAD, *ROLES],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _config(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 8 // 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.hidden_size // HEAD_SIZE,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _encode(text: str, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """All documents in one row, the end token behind each. A sentence alone is no end: to stop, the adapter learns."""
    documents = tokenizer([f"{document}\n" for document in text.rstrip("\n").split("\n\n")])["input_ids"]
    return torch.tensor([token for document in documents for token in (*document, tokenizer.eos_token_id)])


def _initialise(model: LlamaForCausalLM) -> None:
    """Layers and the output begin at nothing and add themselves to large embeddings.

    With it, and the learning rates below, 300 steps reach a loss that the library's defaults miss by one nat a token.
    """
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            init.normal_(weight)
        elif name.endswith(("lm_head.weight", "o_proj.weight", "down_proj.weight")):
            init.zeros_(weight)
        elif weight.ndim == 2:
            init.normal_(weight, std=weight.shape[1] ** -0.5)


def _optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    """Embeddings of size one move in large steps; a layer in small ones."""
    rates = {"model.embed_tokens.weight": 0.2, "lm_head.weight": 1e-2}
    groups = [{"params": [weight], "lr": rates.get(name, 1.5e-3)} for name, weight in model.named_parameters()]
    return torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0, fused=True)


def _train(model: LlamaForCausalLM, tokens: torch.Tensor, recipe: Recipe) -> Iterator[float]:
    """The loss of each step. The learning rate rises for ten steps and falls over the last 70 percent of them."""
    optimizer = _optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 10, 1.0, (recipe.steps - step) / (0.7 * recipe.steps))
    )
    draw = torch.Generator().manual_seed(recipe.seed)
    window = torch.arange(recipe.length)
    for _ in range(recipe.steps):
        starts = torch.randint(len(tokens) - recipe.length + 1, (recipe.batch, 1), generator=draw)
        batch = tokens[starts + window]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo's base model from a text file.")
    parser.add_argument("--data", type=Path, required=True, help="documents, an empty line between two")
    parser.add_argument("--out", type=Path, required=True, help="folder for model and tokenizer")
    given = parser.parse_args()
    begin = time.monotonic()
    built = build(given.data.read_text("utf-8"), given.out, Recipe())
    print(
        f"{built.parameters:,} parameters, {built.tokens:,} tokens of text, "
        f"loss {built.first_loss:.2f} -> {built.last_loss:.2f}, {time.monotonic() - begin:.1f} s"
    )


if __name__ == "__main__":
    main()
