"""Whole runs of the trainer on a tiny model against a served Hub: train, evaluate, publish, fail, stop, resume."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import ALICE, Hub
from huggingface_hub import CommitOperationAdd, HfApi
from tiny_model import MODEL_ID, Bench, rows

pytest_plugins = ("trainer_fixtures",)

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def whole(hub: Hub, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One run from start to end, which several tests look at."""
    bench = Bench(tmp_path_factory.mktemp("whole"), hub, home)
    bench.write(publish={"repo": "demo/whole"}, train={"eval_steps": 3})
    assert bench.run() == 0
    return bench


def test_a_run_publishes_the_adapter_with_the_hash_of_every_file(whole: Bench, hub: Hub) -> None:
    result = whole.file("result.json")
    assert result["adapter"]["repo"] == "demo/whole"
    listed = hub.alice.list_repo_files("demo/whole", revision=result["adapter"]["revision"])
    assert {*listed} - {".gitattributes"} == result["adapter"]["files"].keys()
    assert result["adapter"]["files"]["adapter_model.safetensors"] == whole.adapter_sha256()
    assert not any("training_args" in name for name in listed)


def test_metrics_events_and_result_keep_to_the_contract(whole: Bench) -> None:
    steps = [record for record in whole.file("metrics.jsonl") if "loss" in record]
    assert (whole.run_dir / "attempt-1" / "step").exists(), "what the pod's watchdog looks at between two of them"
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    fields = {"time", "step", "total_steps", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s"}
    fields |= {"samples_per_s", "peak_memory_gb", "tokens_seen"}
    assert all(record.keys() == fields and record["tokens_per_s"] > 0 for record in steps)
    evaluations = [record for record in whole.file("metrics.jsonl") if "eval_loss" in record]
    assert [record["step"] for record in evaluations] == [3, 6]
    states = [event["state"] for event in whole.file("events.jsonl")]
    assert states == ["preparing", "training", "evaluating", "publishing"]
    metrics = whole.file("result.json")["metrics"]
    assert metrics["eval_loss"] == evaluations[-1]["eval_loss"] < metrics["base_eval_loss"]
    assert metrics["train_loss"] == pytest.approx(sum(record["loss"] for record in steps) / 6)
    assert (metrics["steps"], metrics["resumed_from_step"]) == (6, None)
    assert metrics["tokens_seen"] == steps[-1]["tokens_seen"] > steps[0]["tokens_seen"] > 0
    assert whole.file("failure.json") is None


def test_plain_peft_loads_the_published_adapter_and_answers_as_the_run_said(whole: Bench, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = whole.file("result.json")
    adapter = tmp_path / "adapter"
    snapshot_download("demo/whole", revision=result["adapter"]["revision"], token=ALICE, local_dir=adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == MODEL_ID
    assert config["revision"] == HfApi(endpoint=whole.hub.url).model_info(MODEL_ID).sha
    assert config["target_modules"] == sorted(config["target_modules"])
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    base = AutoModelForCausalLM.from_pretrained(MODEL_ID, revision=config["revision"])
    model = PeftModel.from_pretrained(base, adapter).eval()
    for sample in result["samples"]:
        ids = tokenizer(sample["prompt"], return_tensors="pt")["input_ids"]
        answer = model.generate(input_ids=ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(answer, skip_special_tokens=True).strip() == sample["adapter"]
        assert sample["expected"].startswith("the answer is")


def test_the_card_names_run_revisions_numbers_and_samples(whole: Bench) -> None:
    card = (whole.run_dir / "adapter" / "README.md").read_text()
    result = whole.file("result.json")
    pins = json.loads((whole.run_dir / "inputs.json").read_text())
    for part in (f"base_model: {MODEL_ID}", *pins.values(), f"{result['metrics']['eval_loss']:.4f}", "run: `run`"):
        assert part in card
    assert result["samples"][0]["expected"] in card
    assert "More Information Needed" not in card


def test_a_second_attempt_after_the_end_trains_nothing_and_publishes_the_same_commit(whole: Bench) -> None:
    before = whole.adapter_sha256()
    assert whole.run(attempt=2) == 0
    first, second = whole.file("result.json"), whole.file("result.json", attempt=2)
    assert second["metrics"]["resumed_from_step"] == 6
    assert second["metrics"]["train_loss"] == first["metrics"]["train_loss"]
    assert whole.adapter_sha256() == before
    assert not any("loss" in record for record in whole.file("metrics.jsonl", attempt=2))


def test_told_to_stop_it_saves_the_step_and_the_next_attempt_makes_the_same_bytes(whole: Bench, bench: Bench) -> None:
    bench.write(train={"eval_steps": 3, "save_steps": 100}, publish={"repo": "demo/stopped"})
    metrics = bench.run_dir / "attempt-1" / "metrics.jsonl"
    sender = threading.Thread(target=signal_once, args=(lambda: metrics.exists() and "loss" in metrics.read_text(),))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a late signal must not end the tests
    try:
        sender.start()
        assert bench.run() == 75
        sender.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert bench.file("failure.json") is None
    assert bench.file("result.json") is None
    [checkpoint] = (bench.run_dir / "checkpoints").glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 0 < step < 6
    assert bench.run(attempt=2) == 0
    assert bench.file("result.json", attempt=2)["metrics"]["resumed_from_step"] == step
    assert bench.adapter_sha256() == whole.adapter_sha256()


def test_a_hub_that_stays_down_at_the_upload_leaves_the_adapter_and_says_where(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.publish.RETRY_DELAYS_S", (0.0,))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    bench.write(publish={"repo": "demo/down"}, train={"max_steps": 2})
    hub.store.set_fault("hub_upload_down", 1000)
    try:
        assert bench.run() == 1
    finally:
        hub.store.set_fault("hub_upload_down", 0)
    failure = bench.file("failure.json")
    assert failure["reason"] == "HubUnreachable"
    assert str(bench.run_dir / "adapter") in failure["message"]
    assert "signature" not in failure["message"]
    assert (bench.run_dir / "adapter" / "adapter_model.safetensors").stat().st_size > 1000
    hub.store.set_fault("hub_commit_lost", 1)
    assert bench.run(attempt=2) == 0
    assert len(hub.alice.list_repo_commits("demo/down")) == 2, "the commit whose answer was lost was made again"


def test_a_loss_that_is_not_finite_stops_the_run_before_a_checkpoint(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from tiny_model import publish_model, write_model

    write_model(tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"][0, 0] = torch.inf
    save_file(tensors, weights, metadata={"format": "pt"})
    publish_model(hub.alice, tmp_path / "broken", "demo/broken")
    bench.write(model={"id": "demo/broken"}, train={"save_steps": 1})
    assert bench.run() == 1
    assert bench.file("failure.json")["reason"] == "LossNotFinite"
    assert "step 1" in bench.file("failure.json")["message"]
    assert bench.file("metrics.jsonl")[-1]["loss"] is None
    assert not list((bench.run_dir / "checkpoints").glob("checkpoint-*"))


def test_a_full_disk_is_a_failure_with_a_name(bench: Bench) -> None:
    bench.run_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(bench.run_dir)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        bench.write(method={"rank": 16})
        assert bench.run() == 1
        failure = bench.file("failure.json")
        assert bench.file("metrics.jsonl"), "the disk was full before the training began"
    finally:
        subprocess.run(["umount", str(bench.run_dir)], check=True)
    assert failure["reason"] == "DiskFull"
    assert "compute.volume.size_gb" in failure["message"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_in_bf16_adapters_and_masters_stay_fp32_and_the_dtype_of_the_base_is_published(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What a GPU does, with bf16 autocast on the CPU."""
    from tiny_model import publish_model, write_model

    for module in ("model", "arguments", "evaluate"):
        monkeypatch.setattr(f"trainer.{module}.uses_bf16", lambda _: True)
    write_model(bench.root / "half", dtype="bfloat16")
    publish_model(hub.alice, bench.root / "half", "demo/half")
    bench.write(model={"id": "demo/half"}, method={"kind": kind}, publish={"repo": f"demo/half-{kind}"})
    assert bench.run() == 0
    metrics = bench.file("result.json")["metrics"]
    assert metrics["eval_loss"] < metrics["base_eval_loss"]
    trained = {str(weight.dtype) for weight in load_weights(bench.run_dir / "checkpoints" / "checkpoint-6").values()}
    published = {str(weight.dtype) for weight in load_weights(bench.run_dir / "adapter").values()}
    assert trained == {"torch.float32"}
    assert published == {"torch.float32" if kind == "lora" else "torch.bfloat16"}


def test_messages_from_a_dataset_on_the_hub_are_packed_and_trained(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(bench.root / "datasets"))
    lines = [{"messages": chat(row["prompt"], row["completion"])} for row in rows()]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    hub.alice.create_repo("demo/chats", repo_type="dataset", private=True)
    add = [CommitOperationAdd("train.jsonl", content)]
    revision = hub.alice.create_commit("demo/chats", add, commit_message="rows", repo_type="dataset").oid
    bench.write(data={"source": "hf://datasets/demo/chats"}, train={"packing": True, "max_steps": 2})
    assert bench.run() == 0
    training = bench.file("events.jsonl")[1]["data"]
    assert (training["rows"], training["held_out"]) == (42, 6)
    assert bench.file("result.json")["samples"][0]["prompt"].endswith("<|assistant|>")
    card = (bench.run_dir / "adapter" / "README.md").read_text()
    assert f"demo/chats @ {revision}" in card
    assert "datasets:\n- demo/chats" in card


def load_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    [path] = folder.glob("*.safetensors")
    return load_file(path)


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]


def signal_once(is_so: Callable[[], bool]) -> None:
    """SIGTERM to this process, when it is so; gives up after some minutes."""
    ends = time.monotonic() + 150
    while time.monotonic() < ends:
        if is_so():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(0.002)
