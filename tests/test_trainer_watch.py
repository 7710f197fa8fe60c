"""What a training says of itself, and what it does when it goes wrong: whole runs on the tiny model."""

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import Hub
from test_trainer_gpu import path_with_smi
from tiny_model import Bench, hub_with_model

from trainer.job import Job, file_sha256

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub_with_model(tmp_path_factory.mktemp("watch")) as hub:
        yield hub


@pytest.fixture
def bench(hub: Hub, tmp_path: Path) -> Bench:
    return Bench(tmp_path, hub, tmp_path / "home")


def test_alone_on_a_machine_it_trains_into_a_folder_of_its_own_and_says_that_nothing_is_uploaded(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.__main__ import main

    bench.write(publish={"repo": "demo/alone"}, train={"max_steps": 2})
    for name, value in {**bench.environ(), "HF_TOKEN": "", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(bench.home / "token"))
    with contextlib.chdir(bench.root):
        assert main(["jobs/tiny.yaml"]) == 0
    [run_dir] = (bench.root / "runs").iterdir()
    assert run_dir.name == f"tiny-{bench.job().spec.digest[:8]}"
    result = json.loads((run_dir / "attempt-1" / "result.json").read_text())
    assert (result["adapter"]["repo"], result["adapter"]["revision"]) == (None, None)
    assert {path.name for path in (run_dir / "adapter").iterdir()} >= result["adapter"]["files"].keys()
    assert not hub.alice.repo_exists("demo/alone")
    out = capsys.readouterr().out
    assert "no token" in out
    assert "nothing is uploaded, the result is in" in out
    names = ["start", "checks", "imports", "data", "model", "trainer", "first_step"]
    assert [name for name in result["phases_s"] if name != "download"] == names, "a download only where one was needed"
    assert all(seconds >= 0 for seconds in result["phases_s"].values())


def test_alone_with_a_spec_that_is_wrong_it_says_so_and_leaves_no_folder(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.__main__ import main

    bench.write(train={"learning_rate": 7.0})
    with contextlib.chdir(bench.root):
        assert main(["jobs/tiny.yaml"]) == 2
    assert "learning_rate" in capsys.readouterr().out
    assert not (bench.root / "runs").exists()


def test_every_step_says_its_rates_and_what_a_million_tokens_cost(bench: Bench) -> None:
    bench.write(publish={"repo": "demo/rates"}, train={"max_steps": 2})
    assert bench.run(PUSHTRAIN_USD_PER_HOUR="0.36") == 0
    for record in bench.file("metrics.jsonl"):
        if "loss" not in record:
            continue
        assert record["usd_per_mtok"] == pytest.approx(100 / record["tokens_per_s"], rel=1e-2)
        assert record["samples_per_s"] > 0
        assert 0.1 < record["peak_memory_gb"] < 100
        assert "mfu" not in record, "nobody knows what this CPU can do"


def test_a_training_that_comes_apart_is_stopped_and_what_was_good_is_kept_beside_main(
    bench: Bench, hub: Hub, tmp_path: Path
) -> None:
    """The rate rises step by step, so that it comes apart some time after it has learned."""
    train = {"max_steps": 200, "learning_rate": 1.0, "save_steps": 5, "warmup_steps": 100}
    bench.write(publish={"repo": "demo/apart"}, train=train, method={"kind": "full"})
    assert bench.run(PUSHTRAIN_RUN_ID="apart-1") == 1
    failure = bench.file("failure.json")
    assert failure["reason"] in ("LossExploded", "LossNotFinite")
    assert "learning_rate" in failure["message"] and "demo/apart, revision run/apart-1" in failure["message"]
    losses = {record["step"]: record["loss"] for record in bench.file("metrics.jsonl") if "loss" in record}
    assert len(losses) < 150
    last = losses[max(losses)]
    assert last is None or last > 3 * min(losses.values())
    told = [event for event in bench.file("events.jsonl") if event["state"] == "publishing"]
    step, revision = told[-1]["data"]["step"], told[-1]["data"]["revision"]
    assert failure["reason"] in told[0]["message"]
    assert losses[step] < losses[1], "of before it came apart"
    assert step < max(losses) - 9, "older than what is usually kept"
    assert hub.alice.model_info("demo/apart", revision="run/apart-1").sha == revision
    listed = set(hub.alice.list_repo_files("demo/apart", revision=revision))
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json"} <= listed
    assert not {name for name in listed if "optimizer" in name or "state" in name or "training_args" in name}
    assert not {"model.safetensors", "README.md"} & set(hub.alice.list_repo_files("demo/apart"))
    card = hub.alice.hf_hub_download("demo/apart", "README.md", revision=revision, local_dir=tmp_path / "card")
    text = Path(card).read_text()
    assert "**This is no result.**" in text and failure["reason"] in text and 'revision="run/apart-1"' in text
    saved = hub.alice.hf_hub_download("demo/apart", "model.safetensors", revision=revision, local_dir=tmp_path / "card")
    checkpoint = bench.run_dir / "checkpoints" / f"checkpoint-{step}" / "model.safetensors"
    assert file_sha256(Path(saved)) == file_sha256(checkpoint)
    assert bench.file("result.json") is None
    assert_the_one_who_started_workers_keeps_it(bench, revision)


def assert_the_one_who_started_workers_keeps_it(bench: Bench, revision: str) -> None:
    """Of several processes each has written why it ended, and the one that started them finds the same checkpoint."""
    from trainer.checkpoint import Stop
    from trainer.failures import WorkerDied
    from trainer.keep import keeping
    from trainer.report import Report

    job, report = bench.trained_job("apart-1"), Report(bench.run_dir / "attempt-2")
    (report.folder / "failure.json").write_text(json.dumps({"reason": "GpuIdle", "message": "idle"}))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bench.environ().items():
            patch.setenv(name, value)
        with pytest.raises(WorkerDied), keeping(job, report, Stop()):
            raise WorkerDied("worker exit codes: 1, -9")
    assert "revision run/apart-1" in bench.file("failure.json", attempt=2)["message"]
    assert bench.file("events.jsonl", attempt=2)[-1]["data"]["revision"] != revision, "another card: another reason"


def test_stopped_early_the_best_weights_are_published_also_of_a_full_model_and_by_a_later_attempt(bench: Bench) -> None:
    train = {"max_steps": 60, "learning_rate": 0.05, "eval_steps": 2, "early_stopping_patience": 2, "save_steps": 100}
    bench.write(publish={"repo": "demo/early"}, train=train, method={"kind": "full"})
    assert bench.run() == 0
    metrics = bench.file("result.json")["metrics"]
    assert metrics["best_step"] < metrics["steps"] < 60
    *seen, last = [
        record["eval_loss"] for record in bench.file("metrics.jsonl") if record.get("step") and "eval_loss" in record
    ]
    assert metrics["eval_loss"] == last == min(seen)
    card = (bench.run_dir / "adapter" / "README.md").read_text()
    assert f"The weights are those of step {metrics['best_step']}, whose held-out loss was the lowest." in card
    files = bench.file("result.json")["adapter"]["files"]
    assert bench.run(attempt=2) == 0, "only evaluation and upload are left"
    assert bench.file("result.json", attempt=2)["adapter"]["files"] == files
    again = bench.file("result.json", attempt=2)["metrics"]
    assert again == {**metrics, "resumed_from_step": metrics["steps"]}


def test_a_hub_that_is_away_hides_no_reason(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.failures import LossExploded
    from trainer.keep import keep_what_there_is
    from trainer.report import Report

    bench.write(publish={"repo": "demo/away"})
    report, job = Report(bench.run_dir / "attempt-1"), bench.job()
    keep_what_there_is(job, LossExploded("up"), report)
    assert "nothing of this training is kept" in capsys.readouterr().out
    write_checkpoint(job, 4, [2.0] * 4)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("trainer.publish.KEEP_RETRY_DELAYS_S", ())
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    keep_what_there_is(job, LossExploded("up"), report)
    assert "what there is was not kept: publish.repo demo/away: the Hub cannot be reached" in capsys.readouterr().out
    assert bench.file("failure.json") == {"reason": "LossExploded", "message": "up"}


def test_only_a_whole_finite_checkpoint_whose_loss_was_on_course_is_good(bench: Bench) -> None:
    import torch

    from trainer.failures import GpuIdle, LossExploded
    from trainer.keep import last_good

    bench.write()
    job, exploded = bench.job(), LossExploded("up")
    assert last_good(job, exploded) is None
    write_checkpoint(job, 12, [2.0] * 12)
    write_checkpoint(job, 14, [2.0] * 13 + [60.0])
    write_checkpoint(job, 16, [2.0] * 15 + [math.nan])
    write_checkpoint(job, 18, [2.0] * 18, weight=torch.inf)
    cut = write_checkpoint(job, 20, [2.0] * 20)
    (cut / "adapter_model.safetensors").write_bytes(b"other")
    found = last_good(job, exploded)
    assert found is not None and found.step == 12
    write_checkpoint(job, 30, [2.0] * 14 + [4.0] * 16)
    assert last_good(job, exploded) == found, "on its way off"
    idle = last_good(job, GpuIdle("idle"))
    assert idle is not None and idle.step == 30
    bench.write(train={"learning_rate": 0.001})
    assert last_good(bench.job(), exploded) is None, "of another recipe none"


def write_checkpoint(job: Job, step: int, losses: list[float], weight: float = 1.0) -> Path:
    import torch
    from safetensors.torch import save_file

    from trainer.checkpoint import mark_complete

    folder = job.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"a": torch.full((2, 2), weight)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"target_modules": "all-linear"}))
    log = [{"step": number, "loss": loss} for number, loss in enumerate(losses, 1)]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    mark_complete(folder, job.recipe, is_final=False)
    return folder


