"""The README of what is published: enough to use it, to judge it, and to train it again."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCardData, try_to_load_from_cache
from huggingface_hub.repocard import ModelCard

from pushtrain.errors import PushtrainError
from pushtrain.redact import redact
from trainer.data import Prepared
from trainer.gates import Gate
from trainer.job import Job, read_json
from trainer.merge import Merged
from trainer.tasks import task_of

_SAMPLE_CHARACTERS = 1500

_NUMBERS = {
    "eval_loss": "held-out loss",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "reward_accuracy": "held-out pairs whose chosen answer gained more",
    "reward_margin": "by how much, mean reward",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a run found out. `lock` is that of the attempt that ended the training (`trainer.lock`)."""

    metrics: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]
    lock: Mapping[str, Any]
    gates: Sequence[Gate] = field(default_factory=list)
    merged: Merged | None = None


def model_card(job: Job, data: Prepared, facts: Facts) -> str:
    """Markdown with the Hub's metadata block. Holds no time: the same run writes the same card."""
    is_merged = job.spec.publish.merge
    parts = [_metadata(job, is_merged=is_merged), _headline(job, is_merged=is_merged), _usage(job), _numbers(facts)]
    parts.append(_provenance(job, data, facts.lock))
    return redact("\n\n".join([*parts, _samples(facts.samples)]) + "\n")


def stopped_card(job: Job, stopped: PushtrainError, step: int) -> str:
    """Of a checkpoint that is kept because the training was stopped: what it is, and why it is no result."""
    why = (
        f"**This is no result.** The training was stopped: {stopped.reason}, {str(stopped).rstrip('.')}. These are its "
        f"weights after step {step}, the last checkpoint before that; nobody has evaluated them."
    )
    parts = [_metadata(job, is_merged=False), _headline(job, is_merged=False), why, _usage(job, is_result=False)]
    lock = read_json(job.run_dir / "lock.json")
    return redact("\n\n".join([*parts, *([_provenance(job, None, lock)] if lock else [])]) + "\n")


def _metadata(job: Job, *, is_merged: bool) -> str:
    spec = job.spec
    is_whole = spec.method.kind == "full" or is_merged
    license_, link = _license(job)
    card = ModelCardData(
        base_model=spec.model.id,
        base_model_relation="finetune" if is_whole else "adapter",
        library_name="transformers" if is_whole else "peft",
        license=license_,
        license_link=link,
        pipeline_tag=task_of(spec).pipeline,
        datasets=[job.dataset_name] if spec.data.is_on_hub else None,
        tags=["pushtrain", spec.task, spec.method.kind],
    )
    return f"---\n{card.to_yaml()}\n---"


def _license(job: Job) -> tuple[str | None, str | None]:
    """That of the base, from its own card: what is made of it stays under it. None where the card names none."""
    path = try_to_load_from_cache(job.spec.model.id, "README.md", revision=job.inputs.model_sha)
    if not isinstance(path, str):
        return None, None
    try:
        data = ModelCard.load(path, ignore_metadata_errors=True).data
    except ValueError:
        return None, None
    name, link = data.get("license"), data.get("license_link")
    return name if isinstance(name, str) else None, link if isinstance(link, str) else None


def _headline(job: Job, *, is_merged: bool) -> str:
    spec = job.spec
    kinds = {"lora": "A LoRA adapter", "qlora": "A LoRA adapter for the 4-bit base", "full": "A full fine-tuning"}
    kind = "A LoRA adapter merged into its base" if is_merged else kinds[spec.method.kind]
    name = spec.publish.repo.partition("/")[2]
    license_, _ = _license(job)
    under = f" The base's licence is `{license_}`." if license_ else " The base's card names no licence."
    return f"# {name}\n\n{kind}, made by pushtrain from `{spec.model.id}`.{under}"


