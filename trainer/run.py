"""From checked inputs to a published adapter: everything that needs torch, top to bottom."""

from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from transformers import logging as transformers_logging

from trainer.adapters import with_trained_weights
from trainer.card import model_card
from trainer.checkpoint import Stop, to_resume
from trainer.data import Prepared, Rows
from trainer.determinism import set_kernels
from trainer.evaluate import Measured, base_comes_first, check_saved, measure, remember_base, remembered_base, samples
from trainer.job import Job, rank
from trainer.lock import run_lock, write_lock
from trainer.model import check_gpu, load_model, load_tokenizer
from trainer.publish import Published, publish
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


def carry_out(job: Job, rows: Rows | None, report: Report, stop: Stop, download: BaseProcess | None) -> None:
    """Train, evaluate, publish; `rows` are those of a file, where the dataset is one, `download` is fetching the model.

    Raises the failures of `trainer.failures`, and Preempted when told to stop.
    """
    report.phases.ended("imports")
    transformers_logging.disable_progress_bar()
    set_kernels(job.spec.train.determinism)
    check_gpu()
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
    where = f"from step {checkpoint.step}" if checkpoint else "from the start"
    start = {"resumed_from_step": checkpoint.step if checkpoint else None, "phases_s": report.phases.seconds}
    lock = run_lock(job)
    report.event("training", where, **start, **asdict(data.counts), lock=lock)
    if rank() == 0:
        write_lock(report.folder, lock)
    trained = train(job, trainer, watch, checkpoint)
    report.event("evaluating", f"after {trained.steps} steps", steps=trained.steps, phases_s=report.phases.seconds)
    outcome = _evaluate(job, trainer, data, trained)
    if rank() == 0:
        metrics = _metrics(outcome)
        write_whole(job.adapter / "README.md", model_card(job, data, metrics, outcome.samples))
        report.event("publishing", job.spec.publish.repo)
        result = _result(publish(job), metrics, outcome)
        report.result({**result, "lock": lock, "phases_s": report.phases.seconds})
    trainer.end()


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
    shown = samples(data.questions, base, adapter) if rank() == 0 else []
    return Outcome(trained=trained, base=base, adapter=adapter, samples=shown)


def _metrics(outcome: Outcome) -> dict[str, Any]:
    metrics = {
        "base_eval_loss": outcome.base.loss,
        "eval_loss": outcome.adapter.loss,
        **{f"base_{name}": value for name, value in outcome.base.figures.items()},
        **outcome.adapter.figures,
        "train_loss": outcome.trained.train_loss,
        "steps": outcome.trained.steps,
        "resumed_from_step": outcome.trained.resumed_from_step,
    }
    if torch.cuda.is_available():
        metrics["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return metrics


def _result(published: Published, metrics: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    return {"adapter": asdict(published), "metrics": metrics, "samples": outcome.samples}