def test_an_idle_gpu_ends_the_training_with_its_last_step_saved_and_kept(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.__main__ import main

    monkeypatch.setattr("trainer.watch.background.TICK_S", 0.05)
    monkeypatch.setenv("PATH", path_with_smi(bench.root / "bin", "0"))
    for name, value in bench.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    train = {"max_steps": 2000, "save_steps": 2000}
    bench.write(publish={"repo": "demo/idle"}, train=train, limits={"gpu_idle_minutes": 0.01})
    with contextlib.chdir(bench.root):
        assert main(bench.command()) == 1
    failure = bench.file("failure.json")
    assert failure["reason"] == "GpuIdle"
    assert "limits.gpu_idle_minutes" in failure["message"]
    assert [record["gpu_utilization"] for record in bench.file("metrics.jsonl") if "gpu_utilization" in record] == [0]
    [checkpoint] = (bench.run_dir / "checkpoints").glob("checkpoint-*/COMPLETE.json")
    assert bench.file("metrics.jsonl")[-1]["step"] == int(checkpoint.parent.name.removeprefix("checkpoint-"))
    assert "demo/idle, revision run/run" in failure["message"]
    kept = hub.alice.list_repo_files("demo/idle", revision="run/run")
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= set(kept)


@pytest.mark.skipif(not find_spec("trackio"), reason="the extra trackio is not installed")
def test_trackers_get_the_figures_of_the_ledger_and_one_that_fails_stops_nothing(bench: Bench) -> None:
    bench.write(publish={"repo": "demo/tracked"}, train={"max_steps": 2}, track=["trackio", "tensorboard"])
    bench.run_dir.mkdir()
    (bench.run_dir / "tensorboard").write_text("in the way of its folder")
    process = bench.start(CUDA_VISIBLE_DEVICES="")
    try:
        out, _ = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode == 0, out
    losses = [record["loss"] for record in bench.file("metrics.jsonl") if "loss" in record]
    assert len(losses) == 2
    assert out.count("track: tensorboard failed and is left out from here") == 1
    with contextlib.closing(sqlite3.connect(bench.run_dir / "trackio" / "tiny.db")) as database:
        kept = [json.loads(line) for (line,) in database.execute("select metrics from metrics order by step")]
    assert [figures["loss"] for figures in kept if "loss" in figures] == pytest.approx(losses)
    assert all(figures["tokens_per_s"] > 0 for figures in kept if "loss" in figures)


@pytest.mark.skipif(not find_spec("wandb"), reason="the extra wandb is not installed")
def test_wandb_without_a_network_is_kept_in_the_run_folder_and_its_key_nowhere(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write(publish={"repo": "demo/wandb"}, train={"max_steps": 2}, track=["wandb"])
    key = "canary-secret-wandb-" + "0" * 20
    assert bench.run(WANDB_API_KEY=key, WANDB_BASE_URL="http://127.0.0.1:9") == 0
    [kept] = (bench.run_dir / "wandb").glob("offline-run-*/*.wandb")
    content = kept.read_bytes()
    assert b"tokens_per_s" in content
    assert key.encode() not in content
    out = capsys.readouterr().out
    assert "track: wandb is offline" in out
    assert "failed" not in out