def _usage(job: Job, *, is_result: bool = True) -> str:
    """What is no result is on the run's own revision alone."""
    repo, model, sha = job.spec.publish.repo, job.spec.model.id, job.inputs.model_sha
    is_merged = is_result and job.spec.publish.merge
    at = "" if is_result else f', revision="run/{job.run_id}"'
    auto = str(task_of(job.spec).model_class().__name__)
    if job.spec.method.kind == "full" or is_merged:
        lines = [f'model = {auto}.from_pretrained("{repo}"{at})']
        imports = [f"from transformers import {auto}, AutoTokenizer"]
    else:
        lines = [
            f'base = {auto}.from_pretrained("{model}", revision="{sha}")',
            f'model = PeftModel.from_pretrained(base, "{repo}"{at})',
        ]
        imports = ["from peft import PeftModel", f"from transformers import {auto}, AutoTokenizer"]
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{repo}"{at})')
    text = "```python\n" + "\n".join([*imports, "", *lines]) + "\n```"
    if is_merged:
        text += "\n\nThe adapter alone is in `adapter/`."
    return text if not is_result else f'{text}\n\nThis very result: `revision="run/{job.run_id}"`.'


def _numbers(facts: Facts) -> str:
    metrics = facts.metrics
    rows = [
        f"| {text} | {_number(metrics.get(f'base_{key}'))} | {_number(metrics[key])} |"
        for key, text in _NUMBERS.items()
        if metrics.get(key) is not None
    ]
    table = ["| | before | after |", "| --- | --- | --- |", *rows] if rows else ["No rows were held out."]
    lines = ["## Numbers", "", *table, ""]
    lines.append(f"Mean training loss {_number(metrics.get('train_loss'))} in {metrics['steps']} optimizer steps.")
    if (best := metrics.get("best_step")) is not None:
        lines.append(f"The weights are those of step {best}, whose held-out loss was the lowest.")
    if facts.gates:
        lines += ["", "Gates: " + "; ".join(str(gate) for gate in facts.gates) + "."]
    if (merged := facts.merged) is not None:
        lines += [
            "",
            f"Merged onto the {merged.base} base as {merged.dtype}. Loaded again, its logits on the samples' prompts "
            f"are within {merged.difference:.2%} of the largest of those of base and adapter, and within "
            f"{merged.from_trained:.2%} of the model as it was trained ({merged.tolerance:.2%} is allowed).",
        ]
    return "\n".join(lines)


def _provenance(job: Job, data: Prepared | None, lock: Mapping[str, Any]) -> str:
    spec = job.spec
    recipe = spec.train.model_dump(mode="json", exclude_none=True) | {"learning_rate": spec.learning_rate}
    part = getattr(spec, spec.task).model_dump(mode="json") if spec.task in ("dpo", "seq2seq") else {}
    rows = {
        "run": job.run_id,
        "commit": job.commit or "not run from a commit",
        "base model": f"{spec.model.id} @ {job.inputs.model_sha}",
        "data": f"{job.dataset_name} @ {job.inputs.data_version}",
        **({"rows": _rows(data)} if data is not None else {}),
        "task": ", ".join([spec.task, *(f"{key} {value}" for key, value in part.items())]),
        "method": _method(job),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
        "spec": f"sha256:{lock['spec']}",
        "environment": f"uv.lock sha256:{lock['uv_lock']}" if lock.get("uv_lock") else "no uv.lock",
        "hardware": _hardware(lock),
        "libraries": ", ".join(f"{name} {version}" for name, version in lock["libraries"].items()),
        "cost": f"in receipt.json of the ledger's branch runs/{job.run_id}, once the pod has ended",
    }
    return "\n".join(["## Where it comes from", "", *(f"- {key}: `{value}`" for key, value in rows.items())])


def _rows(data: Prepared) -> str:
    counts = data.counts
    return f"{counts.rows} of {data.form}, {counts.held_out} held out; {counts.tokens} tokens"


def _hardware(lock: Mapping[str, Any]) -> str:
    machine = lock["machine"]
    if machine["gpus"]:
        return f"{len(machine['gpus'])} × {machine['gpus'][0]}, driver {machine['driver']}, CUDA {machine['cuda']}"
    return f"no GPU, {machine.get('cpu') or machine['system']}"


def _method(job: Job) -> str:
    """What the spec's `method` says and a reader needs: whatever differs from the default, and rank and scale."""
    method = job.spec.method
    given = method.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    if method.kind != "full":
        given = {"rank": method.rank, "alpha": method.alpha, "target_modules": method.target_modules} | given
    texts = [f"{key} {', '.join(map(str, it)) if isinstance(it, list) else it}" for key, it in given.items()]
    return ", ".join([method.kind, *texts])


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
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
