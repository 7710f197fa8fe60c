"""What a run leaves behind: the merged model, the gates before main, the card, and what the repository had before."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from huggingface_hub import CommitOperationAdd
from tiny_model import Bench, hub_with_model, pairs, publish_model, spec, write_model

from pushtrain.errors import SpecError
from pushtrain.spec.file import loads
from pushtrain.spec.publish import Promote
from trainer.failures import AdapterBroken, OutOfMemory
from trainer.gates import judged

pytest_plugins = ("trainer_fixtures",)

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

DIVIDED: dict[str, Any] = {"train": {"parallel": "fsdp2"}, "compute": {"count": 2}}
CARD = "---\nlicense: apache-2.0\n---\n# Tiny\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("results")
    with hub_with_model(folder) as hub:
        (folder / "model" / "README.md").write_text(CARD)
        publish_model(hub.alice, folder / "model")
        yield hub


def test_a_qlora_adapter_is_merged_onto_the_base_it_learned_beside(bench: Bench, hub: Hub) -> None:
    bench.write(method={"kind": "qlora"}, publish={"repo": "demo/merged", "merge": True})
    assert bench.run() == 0
    result = bench.file("result.json")
    merged = result["merged"]
    assert merged["base"] == "dequantized 4-bit"
    assert 0 < merged["tolerance"] <= 1e-4 and merged["from_trained"] <= merged["tolerance"]
    files = result["adapter"]["files"]
    assert {"config.json", "model.safetensors", "adapter/adapter_model.safetensors", "README.md"} <= files.keys()
    assert "adapter/README.md" not in files, "PEFT's card says that more information is needed"
    assert "adapter_config.json" not in files, "transformers would look for an adapter beside the model"
    assert set(hub.alice.list_repo_files("demo/merged")) - {".gitattributes"} == files.keys()
    assert answers(bench.run_dir / "merged", result) == [sample["adapter"] for sample in result["samples"]]
    assert "quantization_config" not in json.loads((bench.run_dir / "merged" / "config.json").read_text())


def test_in_bf16_a_merge_is_rounded_and_within_what_is_allowed(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does, with bf16 autocast on the CPU."""
    for module in ("model", "arguments", "evaluate"):
        monkeypatch.setattr(f"trainer.{module}.uses_bf16", lambda _: True)
    write_model(bench.root / "half", dtype="bfloat16")
    publish_model(hub.alice, bench.root / "half", "demo/half")
    bench.write(
        model={"id": "demo/half"}, method={"kind": "qlora"}, publish={"repo": "demo/half-merged", "merge": True}
    )
    assert bench.run() == 0
    merged = bench.file("result.json")["merged"]
    assert merged["dtype"] == "bfloat16"
    assert max(merged["difference"], merged["from_trained"]) <= merged["tolerance"] == 2**-4


def test_onto_the_original_base_it_says_something_else_and_how_much(bench: Bench) -> None:
    publish = {"repo": "demo/original", "merge": True, "merge_base": "original"}
    bench.write(method={"kind": "qlora"}, train={"max_steps": 2}, publish=publish)
    assert bench.run() == 0
    merged = bench.file("result.json")["merged"]
    assert merged["difference"] <= merged["tolerance"] < merged["from_trained"]
    assert f"within {merged['from_trained']:.2%} of the model as it was trained" in card(bench)


def test_of_a_merged_model_that_says_something_else_the_adapter_alone_is_published(
    bench: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.merge.MAX_DIFFERENCE", -1.0)
    bench.write(train={"max_steps": 1}, publish={"repo": "demo/broken-merge", "merge": True})
    assert bench.run() == 1
    failure = bench.file("failure.json")
    assert failure["reason"] == AdapterBroken.reason and "run/run, in adapter/" in failure["message"]
    kept = hub.alice.list_repo_files("demo/broken-merge", revision="run/run")
    assert "adapter/adapter_model.safetensors" in kept and "model.safetensors" not in kept
    assert hub.alice.list_repo_files("demo/broken-merge") == [".gitattributes"]


def test_a_machine_without_memory_to_merge_is_known_before_the_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trainer.preflight import check_disk, machine_memory_bytes

    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "meminfo").write_text("MemTotal:  500 kB\nMemFree: 1 kB\n")
    assert machine_memory_bytes(tmp_path, tmp_path / "meminfo") == 500 * 1024
    (tmp_path / "memory.max").write_text("400000\n")
    assert machine_memory_bytes(tmp_path, tmp_path / "meminfo") == 400_000
    monkeypatch.setattr("trainer.preflight.machine_memory_bytes", lambda: 400_000)
    bench.write()
    check_disk(bench.job())
    bench.write(publish={"merge": True})
    with pytest.raises(OutOfMemory, match=r"publish\.merge needs"):
        check_disk(bench.job())


