"""What a plan asks the Hub: sizes, licence, gate, commit; refusals in words, and a Hub that is away asked once."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from git_world import git_environ

from infra.simulator.loopback import Listener, Reply, Request
from pushtrain.plan import plan_specs
from pushtrain.plan.hub import Hub, _refusal
from pushtrain.plan.sources import open_sources
from pushtrain.spec import TrainingSpec

SHA = "a" * 40
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
}
INFO = {
    "sha": SHA,
    "gated": "manual",
    "cardData": {"license": "llama3.1"},
    "safetensors": {"total": 8_030_261_248},
    "siblings": [
        {"rfilename": "model-1.safetensors", "size": 16_000_000_000},
        {"rfilename": "original/consolidated.safetensors", "size": 99},
        {"rfilename": "pytorch_model.bin", "size": 5},
    ],
}
DATASET = {
    "sha": SHA,
    "cardData": {
        "license": ["cc-by-4.0"],
        "dataset_info": [{"splits": [{"name": "train", "num_examples": 10_000, "num_bytes": 20_000_000}]}],
    },
}


@dataclass
class Server:
    """Answers by path; `seen` are the paths asked, with whether a token came along."""

    url: str = ""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    drip: int = 0

    def put(self, path: str, value: Any, status: int = 200) -> None:
        self.answers[path] = (status, value if isinstance(value, bytes) else json.dumps(value).encode())

    @property
    def environ(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.url}


@pytest.fixture
def hub() -> Iterator[Server]:
    server = Server()

    def answer(request: Request) -> Reply:
        server.seen.append((request.path, request.headers.get("authorization")))
        status, body = server.answers.get(request.path, (404, b"{}"))
        size = {"Content-Length": str(len(body))}
        return Reply(status=status, headers=size, body=dripping(body, server.drip) if server.drip else body)

    with Listener(answer) as listener:
        server.url = listener.url
        yield server


def dripping(body: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
        time.sleep(0.05)


def put_model(hub: Server, name: str = "org/model", **info: Any) -> None:
    hub.put(f"/api/models/{name}/revision/main", {**INFO, **info})
    hub.put(f"/{name}/resolve/main/config.json", CONFIG)


def test_sizes_licence_gate_and_commit_are_read_at_the_revision(hub: Server) -> None:
    put_model(hub)
    found = Hub({**hub.environ, "HF_TOKEN": "canary-secret-hf"}).model("org/model", "main")
    assert found.shape is not None and found.shape.parameters == pytest.approx(8.03e9, rel=1e-3)
    assert (found.commit, found.licence, found.is_gated) == (SHA, "llama3.1", True)
    assert found.stored_bytes == 16e9, "copies in folders and in other formats do not count"
    assert "config.json of org/model at aaaaaaaa" in found.how
    assert {token for _, token in hub.seen} == {"Bearer canary-secret-hf"}


def test_each_model_is_asked_once_and_without_a_token_none_is_sent(hub: Server) -> None:
    put_model(hub)
    asking = Hub(hub.environ)
    assert asking.model("org/model", "main") is asking.model("org/model", "main")
    assert len(hub.seen) == 2 and {token for _, token in hub.seen} == {None}


def test_a_revision_with_a_slash_is_one_part_of_the_path(hub: Server) -> None:
    Hub(hub.environ).model("org/model", "refs/pr/1")
    assert hub.seen[0][0] == "/api/models/org/model/revision/refs%2Fpr%2F1"


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "not there, or it needs a token"), (403, "access has to be asked for"), (404, "not there")],
)
def test_a_refusal_is_said_and_the_table_helps(hub: Server, status: int, said: str) -> None:
    hub.put("/api/models/Qwen/Qwen3-8B/revision/main", {}, status)
    found = Hub(hub.environ).model("Qwen/Qwen3-8B", "main")
    assert found.trouble == said and found.shape is not None and "pushtrain's table" in found.how


def test_a_revision_that_the_hub_does_not_have_is_not_a_model_that_is_not_there() -> None:
    assert _refusal(404, "RevisionNotFound") == "it has no such revision"
    assert _refusal(404, "RepoNotFound") == "not there"


def test_a_gated_config_leaves_the_rest_known(hub: Server) -> None:
    put_model(hub, "meta-llama/Llama-3.1-8B")
    hub.put("/meta-llama/Llama-3.1-8B/resolve/main/config.json", {}, 401)
    found = Hub(hub.environ).model("meta-llama/Llama-3.1-8B", "main")
    assert found.is_gated and found.shape is not None and found.commit == SHA


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_away_is_not_asked_again(hub: Server, status: int) -> None:
    hub.put("/api/models/org/model/revision/main", b"", status)
    asking = Hub(hub.environ)
    for name in ("org/model", "org/other", "Qwen/Qwen3-8B"):
        asking.model(name, "main")
    assert len(hub.seen) == 1 and str(status) in asking.away
    assert asking.model("Qwen/Qwen3-8B", "main").shape is not None


def test_a_hub_that_drips_is_given_up(hub: Server) -> None:
    put_model(hub)
    hub.drip = 20
    asking = Hub(hub.environ, answer_s=0.3)
    began_s = time.monotonic()
    assert asking.model("org/model", "main").shape is None and "longer than" in asking.away
    assert time.monotonic() - began_s < 30


def test_nobody_listening_and_offline_are_no_failure() -> None:
    nobody = Hub({"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert nobody.model("org/model", "main").shape is None and "ConnectError" in nobody.away
    assert "HF_HUB_OFFLINE" in Hub({"HF_HUB_OFFLINE": "1"}).model("org/model", "main").how


@pytest.mark.parametrize(
    "body", [b"[1]", b"{", b"x" * 5_000_000, b"[" * 100_000, json.dumps({"hidden_size": 1}).encode()]
)
def test_a_config_that_is_hostile_or_broken_is_no_shape(hub: Server, body: bytes) -> None:
    put_model(hub)
    hub.put("/org/model/resolve/main/config.json", body)
    assert Hub(hub.environ).model("org/model", "main").shape is None


def test_the_size_of_a_dataset_is_what_its_page_says(hub: Server) -> None:
    hub.put("/api/datasets/org/data/revision/main", DATASET)
    asking = Hub(hub.environ)
    found = asking.dataset("org/data", "main", "train")
    assert (found.rows, found.text_bytes, found.licence, found.commit) == (10_000, 20e6, "cc-by-4.0", SHA)
    assert asking.dataset("org/data", "main", "test").rows is None
    assert asking.dataset("org/none", "main", "train").trouble == "not there"
    entries = [
        {"config_name": name, "splits": [{"name": "train", "num_examples": rows, "num_bytes": 10 * rows}]}
        for name, rows in (("small", 5), ("large", 50))
    ]
    hub.put("/api/datasets/org/several/revision/main", {"cardData": {"dataset_info": entries}})
    assert asking.dataset("org/several", "main", "train").rows == 5
    assert asking.dataset("org/several", "main", "train", "large").rows == 50
    assert asking.dataset("org/several", "main", "train", "none").rows is None


def test_a_plan_of_a_gated_model_and_a_dataset_of_the_hub(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in git_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    put_model(hub)
    hub.put("/api/datasets/org/data/revision/main", DATASET)
    spec = {
        "version": 1,
        "name": "job",
        "model": {"id": "org/model"},
        "data": {"source": "hf://datasets/org/data"},
        "compute": {"gpus": ["NVIDIA A100 80GB PCIe"]},
        "budget": {"max_hours": 20.0, "max_usd": 30.0},
        "publish": {"repo": "org/out"},
    }
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(json.dumps(spec))
    plans, problems = plan_specs([], tmp_path, hub.environ)
    (plan,) = plans.plans
    assert not problems and plan.fits and plan.work is not None
    assert plan.work.tokens == pytest.approx(9800 * 500, rel=0.02)
    reasons = [caution.reason for caution in plan.cautions]
    assert reasons.count("Licence") == 1 and reasons.count("Gated") == 1
    assert {revision.commit for revision in plan.revisions[:2]} == {SHA}
    assert any("10000 rows as the dataset's page says" in note for note in plan.notes)


def test_a_tokenizer_in_the_hubs_cache_counts_in_place_of_a_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    for name, value in git_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    words = Tokenizer(models.WordLevel({"word": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "hf" / "hub" / "models--org--model"
    (folder / "snapshots" / SHA).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(SHA)
    words.save(str(folder / "snapshots" / SHA / "tokenizer.json"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text('{"text": "word word word word word word word word"}\n' * 100)
    document = {
        "version": 1,
        "name": "job",
        "model": {"id": "org/model"},
        "data": {"path": "data/rows.jsonl"},
        "compute": {"gpus": ["NVIDIA A40"]},
        "budget": {"max_hours": 1.0, "max_usd": 1.0},
        "publish": {"repo": "org/out"},
    }
    spec = TrainingSpec.model_validate(document)
    environ = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    found, _, _ = open_sources(tmp_path, environ).dataset(spec)
    assert found is not None and found.tokens == pytest.approx(800, rel=0.05)
    assert found.how == "100 rows counted by the model's own tokenizer on 100 of them"
    guessed, _, _ = open_sources(tmp_path, {"HF_HUB_OFFLINE": "1"}).dataset(spec)
    assert guessed is not None and guessed.tokens == pytest.approx(100 * 39 / 4, rel=0.05)
    (folder / "snapshots" / SHA / "tokenizer.json").write_text("{")
    broken, _, _ = open_sources(tmp_path, environ).dataset(spec)
    assert broken is not None and broken.tokens == guessed.tokens
