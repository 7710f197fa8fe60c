"""One run of one workflow file: its jobs in the order they need each other, every `run:` in a shell as GitHub does.

A job has a folder, an environment and a token of its own; secrets of an environment are only there for a job that names
it. Jobs run one after the other, so that `concurrency` and `timeout-minutes` have no effect. What is not understood is
an error, not an empty text.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.simulator.github.expressions import Status, as_text, filled, holds
from infra.simulator.github.tools import checkout
from pushtrain.errors import PushtrainError

# Actions that only install what this machine has already.
INSTALLERS = ("astral-sh/setup-uv", "pulumi/actions")
_JOB = {"name", "if", "needs", "runs-on", "timeout-minutes", "permissions", "environment", "concurrency", "outputs"}
_JOB |= {"strategy", "env", "steps"}
_STEP = {"name", "id", "if", "uses", "with", "run", "env", "working-directory"}


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A `run:` that was run, of the job with this shown name."""

    job: str
    name: str
    exit_code: int
    output: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What every job of a run has: `env` without any key, `url` of the repository, `secrets` by environment, and
    `token`, which makes a token of these permissions. `told` gets each line that a step says."""

    env: Mapping[str, str]
    url: str
    secrets: Mapping[str, Mapping[str, str]]
    token: Callable[[Mapping[str, str]], str]
    told: Callable[[str, str], None] = lambda job, line: None
    step_limit_s: float = 300.0


@dataclass(kw_only=True)
class WorkflowRun:
    """`contexts` are github, vars and inputs. `results` is job → success, failure or skipped; `ran` the shown names of
    the jobs that really ran."""

    name: str
    document: Mapping[str, Any]
    folder: Path
    contexts: Mapping[str, Any]
    machine: Machine
    steps: list[StepDone] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What GitHub shows of the run in its list, and to whoever is asked to let it into an environment."""
        return " ".join(as_text(filled(str(self.document.get("run-name", self.name)), self.contexts)).split())

    @property
    def summary(self) -> str:
        path = self.folder / "summary.md"
        return path.read_text("utf-8") if path.exists() else ""

    @property
    def succeeded(self) -> bool:
        return "failure" not in self.results.values()

    def run(self) -> dict[str, str]:
        """Every job; returns job → result. Raises PushtrainError for what is not emulated."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for key, job in self.document["jobs"].items():
            _known(f"job {key}", job, _JOB)
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs") or []
            results = [self.results[it] for it in needs]
            status: Status = "failure" if "failure" in results else "success"
            if status == "success" and "skipped" in results:
                status = "skipped"
            ready = {it: {"result": self.results[it], "outputs": self.outputs.get(it, {})} for it in needs}
            contexts = {**self.contexts, "needs": ready}
            if not holds(str(job.get("if", "success()")), contexts, status):
                self.results[key] = "skipped"
                continue
            found = [self._job(key, job, {**contexts, "matrix": it}) for it in _matrix(job)]
            self.results[key] = "failure" if "failure" in found else "success"
        return dict(self.results)

    def _job(self, key: str, job: Mapping[str, Any], contexts: Mapping[str, Any]) -> str:
        shown = as_text(filled(str(job.get("name", key)), contexts))
        self.ran.append(shown)
        place = self.folder / "-".join([key, *map(str, contexts["matrix"].values())])
        place.mkdir(parents=True)
        token = self.machine.token(job.get("permissions", self.document.get("permissions", {})))
        secrets = self.machine.secrets.get(str(job.get("environment", "")), {})
        github = {**self.contexts["github"], "token": token}
        here: dict[str, Any] = {**contexts, "github": github, "secrets": secrets, "steps": {}}
        env = {**self.machine.env, "RUNNER_TEMP": str(self.folder), "GITHUB_WORKSPACE": str(place)}
        env |= _env(job.get("env", {}), here)
        status: Status = "success"
        for number, step in enumerate(job["steps"]):
            _known(f"a step of {key}", step, _STEP)
            if not holds(str(step.get("if", "success()")), here, status):
                continue
            if "uses" in step:
                self._use(step, place, here)
            elif not self._run(shown, f"{place.name}-{number}", step, place, env, here):
                status = "failure"
        self.outputs[key] = {name: as_text(filled(text, here)) for name, text in job.get("outputs", {}).items()}
        return "failure" if status == "failure" else "success"

    def _run(
        self, job: str, mark: str, step: Mapping[str, Any], place: Path, env: dict[str, str], here: dict[str, Any]
    ) -> bool:
        title, output = str(step.get("name", step["run"])), self.folder / f"output-{mark}"
        output.touch()
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md")}
        env = {**env, **files, **_env(step.get("env", {}), here)}
        cwd = place / str(step.get("working-directory", "."))
        code, said = _shell(step["run"], cwd, env, self.machine.step_limit_s, lambda it: self.machine.told(job, it))
        self.steps.append(StepDone(job=job, name=title, exit_code=code, output=said))
        pairs = [line.partition("=") for line in output.read_text("utf-8").splitlines()]
        found = {name: value for name, _, value in pairs}
        here["steps"][step.get("id", title)] = {"outputs": found, "outcome": "failure" if code else "success"}
        return code == 0

    def _use(self, step: Mapping[str, Any], place: Path, here: Mapping[str, Any]) -> None:
        action = str(step["uses"]).partition("@")[0]
        if action in INSTALLERS:
            return
        if action != "actions/checkout":
            raise PushtrainError(f"the action {action} is not emulated", reason="NotEmulated")
        given = {name: filled(value, here) if isinstance(value, str) else value for name, value in step["with"].items()}
        checkout(self.machine.url, place, given, here["github"], self.machine.env)


def _shell(
    script: str, cwd: Path, env: Mapping[str, str], limit_s: float, told: Callable[[str], None]
) -> tuple[int, str]:
    """Exit code and everything said; what has not ended after `limit_s` or is interrupted is killed."""
    # As GitHub starts bash: fail at the first error, also inside a pipe.
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    said: list[str] = []
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        timer = threading.Timer(limit_s, _kill, (process, signal.SIGKILL))
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                told(line.rstrip("\n"))
            return process.wait(), "".join(said)
        finally:
            timer.cancel()
            if process.poll() is None:
                _kill(process, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=20)
                _kill(process, signal.SIGKILL)


def _kill(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _env(wanted: Mapping[str, Any], contexts: Mapping[str, Any]) -> dict[str, str]:
    return {name: as_text(filled(str(value), contexts)) for name, value in wanted.items()}


def _matrix(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination; one empty one where there is no matrix."""
    strategy = job.get("strategy", {})
    _known("strategy", strategy, {"fail-fast", "matrix"})
    axes = strategy.get("matrix", {})
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _known(what: str, found: Mapping[str, Any], names: set[str]) -> None:
    if unknown := set(found) - names:
        raise PushtrainError(f"{what}: {', '.join(sorted(unknown))} is not emulated", reason="NotEmulated")
