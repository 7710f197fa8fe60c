"""Preferences and encoder-decoders as whole runs of tiny models: trained, resumed, judged, loaded again."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_curves import follows_golden_curve
from hub_server import Hub
from tiny_model import (
    SEQ2SEQ_ID,
    Bench,
    hub_with_model,
    pairs,
    publish_model,
    rows,
    spec,
    summaries,
    write_bart_like_model,
    write_seq2seq_model,
)

from pushtrain.errors import SpecError
from pushtrain.spec import TrainingSpec
from pushtrain.spec.file import loads
from trainer.job import file_sha256

pytest_plugins = ("trainer_fixtures",)

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

DPO = {"task": "dpo", "train": {"learning_rate": 0.01}}
SEQ2SEQ = {
    "task": "seq2seq",
    "model": {"id": SEQ2SEQ_ID},
    "seq2seq": {"source_prefix": "summarize: ", "max_target_length": 12, "num_beams": 2},
    "train": {"learning_rate": 0.02},
}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dpo-lora": (DPO, {}),
    "dpo-qlora": (DPO, {"kind": "qlora"}),
    "dpo-full": ({**DPO, "dpo": {"loss_type": ["sigmoid", "sft"], "precompute_ref_log_probs": True}}, {"kind": "full"}),
    "dpo-pissa": (DPO, {"init_lora_weights": "pissa"}),
    "seq2seq-full": (SEQ2SEQ, {"kind": "full"}),
    "seq2seq-lora": (SEQ2SEQ, {}),
}

# Of the others it is the same code: what is kept beside the checkpoints, and the reference, is theirs alone.
RESUMED = ("dpo-qlora", "dpo-pissa", "dpo-full", "seq2seq-full")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("tasks")
    with hub_with_model(folder) as hub:
        write_seq2seq_model(folder / "t5")
        publish_model(hub.alice, folder / "t5", SEQ2SEQ_ID)
        yield hub


@pytest.mark.parametrize("name", RUNS)
def test_a_task_follows_its_golden_curve_and_where_it_could_differ_resumes_to_the_same_bytes(
    bench: Bench, name: str
) -> None:
    changes, method = RUNS[name]
    lines = pairs() if changes["task"] == "dpo" else summaries()
    bench.write(lines, **changes, method=method, publish={"repo": f"demo/{name}"})
    assert bench.run() == 0
    follows_golden_curve(bench, name)
    metrics = bench.file("result.json")["metrics"]
    assert metrics["eval_loss"] < metrics["base_eval_loss"]
    if name.startswith("dpo"):
        assert metrics["reward_accuracy"] > 0.5 and metrics["reward_margin"] > 0
    if changes["task"] == "dpo" and "dpo" not in changes:
        assert metrics["base_eval_loss"] == pytest.approx(math.log(2), abs=1e-3), "the reference is the base"
    if name not in RESUMED:
        return
    [weights] = (bench.run_dir / "adapter").glob("*.safetensors")
    unbroken = file_sha256(weights)
    shutil.rmtree(bench.run_dir / "checkpoints" / "checkpoint-6")
    assert bench.run(attempt=2) == 0
    assert bench.file("result.json", attempt=2)["metrics"] == {**metrics, "resumed_from_step": 4}
    assert file_sha256(weights) == unbroken


@pytest.mark.parametrize(("kind", "method"), [("bart", {}), ("pegasus", {"kind": "full"})])
def test_the_other_encoder_decoders_train_and_are_scored_too(
    bench: Bench, hub: Hub, tmp_path: Path, kind: str, method: dict[str, Any]
) -> None:
    write_bart_like_model(tmp_path / kind, kind)
    publish_model(hub.alice, tmp_path / kind, f"demo/tiny-{kind}")
    changes = {**SEQ2SEQ, "model": {"id": f"demo/tiny-{kind}"}, "train": {"max_steps": 4, "learning_rate": 0.02}}
    bench.write(summaries(), **changes, method=method, publish={"repo": f"demo/{kind}"})
    assert bench.run() == 0
    metrics = bench.file("result.json")["metrics"]
    assert metrics["eval_loss"] < metrics["base_eval_loss"]
    assert {"rouge_1", "rouge_2", "rouge_l", "base_rouge_l"} <= metrics.keys()


def test_rouge_is_what_google_s_scorer_says() -> None:
    from trainer.tasks.seq2seq import rouge

    scores = rouge(["the cat sat", "no"], ["the cat sat down", "yes"])
    assert scores == pytest.approx({"rouge_1": (6 / 7) / 2, "rouge_2": (4 / 5) / 2, "rouge_l": (6 / 7) / 2})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dpo": {"beta": 0.2}}, "dpo is for task dpo, this is sft"),
        ({"task": "dpo", "seq2seq": {}}, "seq2seq is for task seq2seq, this is dpo"),
        ({"task": "dpo", "train": {"packing": True}}, "is for task sft, this is dpo"),
        ({"train": {"early_stopping_patience": 2}}, "it needs eval_steps"),
        ({"train": {"early_stopping_threshold": 0.1}}, "is for early_stopping_patience"),
        (
            {"train": {"early_stopping_patience": 2, "eval_steps": 5}, "data": {"eval_fraction": 0}},
            "train.early_stopping_patience needs held-out rows: data.eval_fraction is 0",
        ),
        ({"train": {"eval_steps": 5}, "data": {"eval_fraction": 0}}, "train.eval_steps needs held-out rows"),
        ({"task": "dpo", "dpo": {"loss_type": ["exo_pair"]}}, "needs label_smoothing"),
        ({"task": "dpo", "dpo": {"label_smoothing": 0.1}}, "label_smoothing does nothing"),
        ({"task": "dpo", "dpo": {"loss_weights": [1.0, 2.0]}}, "2 numbers for 1 losses"),
    ],
)
def test_keys_of_another_task_or_that_do_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        loads(json.dumps(spec(**changes)), "jobs/tiny.yaml")


def test_the_learning_rate_left_out_suits_task_and_method() -> None:
    def rate(task: str, kind: str) -> float:
        document = spec(task=task, method={"kind": kind})
        del document["train"]["learning_rate"]
        loaded = loads(json.dumps(document), "jobs/tiny.yaml")
        assert isinstance(loaded, TrainingSpec)
        return loaded.learning_rate

    assert [rate(task, "qlora") for task in ("sft", "dpo", "seq2seq")] == [2e-4, 5e-6, 1e-3]
    assert [rate(task, "full") for task in ("sft", "dpo", "seq2seq")] == [2e-5, 5e-7, 1e-4]


def test_a_row_of_another_form_and_pairs_cut_to_nothing_are_refused(bench: Bench) -> None:
    bench.write(rows(), **DPO)
    assert bench.run() == 2
    assert "task dpo takes preference" in bench.file("failure.json")["message"]
    bench.write(pairs()[1::2], **{**DPO, "train": {"max_length": 8}})
    assert bench.run(attempt=2) == 2
    assert "max_length" in bench.file("failure.json", attempt=2)["message"]
