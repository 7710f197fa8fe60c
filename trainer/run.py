"""From checked inputs to a published adapter: everything that needs torch, top to bottom."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from transformers import logging as transformers_logging

from trainer.adapters import with_trained_weights
from trainer.card import Facts, model_card
from trainer.checkpoint import Checkpoint, Stop, to_resume
from trainer.copies import forget
from trainer.data import Prepared, Rows
from trainer.determinism import set_kernels
from trainer.device import check_device
from trainer.evaluate import Measured, base_comes_first, check_saved, measure, remember_base, remembered_base, samples
from trainer.gates import Gate, judged
from trainer.job import Job, rank, read_json
from trainer.lock import run_lock, write_lock
from trainer.merge import Merged, merge
from trainer.model import load_model, load_tokenizer
from trainer.publish import Published, keep_adapter, publish
from trainer.report import Report, write_whole
from trainer.save import finish_model, save_adapter, save_divided
from trainer.sharding import prepare_loading
from trainer.tasks import task_of
from trainer.training import Trained, build_trainer, train
from trainer.watch import Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    trained: Trained
    base: Measured
    adapter: Measured
    samples: list[dict[str, str]]
    merged: Merged | None


def carry_out(job: Job, rows: Rows | None, report: Report, stop: Stop, download: BaseProcess | None) -> None:
    """Train, evaluate, publish; `rows` are those of a file, where the dataset is one, `download` is fetching the model.

    Raises the failures of `trainer.failures`, and Preempted when told to stop.
    """
    report.phases.ended("imports")
    transformers_logging.disable_progress_bar()
    set_kernels(job.spec.train.determinism)
    check_device(job)
    task, tokenizer = task_of(job.spec), load_tokenizer(job)
    data = task.prepare(job, rows, tokenizer)
    report.phases.ended("data")
    if download is not None:
        download.join()
        report.phases.ended("download")
    checkpoint = to_resume(job.checkpoints, job.recipe)
    is_over = checkpoint is not None and checkpoint.is_final
    weights = checkpoint.path if checkpoint is not None and is_over and job.spec.method.kind == "full" else None
    prepare_loading(job)
    model = with_trained_weights(load_model(job, weights), job, task.peft_type)
    report.phases.ended("model")
    watch = Watch(job, report, stop)
    trainer = build_trainer(job, model, tokenizer, data, watch)
    if base_comes_first(job) and not is_over and not job.is_divided:
        remember_base(job, trainer, data.questions)
    report.phases.ended("trainer")
    lock = _begin(job, report, data, checkpoint)
    trained = train(job, trainer, watch, checkpoint)
    report.event("evaluating", f"after {trained.steps} steps", steps=trained.steps, phases_s=report.phases.seconds)
    outcome = _evaluate(job, trainer, data, trained)
    if rank() == 0:
        _publish(job, report, data, outcome, lock)
        forget(job)
    trainer.end()


def _begin(job: Job, report: Report, data: Prepared, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Say that training begins, and with what: the lock, which is kept beside what the attempt writes."""
    where = f"from step {checkpoint.step}" if checkpoint else "from the start"
    start = {"resumed_from_step": checkpoint.step if checkpoint else None, "phases_s": report.phases.seconds}
    lock = run_lock(job)
    report.event("training", where, **start, **asdict(data.counts), lock=lock)
    if rank() == 0:
        write_lock(report.folder, lock)
        if checkpoint is None or not checkpoint.is_final:
            write_lock(job.run_dir, lock)  # a later attempt that only publishes says what trained
    return lock


def _evaluate(job: Job, trainer: Any, data: Prepared, trained: Trained) -> Outcome:
    if job.is_divided:
        save_divided(job, trainer)
    else:
        finish_model(job, trainer)
        if rank() == 0:
            save_adapter(job, trainer)
    adapter = measure(job, trainer, data.questions)
    base = remembered_base(job) if base_comes_first(job) else measure(job, trainer, data.questions, base=True)
    if rank() == 0 and not job.is_divided:
        check_saved(job, trainer, data.questions)
    merged = _merged(job, trainer, data) if rank() == 0 and job.spec.publish.merge else None
    shown = samples(data.questions, base, adapter) if rank() == 0 else []
    return Outcome(trained=trained, base=base, adapter=adapter, samples=shown, merged=merged)


def _publish(job: Job, report: Report, data: Prepared, outcome: Outcome, lock: dict[str, Any]) -> None:
    metrics = _metrics(outcome)
    gates = judged(job.spec.publish.promote, metrics)
    facts = Facts(
        metrics=metrics,
        samples=outcome.samples,
        lock=read_json(job.run_dir / "lock.json") or lock,
        gates=gates,
        merged=outcome.merged,
    )
    card = model_card(job, data, facts)
    write_whole((job.merged if job.spec.publish.merge else job.adapter) / "README.md", card)
    report.event("publishing", job.spec.publish.repo)
    result = _result(publish(job, gates), gates, metrics, outcome)
    report.result({**result, "lock": lock, "phases_s": report.phases.seconds})


def _merged(job: Job, trainer: Any, data: Prepared) -> Merged:
    """A merge that fails must not take the adapter with it: the volume goes with a failed run."""
    try:
        return merge(job, trainer, data.questions)
    except Exception:
        keep_adapter(job)
        raise


def _metrics(outcome: Outcome) -> dict[str, Any]:
    metrics = {
        "base_eval_loss": outcome.base.loss,
        "eval_loss": outcome.adapter.loss,
        **{f"base_{name}": value for name, value in outcome.base.figures.items()},
        **outcome.adapter.figures,
        "train_loss": outcome.trained.train_loss,
        "steps": outcome.trained.steps,
        "tokens_seen": outcome.trained.tokens,
        **({"best_step": outcome.trained.best_step} if outcome.trained.best_step is not None else {}),
        "resumed_from_step": outcome.trained.resumed_from_step,
    }
    if torch.cuda.is_available():
        metrics["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return metrics


def _result(published: Published, gates: Sequence[Gate], metrics: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    whole = asdict(published)
    promotion = {"revision": whole.pop("promoted"), "gates": [asdict(gate) for gate in gates]}
    merged = {"merged": asdict(outcome.merged)} if outcome.merged is not None else {}
    return {"adapter": whole, "promotion": promotion, **merged, "metrics": metrics, "samples": outcome.samples}
