"""Killed anywhere, a training goes on to the same bytes: weights, optimizer, random state, and the curve of the loss.

One process imports torch; every training here is a fork of it and really killed. About 2 s a training.
"""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from huggingface_hub import CommitOperationAdd
from s3_server import bucket
from tiny_model import (
    MODEL_ID,
    SEQ2SEQ_ID,
    Bench,
    hub_with_model,
    pairs,
    publish_model,
    rows,
    summaries,
    write_seq2seq_model,
)
from zygote import Zygote, point

from trainer.job import file_sha256

pytest_plugins = ("trainer_fixtures",)

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

# What is the same to the bit; the state of the trainer holds the curve, which is compared for itself.
FIGURES = ("train_loss", "eval_loss", "steps", "tokens_seen", "best_step")
SAME = ("model", "adapter_model", "optimizer", "scheduler", "rng_state")

IN_THE_WEIGHTS = point("transformers:Trainer._save_optimizer_and_scheduler", call=2)
IN_THE_STATE = point("transformers:Trainer._save_rng_state", call=2)
BEFORE_THE_MARKER = point("trainer.watch.callback.mark_complete", call=2)
AFTER_THE_MARKER = point("trainer.watch.callback.mark_complete", call=2, when="after")
IN_A_REMOVAL = point("shutil.rmtree")


@dataclass(frozen=True, kw_only=True)
class Case:
    """`dies` is where the first attempt is killed, `resumes` the step that the second one has to find."""

    dies: dict[str, object]
    resumes: int
    method: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    lines: Callable[[], list[dict[str, Any]]] = rows
    held_out: float = 0.0


