"""datasets and transformers load from the simulated Hub as they do from the real one, told only by HF_ENDPOINT."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import ALICE, USERS, Hub, running_server
from huggingface_hub import CommitOperationAdd

from infra.simulator.hub_store import HubStore

pytest.importorskip("torch", reason="the trainer's environment is not installed")

CLIENT = """
import json, sys
from datasets import load_dataset
from huggingface_hub import HfApi, HfFileSystem
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pinned = sys.argv[1]
api = HfApi()
api.create_repo("demo/tiny", private=True, exist_ok=True)
words = {word: number for number, word in enumerate(["<unk>", "a", "b", "c"])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
model = LlamaForCausalLM(LlamaConfig(vocab_size=4, tie_word_embeddings=False, **shape))
model.save_pretrained("tiny")
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained("tiny")
sha = api.upload_folder(repo_id="demo/tiny", folder_path="tiny", commit_message="tiny").oid
api.delete_file("config.json", "demo/tiny", commit_message="main is broken now")

loaded = AutoModelForCausalLM.from_pretrained("demo/tiny", revision=sha)
rows = load_dataset("demo/rows", split="train", revision=pinned)
answer = {
    "tokens": AutoTokenizer.from_pretrained("demo/tiny", revision=sha)("a b c")["input_ids"],
    "same_weights": all(loaded.state_dict()[name].equal(value) for name, value in model.state_dict().items()),
    "pinned_rows": list(rows["text"]),
    "rows": list(load_dataset("demo/rows", split="train")["text"]),
    "hf_path": list(load_dataset("json", data_files="hf://datasets/demo/rows/train.jsonl", split="train")["text"]),
    "read": HfFileSystem().cat("hf://datasets/demo/rows@" + pinned + "/train.jsonl").decode(),
    "fingerprint": api.dataset_info("demo/rows", revision="v1").sha,
}
print(json.dumps(answer))
"""


def rows_of(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def commit_rows(hub: Hub, *texts: str) -> str:
    operation = CommitOperationAdd("train.jsonl", rows_of(*texts))
    return str(hub.alice.create_commit("demo/rows", [operation], commit_message="rows", repo_type="dataset").oid)


def test_datasets_and_transformers_load_at_the_revision_they_name(tmp_path: Path) -> None:
    with running_server() as server:
        hub = server.serve(HubStore(tmp_path / "hub", USERS))
        hub.alice.create_repo("demo/rows", repo_type="dataset", private=True)
        pinned = commit_rows(hub, "first", "rows")
        hub.alice.create_tag("demo/rows", tag="v1", repo_type="dataset")
        commit_rows(hub, "second")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environ |= {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ALICE, "HOME": str(tmp_path)}
        environ |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", CLIENT, pinned]
        ran = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "tokens": [1, 2, 3],
        "same_weights": True,
        "pinned_rows": ["first", "rows"],
        "rows": ["second"],
        "hf_path": ["second"],
        "read": rows_of("first", "rows").decode(),
        "fingerprint": pinned,
    }
