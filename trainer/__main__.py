"""python -m trainer SPEC [--run-dir DIR] [--attempt N]: one attempt at a run, from the root of the checkout.

First what needs no torch (spec, data, Hub, disk: a second or two), then the training. Exit codes: 0 done, 1 the run
failed, 2 spec or data wrong, 75 told to stop: the next attempt resumes. Standard output and error are the log.

On a machine of one's own, without our control plane, the run lies in runs/NAME-DIGEST, so that the same spec started
again resumes; without a token for the Hub nothing is uploaded.
"""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path

from pushtrain.errors import SpecError
from pushtrain.spec import CommandSpec, JobSpec, TrainingSpec
from pushtrain.spec.file import load
from trainer.checkpoint import RESUME_FROM, Stop, latest_complete, stop_on_signals
from trainer.determinism import set_environment
from trainer.failures import (
    PREEMPTED_EXIT_CODE,
    SMALLER_EXIT_CODE,
    OutOfMemoryInWorker,
    Preempted,
    TrainingFailed,
    exit_code,
    translate,
)
from trainer.fit.again import carry_out_as_it_fits, remembered
from trainer.gpu import cards, check_bf16
from trainer.job import Job, rank
from trainer.keep import keeping
from trainer.launch import process_count, run_workers, visible_gpus
from trainer.report import Report, say
from trainer.sharding import check_parallel

