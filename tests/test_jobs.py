"""The job specs that are committed in jobs/, and the schema beside them."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from pushtrain.check import check
from pushtrain.gpus import memory_gb
from pushtrain.spec.file import load, schema_json

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
# Dollars an hour on RunPod's secure cloud, 2026-08-27.
USD_PER_HOUR = {"NVIDIA A40": 0.44, "NVIDIA RTX A6000": 0.53, "NVIDIA GeForce RTX 4090": 0.74}
USD_PER_HOUR |= {"NVIDIA H100 80GB HBM3": 2.99, "NVIDIA L4": 0.43}
NAMES = [
    *(
        "demo",
        "dev-session",
        "flan-t5-summarizer",
        "gpu-check",
        "jsonl-qwen3-32b-qlora",
        "jsonl-qwen3-8b-lora",
        "nanochat-speedrun",
    ),
    *("qwen3-1b7-dpo", "qwen3-1b7-lora", "qwen3-8b-qlora"),
]
EXAMPLES = [path for path in JOBS if path.stem in NAMES]


def test_the_schema_is_what_the_model_says() -> None:
    fresh = (ROOT / "jobs" / "schema.json").read_text(encoding="utf-8") == schema_json()
    assert fresh, "jobs/schema.json is old: run `pushtrain check --write-schema` and commit it"


def test_the_committed_jobs_pass_their_check() -> None:
    report = check(EXAMPLES, ROOT)
    assert [spec.name for spec in report.specs] == NAMES
    assert not report.problems


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_rents_nothing_by_itself(path: Path) -> None:
    assert load(path, ROOT).suspend


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_has_the_schema_for_editors_and_follows_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.Draft202012Validator(json.loads(schema_json())).validate(YAML(typ="safe").load(text))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_value_of_an_example_has_a_comment(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    bare = [line for line in lines if re.match(r"\s*\w+:\s+\S", line) and " # " not in line]
    assert not bare


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_dollars_of_an_example_pay_for_its_hours(path: Path) -> None:
    """And not for many more: a budget that is far too large limits nothing."""
    spec = load(path, ROOT)
    gpu_usd = max(USD_PER_HOUR[gpu] for gpu in spec.compute.gpus) * spec.compute.count * spec.budget.max_hours
    storage_usd = (spec.compute.volume.size_gb * 0.07 + spec.compute.disk_gb * 0.10) / 730 * spec.budget.max_hours
    assert gpu_usd + storage_usd <= spec.budget.max_usd <= 2.5 * (gpu_usd + storage_usd)


def test_the_examples_ask_for_gpus_of_the_size_they_say() -> None:
    assert [memory_gb(gpu) for gpu in load(ROOT / "jobs/qwen3-8b-qlora.yaml").compute.gpus] == [48, 48]
    assert [memory_gb(gpu) for gpu in load(ROOT / "jobs/qwen3-1b7-lora.yaml").compute.gpus] == [24]