CASES = {
    "lora, dropout, killed in a step": Case(
        dies=point("transformers:Trainer.training_step", call=7),
        resumes=2,
        method={"dropout": 0.2},
        train={"eval_steps": 3},
        held_out=0.125,
    ),
    "qlora, 8-bit moments, killed between weights and optimizer": Case(
        dies=IN_THE_WEIGHTS, resumes=2, method={"kind": "qlora"}, train={"optim": "paged_adamw_8bit"}
    ),
    "full, killed in the middle of the state": Case(dies=IN_THE_STATE, resumes=2, method={"kind": "full"}),
    "lora, packed, killed before the marker": Case(dies=BEFORE_THE_MARKER, resumes=2, train={"packing": True}),
    "dpo, killed between weights and optimizer": Case(
        dies=IN_THE_WEIGHTS, resumes=2, more={"task": "dpo"}, lines=pairs, method={"dropout": 0.1}
    ),
    "seq2seq, dropout of the model itself, killed right after the marker": Case(
        dies=AFTER_THE_MARKER,
        resumes=4,
        method={"kind": "full"},
        more={"task": "seq2seq", "model": {"id": SEQ2SEQ_ID}, "seq2seq": {"max_target_length": 12}},
        lines=summaries,
    ),
    "lora, stopped early, killed between two evaluations": Case(
        dies=point("transformers:Trainer.training_step", call=10),
        resumes=4,
        train={"max_steps": 40, "learning_rate": 0.1, "eval_steps": 2, "early_stopping_patience": 2, "save_steps": 4},
        held_out=0.125,
    ),
    "lora, across an epoch, killed in a removal": Case(
        dies=IN_A_REMOVAL, resumes=16, train={"max_steps": 18, "save_steps": 4, "determinism": "strict"}
    ),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("resume")
    with hub_with_model(folder) as hub:
        write_seq2seq_model(folder / "t5")
        publish_model(hub.alice, folder / "t5", SEQ2SEQ_ID)
        yield hub


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_killed_and_resumed_equals_unbroken_to_the_bit(
    case: Case, hub: Hub, home: Path, forks: Zygote, tmp_path: Path
) -> None:
    whole, broken = (Bench(tmp_path / name, hub, home) for name in ("whole", "broken"))
    for bench in (whole, broken):
        bench.write(
            case.lines(), method=case.method, train=case.train, data={"eval_fraction": case.held_out}, **case.more
        )
    assert forks.train(whole.command(), whole.root) == 0, log(whole)
    assert forks.train(broken.command(), broken.root, at=case.dies) == -signal.SIGKILL, log(broken)
    assert forks.train(broken.command(2), broken.root) == 0, log(broken)
    result = broken.file("result.json", attempt=2)["metrics"]
    assert result["resumed_from_step"] == case.resumes
    assert last_bytes(broken) == last_bytes(whole)
    assert curve(broken, 1, 2) == curve(whole, 1)
    assert published(broken) == published(whole)
    assert_locked(whole, broken, strict=case.train.get("determinism") == "strict")
    unbroken = whole.file("result.json")["metrics"]
    assert {key: result.get(key) for key in FIGURES} == {key: unbroken.get(key) for key in FIGURES}


def test_a_training_goes_on_though_its_machine_and_disk_are_gone(
    hub: Hub, home: Path, forks: Zygote, tmp_path: Path
) -> None:
    """publish.hub_strategy: checkpoint. Killed when the second copy is on the Hub; nothing of the disk is left."""
    whole, broken = (Bench(tmp_path / name, hub, home) for name in ("whole", "broken"))
    for bench in (whole, broken):
        repo = f"demo/copied-{bench.root.name}"
        bench.write(
            method={"dropout": 0.2},
            train={"max_steps": 40},
            publish={"repo": repo, "hub_strategy": "checkpoint"},
            data={"eval_fraction": 0.0},
        )
    environ = {"PUSHTRAIN_RUN_ID": "tiny-run"}
    assert forks.train(whole.command(), whole.root, environ=environ) == 0, log(whole)
    dies = point("trainer.copies.hub.commit_files", call=2, when="after")
    assert forks.train(broken.command(), broken.root, at=dies, environ=environ) == -signal.SIGKILL, log(broken)
    names = hub.alice.list_repo_files("demo/copied-broken", revision="checkpoint/tiny-run")
    (step,) = {int(name.partition("/")[0][11:]) for name in names if name.startswith("checkpoint-")}
    assert step > 2
    shutil.rmtree(broken.run_dir)
    assert forks.train(broken.command(2), broken.root, environ=environ) == 0, log(broken)
    assert broken.file("result.json", attempt=2)["metrics"]["resumed_from_step"] == step
    assert last_bytes(broken) == last_bytes(whole) and published(broken) == published(whole)
    for bench in (whole, broken):
        assert "checkpoint/tiny-run" not in [
            it.name for it in hub.alice.list_repo_refs(f"demo/copied-{bench.root.name}").branches
        ]


def test_a_training_goes_on_from_a_bucket_though_its_machine_and_disk_are_gone(
    hub: Hub, home: Path, forks: Zygote, tmp_path: Path
) -> None:
    """publish.checkpoints. Killed when the second copy has its marker; nothing of the disk is left."""
    whole, broken = (Bench(tmp_path / name, hub, home) for name in ("whole", "broken"))
    with bucket("copies", access_key="AKIDCOPIES", secret_key="canary-secret-of-copies") as store:
        environ = {
            "PUSHTRAIN_RUN_ID": "tiny-run",
            "PUSHTRAIN_CHECKPOINTS_AWS_ACCESS_KEY_ID": store.access_key,
            "PUSHTRAIN_CHECKPOINTS_AWS_SECRET_ACCESS_KEY": store.secret_key,
            "PUSHTRAIN_CHECKPOINTS_AWS_ENDPOINT_URL": store.url,
        }
        for bench in (whole, broken):
            publish = {"repo": f"demo/bucket-{bench.root.name}", "checkpoints": f"s3://copies/{bench.root.name}"}
            method, data = {"dropout": 0.2}, {"eval_fraction": 0.0}
            bench.write(method=method, train={"max_steps": 40}, publish=publish, data=data)
        assert forks.train(whole.command(), whole.root, environ=environ) == 0, log(whole)
        assert store.objects == {}, "removed once the result is published"
        dies = point("trainer.copies.bucket:BucketCopies._prune", call=2, when="after")
        assert forks.train(broken.command(), broken.root, at=dies, environ=environ) == -signal.SIGKILL, log(broken)
        markers = [key for key in store.objects if key.endswith("/COMPLETE.json")]
        step = max(int(key.split("/")[2][11:]) for key in markers)
        assert len(markers) == 2 and step > 2
        shutil.rmtree(broken.run_dir)
        assert forks.train(broken.command(2), broken.root, environ=environ) == 0, log(broken)
        assert broken.file("result.json", attempt=2)["metrics"]["resumed_from_step"] == step
        assert last_bytes(broken) == last_bytes(whole) and published(broken) == published(whole)
        assert store.objects == {} and store.refused == []
        told = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
        assert "canary-secret" not in told


def test_a_replay_trains_on_what_the_first_run_found_and_publishes_beside_it(
    hub: Hub, home: Path, forks: Zygote, tmp_path: Path
) -> None:
    first, second = (Bench(tmp_path / name, hub, home) for name in ("first", "second"))
    for bench in (first, second):
        bench.write(train={"max_steps": 2}, publish={"repo": "demo/replayed"}, data={"eval_fraction": 0.0})
    assert forks.train(first.command(), first.root) == 0, log(first)
    before = first.file("result.json")
    moved = hub.alice.create_commit(MODEL_ID, [CommitOperationAdd("note.txt", b"main moved on")], commit_message="note")
    main = hub.alice.model_info("demo/replayed").sha
    replay = json.dumps({"of": "first", "pins": before["lock"]["pins"]})
    environ = {"PUSHTRAIN_REPLAY": replay, "PUSHTRAIN_RUN_ID": "tiny-r2"}
    assert forks.train(second.command(), second.root, environ=environ) == 0, log(second)
    after = second.file("result.json")
    assert after["lock"]["model"] == before["lock"]["model"] != {**before["lock"]["model"], "commit": moved.oid}
    assert published(second) == published(first)
    assert after["promotion"]["revision"] is None and before["promotion"]["revision"] == main
    assert hub.alice.model_info("demo/replayed").sha == main, "the first run's result is what people download"
    assert hub.alice.model_info("demo/replayed", revision="run/tiny-r2").sha == after["adapter"]["revision"]


def assert_locked(whole: Bench, broken: Bench, *, strict: bool) -> None:
    """Every attempt says what it ran with, also the one that was killed; the same where nothing was changed."""
    lock = json.loads((whole.run_dir / "attempt-1" / "lock.json").read_text())
    model_id = lock["model"]["id"]
    commit = whole.hub.alice.model_info(model_id).sha
    assert lock["model"] == {"id": model_id, "revision": "main", "commit": commit}
    assert lock["data"]["version"] == f"sha256:{file_sha256(whole.root / 'data' / 'rows.jsonl')}"
    assert lock["floating"] == ["model.revision 'main' is no commit of 40 digits"]
    assert lock["libraries"]["torch"].startswith("2.") and lock["machine"]["gpus"] == []
    assert lock["seeds"]["train.seed"] == 17
    assert lock["determinism"]["algorithms"] == strict
    assert lock["determinism"]["CUBLAS_WORKSPACE_CONFIG"] == (":4096:8" if strict else None)
    assert whole.file("result.json")["lock"] == lock
    for attempt in (1, 2):
        assert json.loads((broken.run_dir / f"attempt-{attempt}" / "lock.json").read_text()) == lock
        (told,) = (event for event in broken.file("events.jsonl", attempt) if event["state"] == "training")
        assert told["data"]["lock"] == lock


def last_bytes(bench: Bench) -> dict[str, str]:
    """SHA-256 of everything that the next step would depend on, as the last checkpoint's marker has it."""
    newest = max(bench.run_dir.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name[11:]))
    files = json.loads((newest / "COMPLETE.json").read_text())["files"]
    found = {name: entry["sha256"] for name, entry in files.items() if name.split(".")[0] in SAME}
    assert len(found) == 4, files
    return found


def published(bench: Bench) -> str:
    return next(
        json.loads((bench.run_dir / f"attempt-{attempt}" / "result.json").read_text())["adapter"]["files"][name]
        for attempt in (2, 1)
        if (bench.run_dir / f"attempt-{attempt}" / "result.json").exists()
        for name in ("adapter_model.safetensors", "model.safetensors")
        if (bench.run_dir / "adapter" / name).exists()
    )


def curve(bench: Bench, *attempts: int) -> dict[int, tuple[Any, ...]]:
    """Loss, learning rate and gradient norm by step; where two attempts trained the same step they say the same."""
    rows: dict[int, tuple[Any, ...]] = {}
    for attempt in attempts:
        for row in bench.file("metrics.jsonl", attempt) or []:
            if "loss" in row:
                said = (row["loss"], row["learning_rate"], row["grad_norm"], row["epoch"])
                assert rows.setdefault(row["step"], said) == said
    return rows


def log(bench: Bench) -> str:
    return (bench.root / "log").read_text()[-3000:]