# Read when the libraries are imported, so set before. What the environment says already stays.
_LIBRARY_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",  # its warnings print signed upload URLs
    "HF_HUB_DISABLE_XET": "1",  # one commit is one published run, its files listed with their SHA-256
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # or memory in pieces between two sizes of batches is lost
    "TORCHDYNAMO_DISABLE": "1",  # nothing here is compiled; bitsandbytes would import the compiler, 1 to 2 s a start
}


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    arguments = _parse(given)
    try:
        arguments.run_dir = arguments.run_dir or _own_run_dir(arguments.spec)
    except SpecError as error:
        say(f"failed: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return exit_code(error)
    report = Report(arguments.run_dir / f"attempt-{arguments.attempt}", is_main=rank() == 0)
    report.phases.ended("start")
    try:
        with stop_on_signals() as stop:
            _attempt(arguments, given, report, stop)
    except Preempted as stopped:
        say(f"stopped: {stopped}; the next attempt goes on from the last checkpoint")
        return PREEMPTED_EXIT_CODE
    except OutOfMemoryInWorker:
        return SMALLER_EXIT_CODE
    except Exception as error:  # noqa: BLE001 - the outermost function: every error gets a reason
        return _fail(report, error)
    finally:
        report.close()
    return 0


def _attempt(arguments: argparse.Namespace, given: list[str], report: Report, stop: Stop) -> None:
    root = Path.cwd()
    spec = load(root / arguments.spec, root)
    environ = dict(os.environ)
    _quiet_libraries()
    if isinstance(spec, CommandSpec):
        return _run_command(spec, arguments, environ, report, stop)
    spec = _training(spec)
    is_worker = "RANK" in os.environ
    if not is_worker:
        report.event("preparing", f"{spec.name}: {spec.method.kind} on {spec.model.id}")
    _check_tracking(spec, arguments.run_dir.resolve())
    check_parallel(spec.train.parallel)
    from trainer import copies, data, preflight
    from trainer.fit.gate import check_memory

    if arguments.dry_run_memory:
        return _count_memory(spec, arguments.run_dir)

    found = cards() if not is_worker else []
    check_bf16(spec, found)
    job = _job(spec, root, arguments.run_dir.resolve(), is_worker)
    rows = data.local_rows(job)
    config = data.model_config(job)
    data.check_length(job, config)
    download: BaseProcess | None = None
    if not is_worker:
        job = remembered(job)
        check_memory(job, config, found[: job.processes])
        preflight.check_disk(job)
        copies.fetch(job)
        download = preflight.start_download(job)
        if job.processes > 1:
            if download is not None:
                download.join()
            with keeping(job, report, stop):
                return _run_all(given, job, stop)
    _see_one_gpu(job)
    set_environment(spec.train.determinism)
    report.phases.ended("checks")
    with keeping(job, report, stop):
        carry_out_as_it_fits(remembered(job), rows, report, stop, download)


def _job(spec: TrainingSpec, root: Path, run_dir: Path, is_worker: bool) -> Job:
    from trainer import preflight

    uploads = _may_upload(spec, is_worker)
    return Job(
        spec=spec,
        root=root,
        run_dir=run_dir,
        processes=int(os.environ["WORLD_SIZE"]) if is_worker else process_count(spec.compute.count, visible_gpus()),
        run_id=os.environ.get("PUSHTRAIN_RUN_ID") or run_dir.name,
        commit=os.environ.get("PUSHTRAIN_COMMIT"),
        inputs=preflight.pin_inputs(spec, root, run_dir),
        uploads=uploads,
    )


def _see_one_gpu(job: Job) -> None:
    """transformers would spread one process over every GPU it sees."""
    if job.processes == 1 and visible_gpus() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def _training(spec: JobSpec) -> TrainingSpec:
    if not isinstance(spec, TrainingSpec):
        raise SpecError(f"task {spec.task} is nothing to train or run here", hint="`pushtrain run` opens it on a pod")
    return spec


def _may_upload(spec: TrainingSpec, is_worker: bool) -> bool:
    """Whether the result goes to the Hub; then the repository is there by now, and may be written to."""
    from trainer import upload

    is_wanted = upload.uploads()
    if is_worker:
        return is_wanted
    if is_wanted:
        upload.check_write_access(spec.publish)
    else:
        say("publishing: there is no token for the Hub here, so nothing will be uploaded")
    return is_wanted


def _count_memory(spec: TrainingSpec, run_dir: Path) -> None:
    """Downloads the model's config.json and nothing else."""
    from trainer import data, preflight

    inputs = preflight.pin_inputs(spec, Path.cwd(), run_dir)
    job = Job(spec=spec, root=Path.cwd(), run_dir=run_dir, processes=1, run_id=run_dir.name, commit=None, inputs=inputs)
    config = data.model_config(job)
    from trainer.fit.dry_run import say_dry_run

    say_dry_run(job, config)


def _run_all(given: list[str], job: Job, stop: Stop) -> None:
    """The workers, again while they come down to smaller batches; fit.json tells the next ones."""
    while True:
        checkpoint = latest_complete(job.checkpoints, job.recipe)  # once: each worker would read every byte again
        try:
            return run_workers(given, job.processes, stop, {RESUME_FROM: checkpoint.path.name if checkpoint else ""})
        except OutOfMemoryInWorker as short:
            say(f"{short}; all of them start again with smaller batches")


def _run_command(
    spec: CommandSpec, arguments: argparse.Namespace, environ: Mapping[str, str], report: Report, stop: Stop
) -> None:
    """`environ`: as this process was started; what is set for our own libraries is not for the command."""
    from trainer.command.run import CommandJob, carry_out

    run_dir = arguments.run_dir.resolve()
    run_id = environ.get("PUSHTRAIN_RUN_ID") or run_dir.name
    commit = environ.get("PUSHTRAIN_COMMIT")
    carry_out(
        CommandJob(spec=spec, root=Path.cwd(), run_dir=run_dir, run_id=run_id, commit=commit, environ=environ),
        report,
        stop,
    )


def _own_run_dir(spec_path: str) -> Path:
    """Another spec has another folder: its checkpoints would be deleted as nobody's."""
    spec = load(Path.cwd() / spec_path, Path.cwd())
    return Path("runs") / f"{spec.name}-{spec.digest[:8]}"


def _quiet_libraries() -> None:
    for name, value in _LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    # Their deprecations are for those who call them; bitsandbytes misses an optional kernel aloud.
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _check_tracking(spec: TrainingSpec, run_dir: Path) -> None:
    os.environ.setdefault("TRACKIO_DIR", str(run_dir / "trackio"))  # read when transformers imports trackio
    missing = [name for name in spec.track if not find_spec(name)]
    if missing:
        hint = f"leave it out of track, or install it: uv sync --extra trainer --extra {missing[0]}"
        raise SpecError(f"track: {' and '.join(missing)} is not installed here", hint=hint)


def _fail(report: Report, error: Exception) -> int:
    failure = translate(error)
    if isinstance(failure, TrainingFailed):
        traceback.print_exception(error)
    say(f"failed: {failure.reason}: {failure}" + (f"\nhint: {failure.hint}" if failure.hint else ""))
    report.failure(failure)
    return exit_code(failure)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Train, evaluate and publish one job spec.")
    parser.add_argument("spec", help="job spec, relative to the current folder, which is the root of the checkout")
    parser.add_argument("--run-dir", type=Path, help="folder of the run, kept over its attempts (runs/NAME-DIGEST)")
    parser.add_argument(
        "--dry-run-memory", action="store_true", help="only count what the real step would hold, without weights or GPU"
    )
    parser.add_argument("--attempt", type=int, default=1, help="from 1; each attempt reports into its own folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
