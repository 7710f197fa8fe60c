"""A base model small enough for a CPU test, as a Hub holds it, and specs and rows to train it on."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hub_server import ALICE, USERS, Hub, point_client_at, running_server
from huggingface_hub import HfApi, constants

from infra.simulator.hub_store import HubStore
from pushtrain.spec.file import load
from trainer.job import Inputs, Job, file_sha256

REPOSITORY = Path(__file__).resolve().parent.parent

MODEL_ID = "demo/tiny"
SEQ2SEQ_ID = "demo/tiny-t5"
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


def write_model(folder: Path, *, dtype: str = "float32") -> None:
    """A Llama of 2 layers and 64 hidden units, its weights drawn from one seed, as `save_pretrained` leaves it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(7)
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
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    words.save_pretrained(folder)


def write_seq2seq_model(folder: Path) -> None:
    """A T5 of one layer each side; its tokenizer ends every text, as T5's does."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import T5Config, T5ForConditionalGeneration

    words = tokenizer(chat_template=None)
    end = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, words.eos_token_id)])
    words.backend_tokenizer.post_processor = end
    torch.manual_seed(7)
    config = T5Config(
        vocab_size=len(words),
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)


def write_bart_like_model(folder: Path, kind: str) -> None:
    """`bart` or `pegasus`, of one layer each side; the tokenizer ends every text."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    words = tokenizer(chat_template=None)
    end = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, words.eos_token_id)])
    words.backend_tokenizer.post_processor = end
    torch.manual_seed(7)
    size = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 48, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": None}
    start = {"decoder_start_token_id": words.eos_token_id, "forced_eos_token_id": words.eos_token_id}
    config = AutoConfig.for_model(kind, vocab_size=len(words), **size, **heads, **ends, **start)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
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


def pairs(count: int = 48) -> list[dict[str, Any]]:
    """Prompts with a better and a worse answer each; every second one is a conversation."""
    found: list[dict[str, Any]] = []
    for index, row in enumerate(rows(count)):
        worse = f" {WORDS[(index * 5 + 1) % len(WORDS)]} of it"
        if index % 2:
            sides = {"chosen": row["completion"].strip(), "rejected": worse.strip()}
            said = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
            found.append({"prompt": [{"role": "user", "content": row["prompt"]}], **said})
        else:
            found.append({"prompt": row["prompt"], "chosen": row["completion"], "rejected": worse})
    return found


def summaries(count: int = 48) -> list[dict[str, Any]]:
    """Texts whose summary is their last word, which a few steps teach to some degree."""
    words = [WORDS[i % 6] for i in range(count)]
    return [
        {"source": f"{WORDS[i % len(WORDS)]} is a {word}", "summary": f"the {word}"} for i, word in enumerate(words)
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
    if base["method"]["kind"] == "full":
        base["method"] = {key: base["method"][key] for key in base["method"].keys() - {"rank", "alpha"}}
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


@dataclass
class Bench:
    """A checkout, a run folder and a Hub with the tiny model on it. One thread each: two would wait for each other."""

    root: Path
    hub: Hub
    home: Path

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    def environ(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.hub.url,
            "HF_TOKEN": ALICE,
            "HF_HOME": str(self.home),
            "HF_HUB_CACHE": constants.HF_HUB_CACHE,
            "HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }

    def write(self, lines: list[dict[str, Any]] | None = None, **changes: Any) -> None:
        write_checkout(self.root, spec(**changes), rows() if lines is None else lines)

    def job(self) -> Job:
        """What the written spec asks for, on the model as the Hub has it now."""
        inputs = Inputs(model_sha=str(self.hub.alice.model_info(MODEL_ID).sha), data_version="sha256:0")
        return Job(
            spec=load(self.root / "jobs" / "tiny.yaml"),
            root=self.root,
            run_dir=self.run_dir,
            processes=1,
            run_id="tiny-run",
            commit="c" * 40,
            inputs=inputs,
        )

    def trained_job(self, run_id: str) -> Job:
        """The job of a run that has begun, on the model and the rows that it began with."""
        pins = json.loads((self.run_dir / "inputs.json").read_text())
        version = f"sha256:{file_sha256(self.root / 'data' / 'rows.jsonl')}"
        return replace(
            self.job(), run_id=run_id, inputs=Inputs(model_sha=next(iter(pins.values())), data_version=version)
        )

    def command(self, attempt: int = 1) -> list[str]:
        return ["jobs/tiny.yaml", "--run-dir", str(self.run_dir), "--attempt", str(attempt)]

    def run(self, attempt: int = 1, **environ: str) -> int:
        """`python -m trainer` without a new process; its exit code."""
        import torch

        from trainer.__main__ import main

        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.root):
            for name, value in {**self.environ(), **environ}.items():
                patch.setenv(name, value)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            return main(self.command(attempt))

    def start(self, attempt: int = 1, **options: Any) -> subprocess.Popen[str]:
        """`python -m trainer` as its own process group, slower than who watches it. The caller ends it."""
        return subprocess.Popen(
            ["nice", sys.executable, "-m", "trainer", *self.command(attempt)],
            cwd=self.root,
            env={"PATH": os.environ["PATH"], **self.environ(), **options},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def file(self, name: str, attempt: int = 1) -> Any:
        """The JSON of a result or failure, the list of records of a .jsonl file; None where there is no such file."""
        path = self.run_dir / f"attempt-{attempt}" / name
        if not path.exists():
            return None
        text = path.read_text()
        return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)

    def adapter_sha256(self) -> str:
        return file_sha256(self.run_dir / "adapter" / "adapter_model.safetensors")


@contextlib.contextmanager
def hub_with_model(folder: Path) -> Iterator[Hub]:
    """A served Hub that holds `demo/tiny`; huggingface_hub in this process speaks to it."""
    write_model(folder / "model")
    with running_server() as server, pytest.MonkeyPatch.context() as patch:
        point_client_at(server.url, folder / "client", patch)
        hub = server.serve(HubStore(folder / "hub", USERS))
        publish_model(hub.alice, folder / "model")
        yield hub
