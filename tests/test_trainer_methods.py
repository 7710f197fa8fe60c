"""Every way to change the weights, as whole runs of a tiny model, and as the layers it leaves in it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden_curves import follows_golden_curve
from hub_server import Hub
from tiny_model import MODEL_ID, Bench, spec

from pushtrain.errors import SpecError
from pushtrain.spec.file import loads
from trainer.failures import GpuIdle, ModelUnsupported
from trainer.job import file_sha256
from trainer.keep import keep_what_there_is
from trainer.report import Report

pytest_plugins = ("trainer_fixtures",)

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

# Each with the file whose bytes a resumed run has to make again.
RUNS: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {"kind": "qlora"},
    "full": {"kind": "full"},
    "pissa": {"init_lora_weights": "pissa", "use_rslora": True},
    "olora": {"init_lora_weights": "olora", "modules_to_save": ["embed_tokens"]},
    "qdora": {"kind": "qlora", "use_dora": True, "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    "layers": {"kind": "full", "trainable_parameters": ["model.layers.1.*", "*.norm.weight"]},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_method_follows_its_golden_curve_resumes_to_the_same_bytes_and_loads_with_plain_libraries(
    bench: Bench, name: str
) -> None:
    bench.write(method=RUNS[name], train={"max_steps": 4}, publish={"repo": f"demo/{name}"})
    assert bench.run() == 0
    follows_golden_curve(bench, f"sft-{name}")
    metrics = bench.file("result.json")["metrics"]
    assert metrics["eval_loss"] < metrics["base_eval_loss"]
    [weights] = (bench.run_dir / "adapter").glob("*.safetensors")
    unbroken = file_sha256(weights)
    shutil.rmtree(bench.run_dir / "checkpoints" / "checkpoint-4")
    shutil.rmtree(bench.run_dir / "adapter")
    assert bench.run(attempt=2) == 0
    resumed = bench.file("result.json", attempt=2)
    assert resumed["metrics"] == {**metrics, "resumed_from_step": 2}
    assert file_sha256(weights) == unbroken
    assert answers(bench, RUNS[name].get("kind") == "full") == [sample["adapter"] for sample in resumed["samples"]]


def test_an_adapter_that_began_as_a_part_of_the_base_is_published_for_the_whole_base(
    bench: Bench, tmp_path: Path
) -> None:
    bench.write(method={"init_lora_weights": "pissa_niter_2"}, train={"max_steps": 1})
    assert bench.run() == 0
    config = json.loads((bench.run_dir / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)
    assert_kept_of_a_stopped_training(bench, tmp_path)


def assert_kept_of_a_stopped_training(bench: Bench, tmp_path: Path) -> None:
    """Made from the checkpoint alone, it is what is published after the end; the checkpoint stays as it was."""
    checkpoint = bench.run_dir / "checkpoints" / "checkpoint-1" / "adapter_model.safetensors"
    before, job = file_sha256(checkpoint), bench.trained_job("stopped")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bench.environ().items():
            patch.setenv(name, value)
        keep_what_there_is(job, GpuIdle("idle"), Report(bench.run_dir / "attempt-2"))
    assert "revision run/stopped" in bench.file("failure.json", attempt=2)["message"]
    at = {"revision": "run/stopped", "local_dir": tmp_path / "kept"}
    kept = bench.hub.alice.hf_hub_download(job.spec.publish.repo, "adapter_model.safetensors", **at)
    assert file_sha256(Path(kept)) == bench.adapter_sha256() != before
    assert file_sha256(checkpoint) == before
    config = json.loads(
        Path(bench.hub.alice.hf_hub_download(job.spec.publish.repo, "adapter_config.json", **at)).read_text()
    )
    assert config["base_model_name_or_path"] == MODEL_ID and config["r"] == 8


def test_names_that_are_not_the_models_are_refused_with_those_it_has(hub: Hub, home: Path, tmp_path: Path) -> None:
    wrong = {
        "target_modules": (["q_proj", "wq"], "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"),
        "modules_to_save": (["head"], "embed_tokens"),
        "layers_to_transform": ([2], "0 to 1"),
        "exclude_modules": (["lm.head"], "lm_head"),
    }
    for key, (value, said) in wrong.items():
        with pytest.raises(ModelUnsupported) as refused:
            attach(Bench(tmp_path, hub, home), {key: value})
        assert key in str(refused.value) and said in f"{refused.value} {refused.value.hint}"
    with pytest.raises(ModelUnsupported, match="output layer lm_head"):
        attach(Bench(tmp_path, hub, home), {"target_modules": ["lm_head"]})
    with pytest.raises(ModelUnsupported, match="no weight is called"):
        attach(Bench(tmp_path, hub, home), {"kind": "full", "trainable_parameters": ["model.layer.1.*"]})
    with pytest.raises(ModelUnsupported, match=r"lm_head|No modules|excluded"):
        attach(Bench(tmp_path, hub, home), {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]})


def test_the_keys_of_method_reach_the_layers_they_name(hub: Hub, home: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path, hub, home)
    model = attach(bench, {"exclude_modules": ["down_proj"], "layers_to_transform": [1], "use_rslora": True})
    adapted = {name.split(".lora_")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.rpartition(".")[2] for name in adapted} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
    }
    assert all(".layers.1." in name for name in adapted)
    assert model.get_submodule(sorted(adapted)[0]).scaling["default"] == 8 / 4**0.5
    model = attach(bench, {"modules_to_save": ["lm_head"], "init_lora_weights": "gaussian"})
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert [name for name in trained if "lora_" not in name] == [
        "base_model.model.lm_head.modules_to_save.default.weight"
    ]
    model = attach(bench, {"kind": "full", "trainable_parameters": ["*norm*"]})
    assert all("norm" in name for name, weight in model.named_parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"kind": "full", "use_dora": True}, "use_dora would do nothing"),
        ({"trainable_parameters": ["*"]}, "is for kind full"),
        ({"kind": "qlora", "init_lora_weights": "pissa"}, "16-bit base"),
        ({"use_dora": True, "init_lora_weights": "olora"}, "no plain base could load"),
        ({"init_lora_weights": "orthogonal", "rank": 3}, "even rank"),
        ({"init_lora_weights": "loftq"}, "must be default, gaussian, .*PEFT's loftq is not offered"),
        ({"init_lora_weights": "eva"}, "PEFT's eva is not offered, it passes over the data"),
        ({"init_lora_weights": "pissa_niter_0"}, "must match"),
    ],
)
def test_keys_that_would_do_nothing_or_harm_are_refused(method: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        loads(json.dumps({**spec(), "method": method}), "jobs/tiny.yaml")


def attach(bench: Bench, method: dict[str, Any]) -> Any:
    """The base with what is trained in it, as the first step finds it."""
    from trainer.adapters import with_trained_weights
    from trainer.model import load_model

    bench.write(method=method)
    job = bench.job()
    return with_trained_weights(load_model(job), job, "CAUSAL_LM")


def answers(bench: Bench, is_full: bool) -> list[str]:
    """What the published files say when the libraries alone load them, the base in 32 bits."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = bench.run_dir / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if is_full:
        model = AutoModelForCausalLM.from_pretrained(folder)
    else:
        options: dict[str, Any] = {}
        if bench.job().spec.method.kind == "qlora":
            nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
            options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, **nf4)
        base = AutoModelForCausalLM.from_pretrained(MODEL_ID, **options)
        for module in base.modules():  # a CPU that rounds the 4-bit base anew says something else after some tokens
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        model = PeftModel.from_pretrained(base, folder)
    found = []
    for sample in bench.file("result.json")["samples"]:
        ids = tokenizer(sample["prompt"], return_tensors="pt")["input_ids"]
        answer = model.eval().generate(input_ids=ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
        found.append(tokenizer.decode(answer, skip_special_tokens=True).strip())
    return found