def test_a_gate_that_does_not_hold_keeps_main_as_it_was_and_one_that_holds_replaces_it(bench: Bench, hub: Hub) -> None:
    hub.alice.create_repo("demo/gated")
    before = [CommitOperationAdd(name, b"{}") for name in ("config.json", "LICENSE", "adapter_config.json")]
    first = hub.alice.create_commit("demo/gated", before, commit_message="an earlier result").oid
    gates = {"promote": {"eval_loss_below": 1.0}}
    bench.write(train={"max_steps": 2}, publish={"repo": "demo/gated", **gates})
    assert bench.run(PUSHTRAIN_RUN_ID="gated-1") == 0
    result = bench.file("result.json")
    [gate] = result["promotion"]["gates"]
    assert (result["promotion"]["revision"], gate["holds"]) == (None, False)
    assert gate["found"] == result["metrics"]["eval_loss"]
    assert hub.alice.model_info("demo/gated").sha == first
    assert result["adapter"]["revision"] == hub.alice.model_info("demo/gated", revision="run/gated-1").sha
    assert "below 1 does not hold" in card(bench)
    bench.write(train={"max_steps": 2}, publish={"repo": "demo/gated", "promote": {"eval_loss_below": 100.0}})
    assert bench.run(attempt=2, PUSHTRAIN_RUN_ID="gated-2") == 0
    promoted = bench.file("result.json", attempt=2)["promotion"]["revision"]
    assert promoted == hub.alice.model_info("demo/gated").sha
    names = set(hub.alice.list_repo_files("demo/gated"))
    assert {"LICENSE", "adapter_config.json"} <= names
    assert "config.json" not in names, "a whole model's file from an earlier result, beside the adapter"


def test_the_card_says_whose_licence_it_stays_under_and_what_made_it(bench: Bench) -> None:
    bench.write(pairs(), task="dpo", train={"max_steps": 1, "learning_rate": 0.01}, publish={"repo": "demo/card"})
    assert bench.run() == 0
    text, result = card(bench), bench.file("result.json")
    lock = json.loads((bench.run_dir / "lock.json").read_text())
    for part in ("license: apache-2.0", "base_model_relation: adapter", "- dpo", f"sha256:{lock['spec']}", "beta 0.1"):
        assert part in text
    assert f"torch {lock['libraries']['torch']}" in text and "no GPU" in text
    accuracy = result["metrics"]["reward_accuracy"]
    assert f"| held-out pairs whose chosen answer gained more | {0:.4f} | {accuracy:.4f} |" in text
    assert "receipt.json of the ledger" in text and 'revision="run/run"' in text


def test_a_figure_nobody_has_opens_no_gate() -> None:
    promote = Promote(eval_loss_below=2.0, reward_accuracy_above=0.5)
    gates = judged(promote, {"eval_loss": 1.0, "reward_accuracy": None})
    assert [gate.holds for gate in gates] == [True, False]
    assert str(gates[1]) == "reward_accuracy is not known, above 0.5 does not hold"
    assert judged(None, {}) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"publish": {"promote": {}}}, "needs a gate"),
        ({"publish": {"promote": {"rouge_l_above": 0.3}}}, "rouge_l_above is for task seq2seq"),
        ({"publish": {"promote": {"eval_loss_below": 2.0}}, "data": {"eval_fraction": 0}}, "no gate could hold"),
        ({"publish": {"merge": True}, "method": {"kind": "full"}}, "no adapter to merge"),
        ({"publish": {"merge": True, "merge_base": "original"}}, "is for method qlora"),
        ({"publish": {"merge": True}, **DIVIDED}, "without publish.merge"),
        ({"task": "dpo", **DIVIDED}, "is for task sft"),
    ],
)
def test_what_could_never_be_done_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        loads(json.dumps(spec(**changes)), "jobs/tiny.yaml")


def card(bench: Bench) -> str:
    folder = "merged" if bench.job().spec.publish.merge else "adapter"
    return (bench.run_dir / folder / "README.md").read_text()


def answers(folder: Path, result: dict[str, Any]) -> list[str]:
    """What transformers alone says of the samples' prompts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for sample in result["samples"]:
        ids = tokenizer(sample["prompt"], return_tensors="pt")["input_ids"]
        answer = model.generate(input_ids=ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
        found.append(tokenizer.decode(answer, skip_special_tokens=True).strip())
    return found
