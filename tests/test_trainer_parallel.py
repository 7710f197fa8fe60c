"""Several processes train what one does: DDP, and weights divided by FSDP2 or ZeRO-3; here on the CPU, over gloo.

Equal means equal to rounding: the sums of gradients are taken in another order. One process imports torch, the rest are
forks of it.
"""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from tiny_model import Bench
from zygote import Zygote

from trainer.checkpoint import RESUME_FROM

pytest_plugins = ("trainer_fixtures",)

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

# Share of a loss, and of the largest weight: fp32 has 2⁻²⁴, and six steps of Adam blow a last bit up.
LOSS, WEIGHT = 1e-5, 1e-3
FOUR_ROWS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


def bench_of(hub: Hub, home: Path, folder: Path, parallel: str | None, **changes: Any) -> Bench:
    """Four rows a step, in one process or in two of half the accumulation each."""
    bench = Bench(folder, hub, home)
    train = {**FOUR_ROWS, **changes.pop("train", {})}
    if parallel is not None:
        train |= {"gradient_accumulation_steps": 1, "parallel": parallel}
        changes["compute"] = {"gpus": ["NVIDIA A40"], "count": 2}
    bench.write(train=train, publish={"repo": f"demo/{folder.parent.name[:40]}-{folder.name}"}, **changes)
    hub.alice.create_repo(f"demo/{folder.parent.name[:40]}-{folder.name}", exist_ok=True)
    return bench


@pytest.fixture(scope="module")
def alone(hub: Hub, home: Path, forks: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """What one process makes of it, by method; trained once."""
    made: dict[str, Bench] = {}

    def bench(kind: str) -> Bench:
        if kind not in made:
            made[kind] = bench_of(hub, home, tmp_path_factory.mktemp("alone") / kind, None, method={"kind": kind})
            assert forks.train(made[kind].command(), made[kind].root) == 0, log(made[kind])
        return made[kind]

    return bench


with_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="deepspeed is not installed (uv sync --all-extras; it compiles for minutes)",
)


@pytest.mark.parametrize(
    ("parallel", "kind"),
    [
        ("ddp", "lora"),
        ("fsdp2", "lora"),
        ("fsdp2", "full"),
        pytest.param("deepspeed_zero3", "lora", marks=with_deepspeed),
        pytest.param("deepspeed_zero3", "full", marks=with_deepspeed),
    ],
)
def test_two_processes_train_as_one_does_and_resume_to_the_same_bytes(
    parallel: str, kind: str, hub: Hub, home: Path, forks: Zygote, alone: Callable[[str], Bench], tmp_path: Path
) -> None:
    """Rows of different lengths, so that a loss averaged by process and not by token would show."""
    one = alone(kind)
    two = bench_of(hub, home, tmp_path / "two", parallel, method={"kind": kind})
    both = {"processes": 2, "gloo_as_gpu": parallel != "ddp"}
    assert forks.train(two.command(), two.root, environ={RESUME_FROM: ""}, **both) == 0, log(two)
    assert losses(two) == pytest.approx(losses(one), rel=LOSS)
    for metric in ("eval_loss", "train_loss"):
        assert two.file("result.json")["metrics"][metric] == pytest.approx(
            one.file("result.json")["metrics"][metric], rel=LOSS
        )
    assert_close(one, two)
    assert log(two).count("step 6/6") == 1
    assert two.file("result.json")["samples"] and two.file("result.json")["lock"]["parallel"] == parallel
    names = {path.name for path in (two.run_dir / "checkpoints" / "checkpoint-6").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "COMPLETE.json"} <= names

    before = files(two, 1)
    shutil.rmtree(two.run_dir / "adapter")
    shutil.rmtree(two.run_dir / "checkpoints" / "checkpoint-6")
    # Killed between the state of all and the marker: what is left is the checkpoint before.
    (two.run_dir / "checkpoints" / "checkpoint-4" / "COMPLETE.json").unlink()
    assert forks.train(two.command(2), two.root, environ={RESUME_FROM: "checkpoint-2"}, **both) == 0, log(two)
    assert two.file("result.json", attempt=2)["metrics"]["resumed_from_step"] == 2
    assert files(two, 2) == before
    # And from the very end, where only evaluation and upload are left.
    assert forks.train(two.command(3), two.root, environ={RESUME_FROM: "checkpoint-6"}, **both) == 0, log(two)
    assert files(two, 3) == before


def test_two_processes_stop_early_together_and_publish_the_best_step(
    hub: Hub, home: Path, forks: Zygote, tmp_path: Path
) -> None:
    train = {"max_steps": 40, "learning_rate": 0.1, "eval_steps": 2, "early_stopping_patience": 2, "save_steps": 50}
    two = bench_of(hub, home, tmp_path / "early", "ddp", train=train)
    assert forks.train(two.command(), two.root, environ={RESUME_FROM: ""}, processes=2) == 0, log(two)
    metrics = two.file("result.json")["metrics"]
    assert metrics["best_step"] < metrics["steps"] < 40
    seen = {row["step"]: row["eval_loss"] for row in two.file("metrics.jsonl")[:-1] if "eval_loss" in row}
    assert metrics["eval_loss"] == pytest.approx(min(seen.values()), rel=LOSS)
    assert seen[metrics["best_step"]] == min(seen.values())


def assert_close(one: Bench, two: Bench) -> None:
    from safetensors.torch import load_file

    for path in (one.run_dir / "adapter").glob("*.safetensors"):
        ours, theirs = load_file(path), load_file(two.run_dir / "adapter" / path.name)
        assert ours.keys() == theirs.keys()
        largest = max(float(weight.abs().max()) for weight in ours.values())
        apart = max(float((weight - theirs[name]).abs().max()) for name, weight in ours.items())
        assert apart <= WEIGHT * largest, apart / largest


def files(bench: Bench, attempt: int) -> dict[str, str]:
    published: dict[str, str] = bench.file("result.json", attempt)["adapter"]["files"]
    found = {name: sha256 for name, sha256 in published.items() if name.endswith(".safetensors")}
    assert found
    return found


def losses(bench: Bench) -> list[float]:
    return [row["loss"] for row in bench.file("metrics.jsonl") if "loss" in row]


def log(bench: Bench) -> str:
    text = (bench.root / "log").read_text()
    return text if len(text) < 6000 else f"{text[:1500]}\n…\n{text[-4500:]}"
