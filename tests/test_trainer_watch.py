"""What a training says of itself, and what it does when it goes wrong: whole runs on the tiny model."""

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import Hub
from test_trainer_gpu import path_with_smi
from tiny_model import Bench, hub_with_model

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


def test_a_training_that_comes_apart_is_stopped_and_its_last_checkpoint_is_kept(bench: Bench) -> None:
    train = {"max_steps": 60, "learning_rate": 1.0, "save_steps": 5, "warmup_steps": 0}
    bench.write(publish={"repo": "demo/apart"}, train=train, method={"kind": "full"})
    assert bench.run() == 1
    failure = bench.file("failure.json")
    assert failure["reason"] in ("LossExploded", "LossNotFinite")
    assert "learning_rate" in failure["message"]
    losses = [record["loss"] for record in bench.file("metrics.jsonl") if "loss" in record]
    assert len(losses) < 40
    assert not losses[-1] or losses[-1] > 3 * losses[0] or math.isnan(losses[-1])
    assert list((bench.run_dir / "checkpoints").glob("checkpoint-*/COMPLETE.json"))


def test_an_idle_gpu_ends_the_training_with_its_last_step_saved(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
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
