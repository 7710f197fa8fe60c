"""Bad input as its user meets it: one job each, and in its failure what is wrong, where, and what to do.

Cards without bf16 and bitsandbytes without kernels are in test_trainer_gate.py, whole specs in test_spec.py.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hub_server import STRANGER, Hub
from tiny_model import MODEL_ID, Bench, hub_with_model, publish_model, rows, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NO_END, NO_TEMPLATE, GATED = "demo/no-end", "demo/no-template", "demo/gated"
TURNS = [{"role": "user", "content": "what is red"}, {"role": "assistant", "content": "a bird"}]


@dataclass(frozen=True, kw_only=True)
class Bad:
    """`says` stands in the failure, `do` in what it proposes."""

    says: str
    do: str
    reason: str = "DatasetError"
    code: int = 2
    changes: dict[str, Any] = field(default_factory=dict)
    lines: Callable[[], list[dict[str, Any]]] = rows
    environ: dict[str, str] = field(default_factory=dict)


BAD = {
    "unknown target module": Bad(
        changes={"method": {"target_modules": ["q_proj", "v_prj"]}},
        reason="ModelUnsupported",
        says="method.target_modules: this model has no module 'v_prj'",
        do="modules of this model: q_proj, k_proj, v_proj, o_proj",
    ),
    "tokenizer without an end": Bad(
        changes={"model": {"id": NO_END}},
        reason="ModelUnsupported",
        says="the model's tokenizer has no end-of-sequence token",
        do="a model whose tokenizer names its eos_token",
    ),
    "messages without a chat template": Bad(
        changes={"model": {"id": NO_TEMPLATE}},
        lines=lambda: [{"messages": TURNS}] * 20,
        reason="ModelUnsupported",
        says="rows of messages need a chat template, the model's tokenizer has none",
        do="train.chat_template_path names one, or use rows of prompt and completion",
    ),
    "another form than the spec says": Bad(
        changes={"data": {"form": "messages"}},
        says="data/rows.jsonl:1: row 1: has the form prompt/completion, but data.form says messages",
        do="the fields of messages: messages",
    ),
    "max_length above the model's": Bad(
        changes={"train": {"max_length": 300}},
        reason="ModelUnsupported",
        says="train.max_length is 300, demo/tiny takes 256 tokens at most",
        do="max_length: 256 or less",
    ),
    "all rows truncated to nothing": Bad(
        changes={"train": {"max_length": 8}},
        lines=lambda: [{"prompt": "what is the red bird and the blue fish and the stone?", "completion": " no"}] * 20,
        says="no row has anything to learn within its first 8 tokens",
        do="raise train.max_length",
    ),
    "nothing to train": Bad(
        changes={"method": {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}},
        reason="ModelUnsupported",
        says="method on demo/tiny: ",
        do="linear layers of this model: q_proj",
    ),
    "a step larger than the dataset": Bad(
        changes={"train": {"gradient_accumulation_steps": 64, "packing": False}},
        says="an optimizer step takes 128 rows (2 × 64 × 1), there are 42 to train on",
        do="lower train.gradient_accumulation_steps",
    ),
    "gated model": Bad(
        changes={"model": {"id": GATED}, "publish": {"repo": "stranger/adapter"}},
        environ={"HF_TOKEN": STRANGER},
        reason="HubForbidden",
        code=1,
        says="model demo/gated is gated",
        do="accept its conditions on the Hub with the account HF_TOKEN belongs to",
    ),
    "wrong revision": Bad(
        changes={"model": {"id": MODEL_ID, "revision": "v9"}},
        reason="RevisionNotFound",
        says="model demo/tiny at v9: the Hub has no such revision",
        do="a branch, a tag or a commit that it has",
    ),
    "wrong revision of the dataset": Bad(
        changes={"data": {"source": "hf://datasets/demo/rows", "revision": "v9"}},
        reason="RevisionNotFound",
        says="dataset demo/rows at v9: the Hub has no such revision",
        do="a branch, a tag or a commit that it has",
    ),
    "somebody else's repository": Bad(
        changes={"publish": {"repo": "rita/hers"}},
        reason="HubForbidden",
        code=1,
        says="publish.repo rita/hers: the Hub answers 403",
        do="HF_TOKEN must be a valid token that may do this: write to publish.repo",
    ),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("refused")
    with hub_with_model(folder) as hub:
        hub.alice.create_repo("demo/rows", repo_type="dataset")
        for model_id, words in ((NO_END, {"eos_token": None}), (NO_TEMPLATE, {"chat_template": None}), (GATED, {})):
            changed = tokenizer()
            for name, value in words.items():
                setattr(changed, name, value)
            (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
            changed.save_pretrained(folder / "model")
            publish_model(hub.alice, folder / "model", model_id)
        hub.alice.update_repo_settings(GATED, gated="manual")
        yield hub


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_with_where_and_what_to_do(bad: Bad, hub: Hub, tmp_path: Path) -> None:
    bench = Bench(tmp_path, hub, tmp_path / "home")
    bench.write(bad.lines(), **bad.changes)
    assert bench.run(**bad.environ) == bad.code
    failure = bench.file("failure.json")
    assert failure["reason"] == bad.reason, failure
    what, _, todo = failure["message"].rpartition(" (")
    assert bad.says in what and bad.do in f"{what} ({todo}"
    assert bad.do not in bad.says
    assert not list(bench.run_dir.glob("checkpoints/*"))


def test_the_checkpoint_of_another_spec_is_refused_with_what_differs_and_stays(hub: Hub, tmp_path: Path) -> None:
    bench = Bench(tmp_path, hub, tmp_path / "home")
    bench.write(train={"max_steps": 2})
    assert bench.run() == 0
    bench.write(train={"max_steps": 2, "learning_rate": 0.001})
    assert bench.run(attempt=2) == 2
    failure = bench.file("failure.json", attempt=2)
    assert failure["reason"] == "OtherRecipe"
    assert "train.learning_rate" in failure["message"] and "another --run-dir" in failure["message"]
    marker = bench.run_dir / "checkpoints" / "checkpoint-2" / "COMPLETE.json"
    assert json.loads(marker.read_text())["recipe"]["train"]["learning_rate"] == 0.005


def test_a_tokenizer_without_padding_pads_with_its_end_and_learns_none_of_it(hub: Hub, tmp_path: Path) -> None:
    """No bad input any more: it is what everybody does by hand."""
    bench = Bench(tmp_path, hub, tmp_path / "home")
    changed = tokenizer()
    changed.pad_token = None
    folder = tmp_path / "no-pad"
    hub.alice.snapshot_download(MODEL_ID, local_dir=folder)
    changed.save_pretrained(folder)
    publish_model(hub.alice, folder, "demo/no-pad")
    bench.write(model={"id": "demo/no-pad"}, train={"max_steps": 2, "padding_free": False, "packing": False})
    assert bench.run() == 0
    assert bench.file("result.json")["metrics"]["eval_loss"] > 0
