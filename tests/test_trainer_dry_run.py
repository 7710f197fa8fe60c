"""The dry run of the real step beside the closed form, for each task and what decides its memory."""

from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from tiny_model import Bench

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.memory import GIB, memory
from pushtrain.estimate.recipe import recipe_of

pytest_plugins = ("trainer_fixtures",)

ENDS = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
SIDES = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 2), ("ffn_dim", 1024))}
BART = {"model_type": "bart", "d_model": 512, "vocab_size": 50_265, "max_position_embeddings": 1024, **SIDES, **ENDS}
BART |= {"encoder_attention_heads": 8, "decoder_attention_heads": 8}


def small(**changes: object) -> dict[str, object]:
    sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 3, "vocab_size": 40_000}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096}
    return {"model_type": "llama", **sizes, **heads, "tie_word_embeddings": False, **changes}


DPO: dict[str, Any] = {"task": "dpo", "train": {"per_device_train_batch_size": 2, "max_length": 512}}
SEQ2SEQ: dict[str, Any] = {"task": "seq2seq", "seq2seq": {"max_target_length": 128}, "train": {"max_length": 512}}


@pytest.mark.parametrize(
    ("kind", "checkpointing", "config", "changes"),
    [
        ("lora", True, small(), {}),
        ("qlora", False, small(), {}),
        ("full", True, small(), {}),
        ("lora", True, small(), {"train": {"bf16": False}}),
        ("lora", False, small(model_type="gemma2", head_dim=64, sliding_window=512), {"train": {"max_length": 512}}),
        ("lora", True, small(), DPO),
        ("full", False, small(), DPO),
        ("full", False, small(), {**DPO, "dpo": {"precompute_ref_log_probs": True}}),
        ("qlora", True, small(), DPO),
        ("lora", True, BART, SEQ2SEQ),
    ],
)
def test_the_dry_run_of_the_real_step_agrees_with_the_closed_form(
    bench: Bench, kind: str, checkpointing: bool, config: dict[str, object], changes: dict[str, Any]
) -> None:
    from trainer.fit.dry_run import dry_run

    train = {"per_device_train_batch_size": 1, "max_length": 1024, "gradient_checkpointing": checkpointing}
    bench.write(**{**changes, "method": {"kind": kind}, "train": {**train, **changes.get("train", {})}})
    job = bench.job()
    found = dry_run(job, config).peak_bytes
    closed = memory(shape_of(config), recipe_of(job.spec)).closed_bytes
    print(f"{kind} {checkpointing}: dry run {found / GIB:.3f}, closed form {closed / GIB:.3f}, {closed / found:.3f}")
    assert 0.85 < closed / found < 1.15


def test_a_reference_of_its_own_and_two_answers_are_counted(bench: Bench) -> None:
    from trainer.fit.dry_run import dry_run

    def peak(**changes: Any) -> float:
        bench.write(method={"kind": "full"}, train={"max_length": 128}, **changes)
        return dry_run(bench.job(), small()).peak_bytes

    sft, with_reference = peak(), peak(task="dpo")
    without = peak(task="dpo", dpo={"precompute_ref_log_probs": True})
    assert sft < without < with_reference
    assert with_reference - without == pytest.approx(2 * shape_of(small()).parameters, rel=0.02), "in bf16"


def test_a_family_without_sdpa_can_be_trained(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    """Gemma 2 and gpt-oss: transformers takes its own attention for them."""
    import torch
    from tiny_model import publish_model, tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tokenizer()
    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(
        "gemma2", vocab_size=len(words), num_key_value_heads=1, head_dim=16, sliding_window=16, **sizes, **ends
    )
    model = AutoModelForCausalLM.from_config(config)
    assert model.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path / "gemma2")
    words.save_pretrained(tmp_path / "gemma2")
    publish_model(hub.alice, tmp_path / "gemma2", "demo/tiny-gemma2")
    bench.write(model={"id": "demo/tiny-gemma2"}, publish={"repo": "demo/gemma2"})
    assert bench.run() == 0
    metrics = bench.file("result.json")["metrics"]
    assert metrics["eval_loss"] < metrics["base_eval_loss"]
