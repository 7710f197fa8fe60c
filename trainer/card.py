"""The README of what is published: enough to use it, to judge it, and to train it again."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from pushtrain.redact import redact
from trainer.data import Prepared
from trainer.job import Job

_SAMPLE_CHARACTERS = 1500


def model_card(job: Job, data: Prepared, metrics: Mapping[str, Any], samples: Sequence[Mapping[str, str]]) -> str:
    """Markdown with the Hub's metadata block. Holds no time: the same run writes the same card."""
    parts = [_metadata(job), _headline(job), _usage(job), _numbers(metrics), _provenance(job, data), _samples(samples)]
    return redact("\n\n".join(parts) + "\n")


def _metadata(job: Job) -> str:
    is_full = job.spec.method.kind == "full"
    card = ModelCardData(
        base_model=job.spec.model.id,
        library_name="transformers" if is_full else "peft",
        pipeline_tag="text-generation",
        datasets=[job.dataset_name] if job.spec.data.is_on_hub else None,
        tags=["pushtrain", "sft", job.spec.method.kind],
    )
    return f"---\n{card.to_yaml()}\n---"


def _headline(job: Job) -> str:
    kinds = {"lora": "A LoRA adapter", "qlora": "A LoRA adapter for the 4-bit base", "full": "A full fine-tuning"}
    name = job.spec.publish.repo.partition("/")[2]
    return f"# {name}\n\n{kinds[job.spec.method.kind]}, made by pushtrain from `{job.spec.model.id}`."


def _usage(job: Job) -> str:
    repo, model, sha = job.spec.publish.repo, job.spec.model.id, job.inputs.model_sha
    if job.spec.method.kind == "full":
        lines = [f'model = AutoModelForCausalLM.from_pretrained("{repo}")']
        imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    else:
        lines = [
            f'base = AutoModelForCausalLM.from_pretrained("{model}", revision="{sha}")',
            f'model = PeftModel.from_pretrained(base, "{repo}")',
        ]
        imports = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer"]
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{repo}")')
    return "```python\n" + "\n".join([*imports, "", *lines]) + "\n```"


def _numbers(metrics: Mapping[str, Any]) -> str:
    names = {
        "base_eval_loss": "held-out loss of the base",
        "eval_loss": "held-out loss after training",
        "train_loss": "mean training loss",
        "steps": "optimizer steps",
    }
    rows = [f"| {text} | {_number(metrics[key])} |" for key, text in names.items() if metrics.get(key) is not None]
    return "\n".join(["## Numbers", "", "Losses are nats a token.", "", "| | |", "| --- | --- |", *rows])


def _provenance(job: Job, data: Prepared) -> str:
    spec, counts = job.spec, data.counts
    recipe = spec.train.model_dump(mode="json", exclude_none=True)
    rows = {
        "run": job.run_id,
        "commit": job.commit or "not run from a commit",
        "base model": f"{spec.model.id} @ {job.inputs.model_sha}",
        "data": f"{job.dataset_name} @ {job.inputs.data_version}",
        "rows": f"{counts.rows} of {data.form}, {counts.held_out} held out; {counts.tokens} tokens",
        "method": _method(job),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
    }
    return "\n".join(["## Where it comes from", "", *(f"- {key}: `{value}`" for key, value in rows.items())])


def _method(job: Job) -> str:
    method = job.spec.method
    if method.kind == "full":
        return "full"
    modules = [method.target_modules] if isinstance(method.target_modules, str) else sorted(method.target_modules)
    scale = f"rank {method.rank}, alpha {method.alpha}, dropout {method.dropout}"
    return f"{method.kind}, {scale}, on {', '.join(modules)}"


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    parts = ["## Samples", "", "Greedy answers to prompts of the data, at most 64 tokens each."]
    for sample in samples:
        for key in ("prompt", "expected", "base", "adapter"):
            parts += ["", f"{key}:", "", _fenced(sample[key][:_SAMPLE_CHARACTERS])]
        parts += ["", "---"]
    return "\n".join(parts[:-2] if samples else parts)


def _fenced(text: str) -> str:
    """A code block no text can close: its fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
