"""What training did: loss and answers of the base and of what was trained, and whether the files on disk hold it."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from trainer.data import Question
from trainer.device import uses_bf16
from trainer.failures import AdapterBroken
from trainer.job import Job, rank, read_json
from trainer.model import load_model
from trainer.report import say, write_whole
from trainer.tasks import task_of

MAX_NEW_TOKENS = 64

# Only the order of sums inside a kernel differs, except that bitsandbytes on some CPUs repacks the scales of a 4-bit
# base as bf16 (2⁻⁸) as it goes, and that a bf16 base is rounded once more when a part is taken out of it.
MAX_DIFFERENCE = 1e-4
MAX_ROUNDED_DIFFERENCE = 2**-6


@dataclass(frozen=True, slots=True)
class Measured:
    """`loss` is the mean over held-out batches, in nats a token; None without held-out rows. Answers by question.
    `figures` are the task's own, by our names."""

    loss: float | None
    answers: list[str]
    figures: dict[str, float] = field(default_factory=dict)


def measure(job: Job, trainer: Any, questions: Sequence[Question], *, base: bool = False) -> Measured:
    """Held-out loss and greedy answers of the model as it is; of the model without its adapters with `base`."""
    with trainer.model.disable_adapter() if base else nullcontext():
        prefix = "base" if base else "eval"
        loss, figures = None, {}
        if trainer.eval_dataset is not None:
            said = trainer.evaluate(metric_key_prefix=prefix)
            loss = float(said[f"{prefix}_loss"])
            wanted = task_of(job.spec).figures
            figures = {ours: float(said[f"{prefix}_{name}"]) for name, ours in wanted.items()}
        takes_part = rank() == 0 or job.is_divided
        answers = [_answer(job, trainer, question) for question in questions] if takes_part else []
    return Measured(loss, answers, figures)


def base_comes_first(job: Job) -> bool:
    """Whether the base has to be measured before the first step: it is overwritten, or a part of it is taken away."""
    method = job.spec.method
    return method.kind == "full" or method.takes_from_base or task_of(job.spec).compares_in_training


def remember_base(job: Job, trainer: Any, questions: Sequence[Question]) -> None:
    """Measure what has not been trained yet, once per run."""
    path = job.run_dir / "base.json"
    known = read_json(path)
    if known.get("digest") != job.digest:
        measured = measure(job, trainer, questions)
        if rank() == 0:
            write_whole(path, json.dumps({"digest": job.digest, **asdict(measured)}) + "\n")


def remembered_base(job: Job) -> Measured:
    known: dict[str, Any] = read_json(job.run_dir / "base.json")
    if not known:  # of a divided model the base is not measured: it would have to be put together twice
        return Measured(None, [])
    return Measured(known["loss"], known["answers"], known["figures"])


def samples(questions: Sequence[Question], base: Measured, trained: Measured) -> list[dict[str, str]]:
    befores = base.answers or [""] * len(questions)
    return [
        {"prompt": question.prompt, "expected": question.expected, "base": before, "adapter": after}
        for question, before, after in zip(questions, befores, trained.answers, strict=True)
    ]


def check_saved(job: Job, trainer: Any, questions: Sequence[Question]) -> None:
    """Load what was saved and compare its logits with what was trained. What was trained may be gone: call it last.

    Raises AdapterBroken when a weight is not finite, or the two do not agree.
    """
    check_finite(job.adapter)
    ids = [question.prompt_ids for question in questions]
    in_memory = [next_logits(job, trainer.model, prompt) for prompt in ids]
    if not base_comes_first(job):
        with trainer.model.disable_adapter():
            base = [next_logits(job, trainer.model, prompt) for prompt in ids]
        if ids and largest_difference(base, in_memory) == 0:
            say("evaluation: the adapter changes nothing yet: too few steps, or too low a learning rate")
    fresh = _loaded_again(job, trainer)
    difference = largest_difference(in_memory, [next_logits(job, fresh, prompt) for prompt in ids])
    largest = max((float(logits.abs().max()) for logits in in_memory), default=1.0)
    if not difference <= largest * _allowed(job):
        raise AdapterBroken(f"what was saved is not what was trained: logits of {largest:g} differ by {difference:g}")
    say(f"evaluation: loaded again from {job.adapter}, logits up to {largest:.3g} agree within {difference:.2g}")


def _loaded_again(job: Job, trainer: Any) -> Any:
    """The saved model, or the saved adapter on the base it is for; in the place of what was trained, or beside it."""
    if job.spec.method.kind == "full":
        kind = task_of(job.spec).model_class()
        return kind.from_pretrained(job.adapter, dtype=trainer.model.dtype).to(trainer.args.device)
    if job.spec.method.takes_from_base:
        from peft import PeftModel

        trainer.model.to("cpu")  # room for the base as it was
        torch.cuda.empty_cache()
        return PeftModel.from_pretrained(load_model(job), str(job.adapter))
    trainer.model.load_adapter(str(job.adapter), "saved")
    trainer.model.set_adapter("saved")
    return trainer.model


def _allowed(job: Job) -> float:
    """Share of the largest logit by which two loads of the same weights may differ."""
    method = job.spec.method
    is_rounded = method.kind == "qlora" or (method.takes_from_base and uses_bf16(job))
    return MAX_ROUNDED_DIFFERENCE if is_rounded else MAX_DIFFERENCE


def _answer(job: Job, trainer: Any, question: Question) -> str:
    model, tokenizer = trainer.model, trainer.processing_class
    model.eval()
    ids = torch.tensor([question.prompt_ids], device=trainer.args.device)
    with torch.no_grad(), _autocast(job):
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    begins = 0 if model.config.is_encoder_decoder else ids.shape[1]
    return str(tokenizer.decode(output[0, begins:], skip_special_tokens=True)).strip()


def next_logits(job: Job, model: Any, prompt: list[int]) -> torch.Tensor:
    """Of the token after the prompt, fp32 on the CPU; of the first one a decoder writes."""
    model.eval()
    device = next(model.parameters()).device
    inputs = {"input_ids": torch.tensor([prompt], device=device)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]], device=device)
    with torch.inference_mode(), _autocast(job):
        logits: torch.Tensor = model(**inputs).logits
    return logits[0, -1].float().cpu()


def _autocast(job: Job) -> torch.autocast:
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, enabled=uses_bf16(job))


def largest_difference(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    return max((float((a - b).abs().max()) for a, b in zip(one, other, strict=True)), default=0.0)


def check_finite(folder: Path) -> None:
    """Raises AdapterBroken for a weight below `folder` that is not a number."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                if not torch.isfinite(weights.get_tensor(name)).all():
                    raise AdapterBroken(f"{path.name}: {name} has values that are not finite")
