"""One attempt of a command: run it unless an attempt before did, keep its files, say how it ended."""

import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushtrain.errors import PushtrainError
from pushtrain.pod.context import EXIT_PREEMPTED
from pushtrain.spec import CommandSpec
from trainer.checkpoint import Stop
from trainer.command.artifacts import Artifacts, collect
from trainer.command.environment import command_env, grace_s
from trainer.command.process import Program, run_program
from trainer.command.progress import ProgressReader
from trainer.failures import ArtifactMissing, CommandFailed, CommandNotFound, HubUnreachable, Preempted, retried
from trainer.gpu import cards
from trainer.job import read_json
from trainer.report import Report, say, write_json, write_whole
from trainer.upload import RETRY_DELAYS_S, Target, check_write_access, commit_files, uploads


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandJob:
    """`root` is the checkout, `run_dir` the run's folder on the volume; `environ` what this process was started with,
    before any setting of ours."""

    spec: CommandSpec
    root: Path
    run_dir: Path
    run_id: str
    commit: str | None
    environ: Mapping[str, str]

    @property
    def files(self) -> Path:
        """PUSHTRAIN_RUN_DIR of the command: what is in it, the next attempt finds."""
        return self.run_dir / "files"

    @property
    def done(self) -> Path:
        """How the command ended, once it succeeded: an attempt after that only uploads."""
        return self.run_dir / "command.json"


def carry_out(job: CommandJob, report: Report, stop: Stop) -> None:
    """Raises CommandFailed, ArtifactMissing, CommandNotFound, the failures of the Hub, and Preempted when told to stop,
    or when the command asks for another attempt."""
    command, to = job.spec.command, job.spec.publish
    argv = [str(job.root / command.run)] if isinstance(command.run, str) else command.run
    machine = _machine(job)
    report.event("preparing", f"{job.spec.name}: {shlex.join(argv)[:500]}", **machine)
    if to is not None and uploads(job.environ):
        check_write_access(to)
    if job.done.exists():
        say("the command ended well in an attempt before this one: only its files are left to do")
        return _finish(job, report, machine)
    failure = _run(job, argv, report, stop)
    if failure is None:
        return _finish(job, report, machine)
    try:
        kept = _collect(job)
        published = _publish(job, report, kept, f"failed/{job.run_id}")
    except (PushtrainError, OSError) as error:
        say(f"artifacts: {type(error).__name__}: {error}")
        raise failure from None
    if published["repo"]:
        raise CommandFailed(f"{failure}; {len(kept.files)} files are in {published['repo']}@{published['revision']}")
    raise failure


def _run(job: CommandJob, argv: Sequence[str], report: Report, stop: Stop) -> CommandFailed | None:
    """None when it succeeded."""
    command = job.spec.command
    (job.files / "home").mkdir(parents=True, exist_ok=True)
    _note_start(job)
    reader = ProgressReader(command.progress, report, job.run_dir / "first-step")
    if command.progress is None:
        report.event("training", "the command runs; it tells of no steps")
    program = Program(
        argv=argv, env=command_env(command, job.environ, job.files), cwd=job.root / command.workdir, read=reader.follow
    )
    began_s = time.monotonic()
    try:
        code = run_program(program, stop, grace_s(job.environ))
    except OSError as error:
        raise CommandNotFound(f"command.run: '{argv[0]}' cannot be started in {program.cwd}: {error}") from error
    if stop.requested or code == EXIT_PREEMPTED:
        raise Preempted("SIGTERM" if stop.requested else f"the command ended with {code} and asks for another attempt")
    if code not in command.success_exit_codes:
        return CommandFailed(_how_it_ended(code))
    steps = {} if reader.step is None else {"steps": reader.step, "resumed_from_step": reader.resumed_from_step}
    seconds = round(time.monotonic() - began_s, 1)
    write_json(job.done, {**reader.last, **steps, "exit_code": code, "seconds": seconds})
    return None


def _note_start(job: CommandJob) -> None:
    """A restarted container is the same attempt: what must not be done twice is known by this file alone."""
    started = job.run_dir / "started"
    if started.exists() and not job.spec.command.restart:
        raise CommandFailed("the command was started before, by a container that is gone, and command.restart is false")
    write_whole(started, job.commit or "")


def _finish(job: CommandJob, report: Report, machine: Mapping[str, Any]) -> None:
    kept = _collect(job)
    published = _publish(job, report, kept, f"failed/{job.run_id}" if kept.complaints else "main")
    if kept.complaints:
        where = f"; the others are in {published['repo']}@{published['revision']}" if published["repo"] else ""
        raise ArtifactMissing(f"command.artifacts: {'; '.join(kept.complaints[:5])}{where}")
    report.result({"artifacts": published, "metrics": read_json(job.done), "samples": [], "machine": machine})


def _machine(job: CommandJob) -> dict[str, Any]:
    """What the command had under it. Of its libraries nothing is known here: they are its own."""
    found = cards(job.environ)
    image = job.spec.compute.image_in_words if "PUSHTRAIN_RUN_ID" in job.environ else None
    return {"image": image, "gpus": [card.name for card in found], "driver": found[0].driver if found else None}


def _collect(job: CommandJob) -> Artifacts:
    command = job.spec.command
    return collect(job.files, command.artifacts, command.artifacts_max_gb * 1e9, job.environ)


def _publish(job: CommandJob, report: Report, kept: Artifacts, branch: str) -> dict[str, Any]:
    """`artifacts` of result.json: `repo` and `revision` are None where nothing was uploaded."""
    to = job.spec.publish
    if to is None or not kept.files or not uploads(job.environ):
        return {"repo": None, "revision": None, "files": kept.files}
    report.event("publishing", f"{len(kept.files)} files to {to.repo}, branch {branch}")
    description = f"Made by pushtrain from commit {job.commit}." if job.commit else None
    target = Target(repo=to.repo, title=f"Run {job.run_id}", description=description, branch=branch)
    paths = {name: job.files / name for name in kept.files}
    try:
        revision = retried(lambda: commit_files(target, paths), RETRY_DELAYS_S, time.sleep)
    except HubUnreachable as error:
        raise HubUnreachable(str(error), hint=f"the files are whole in {job.files} on the volume") from error
    return {"repo": to.repo, "revision": revision, "files": kept.files}


def _how_it_ended(code: int) -> str:
    if code >= 0:
        known = {126: ": a program it was to run is not executable", 127: ": a program it was to run was not found"}
        killed = f": a program it ran was killed by signal {code - 128}" if 128 < code < 160 else ""
        return f"the command ended with exit code {code}{known.get(code, killed)}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ": most often the container ran out of memory" if name == "SIGKILL" else ""
    return f"the command was killed by {name}{hint}"
