"""The story of the rehearsal: `init` in an empty repository, a pull request, its comment, the merge, run and receipt.

Real are git, the workflow files that `init` wrote, every command in them, the training and the ledger. Simulated are
RunPod, the Hub and GitHub, all on loopback.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pushtrain.cloud import Live
from pushtrain.demo import base, forge, show, world
from pushtrain.demo.leftovers import Processes
from pushtrain.demo.main import Demo, clean_up, interrupt, undisturbed
from pushtrain.errors import PushtrainError
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.redact import redact
from pushtrain.settings import load_settings
from pushtrain.verify import verify
from pushtrain.wiring import open_ledger

if TYPE_CHECKING:
    from infra.simulator.github.actions import Event
    from infra.simulator.github.workflow import WorkflowRun

FAILED = "RehearsalFailed"


@dataclass(kw_only=True)
class Rehearsal(Demo):
    """`held` are the steps that were looked at and are as they should be."""

    held: list[str] = field(default_factory=list)

    def holds(self, what: str, is_so: bool, otherwise: str = "") -> None:
        """Says that a step holds. Raises PushtrainError (RehearsalFailed) where it does not."""
        if not is_so:
            raise PushtrainError(f"it does not hold that {what}", hint=otherwise or self._where(), reason=FAILED)
        self.held.append(what)
        self.console.print(f"  ✓ {what}", style="green", markup=False, highlight=False)

    def started(self, run: "WorkflowRun", event: "Event") -> None:
        self.console.print(f"  {run.name} starts on {event.name}", markup=False, highlight=False)

    def told(self, job: str, line: str) -> None:
        if line.strip():
            self.console.print(redact(f"    {job} │ {line}"), markup=False, highlight=False, style="dim")

    def _where(self) -> str:
        return f"what the jobs said is above; their folders are in {self.folder / 'actions'}"


def run_rehearsal(folder: Path, *, how: forge.How, console: Console) -> int:
    """Rehearse in `folder` and return the exit code: 0 when every step held. `how` the pull request is merged.

    Ctrl-C at any moment leaves no pod, no volume, no process. Raises PushtrainError for a step that does not hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processes = Processes(folder / "processes.json")
    processes.stop_all()
    world.stop_pods(folder / "run" / "simulator")
    rehearsal = Rehearsal(folder=world.fresh(folder), console=console, processes=processes)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        _story(rehearsal, how)
        return 0
    except KeyboardInterrupt:
        console.print("\ninterrupted: removing pod, volume and processes …", style="yellow")
        return 130
    finally:
        with undisturbed():
            clean_up(rehearsal)


def _story(it: Rehearsal, how: forge.How) -> None:
    with it.part("base model and data, of the standard library's docstrings (built once, then kept)"):
        data = base.build_data(it.folder.parent.parent / "base")
        model = base.build_model(it.folder.parent.parent / "base")
    with it.part("RunPod, a Hub and GitHub on loopback"):
        env, revision = _start(it, model)
        hub = forge.Forge(it.folder, env, started=it.started, told=it.told)
    try:
        with it.part("an empty repository, and `pushtrain init` in it"):
            _first_push(it, hub)
        with it.part(f"a branch with {forge.SPEC}, and a pull request"):
            number = _pull_request(it, hub, forge.job(revision), data)
        with it.part(f"merged ({how}); now GitHub Actions do the rest"):
            record = _merged(it, hub, number, how)
        _proof(it, hub, number, record)
    finally:
        hub.close()


def _start(it: Rehearsal, model: Path) -> tuple[dict[str, str], str]:
    """The environment of everything here, and the base model's commit on the simulated Hub."""
    from infra.simulator.server import SimulatorConfig, start

    simulator = start(SimulatorConfig(state_dir=it.folder / "simulator"))
    it.processes.add("simulator", simulator.pid)
    env = world.demo_env(it.folder, simulator.env()) | {
        "PUSHTRAIN_SOURCE_URL": f"file://{it.folder / forge.SOURCE}",
        "PUSHTRAIN_LEDGER_URL": f"file://{it.folder / forge.LEDGER}",
    }
    os.environ.update(env)
    world.write_env_file(it.folder / "env", env)
    return env, base.publish(model, simulator.env())


def _first_push(it: Rehearsal, hub: forge.Forge) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pushtrain", "init"],
        cwd=hub.repository,
        env=hub.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    for line in done.stdout.splitlines():
        it.told("pushtrain init", line)
    it.holds("`pushtrain init` wrote workflows, policy, a first job and the tool", done.returncode == 0, done.stderr)
    hub.commit("pushtrain", "main")
    runs = hub.happened()
    nothing = [run.name for run in runs] == ["train.yml"] and not runs[0].ran
    it.holds("the first push does nothing: PUSHTRAIN_ENABLED is not set yet", nothing)
    hub.switch_on()


def _pull_request(it: Rehearsal, hub: forge.Forge, spec: str, data: Path) -> int:
    hub.write(forge.SPEC, spec.encode())
    hub.write(forge.DATA, data.read_bytes())
    hub.commit("A first LoRA", forge.BRANCH)
    number = hub.open_pull_request("A first LoRA")
    runs = hub.happened()
    it.holds("review.yml ran and is content", [(run.name, run.succeeded) for run in runs] == [("review.yml", True)])
    comments = hub.comments(number)
    it.holds("the pull request has one comment", len(comments) == 1)
    it.holds("it says what a merge costs at most", "**A merge starts 1 run, " in comments[0])
    it.holds("nothing was rented for it", not _records(hub) and not _left(hub))
    return number


def _merged(it: Rehearsal, hub: forge.Forge, number: int, how: forge.How) -> RunRecord:
    hub.merge(number, how)
    runs = hub.happened()
    names = {run.name: run.results for run in runs}
    wanted = {"reconcile": "success", "by-hand": "skipped", "end": "success", "again": "skipped"}
    it.holds("train.yml ran: reconcile, and end after it", names == {"train.yml": wanted}, str(names))
    records = _records(hub)
    it.holds("there is one run in the ledger", len(records) == 1)
    receipt = records[0].receipt or {}
    it.holds("it succeeded and has its receipt", receipt.get("outcome") == "succeeded")
    return records[0]


def _proof(it: Rehearsal, hub: forge.Forge, number: int, record: RunRecord) -> None:
    comments = hub.comments(number)
    it.holds("the pull request has a second comment, which followed the run", len(comments) == 2)
    it.holds("it has result, published adapter and receipt", all(w in comments[1] for w in ("published", "receipt")))
    statuses = [status for status in hub.statuses() if status[0] == f"pushtrain/{forge.NAME}"]
    it.holds(
        f"the commit has the status pushtrain/{forge.NAME}: success", statuses[-1:] == [(statuses[0][0], "success")]
    )
    verdicts = verify(_ledger(hub), None)
    it.holds("the run's branch is whole", bool(verdicts) and not any(found.problems for found in verdicts))
    left = _left(hub)
    it.holds("the simulated account is empty", not left)
    for name, text in zip(("plan", "run"), comments, strict=True):
        path = it.folder / f"comment-{name}.md"
        path.write_text(text, encoding="utf-8")
    show.comments(it.console, comments)
    spent = ", ".join(f"{name.split(',')[0].split(' (')[0]} {seconds:.0f} s" for name, seconds in it.seconds.items())
    it.console.print(f"\nlook around in {it.folder}: repository, comment-*.md, actions/; {record.run_id}", markup=False)
    it.console.print(f"{len(it.held)} steps hold; {spent}", markup=False, highlight=False)
    it.console.print(f"proof: pods {len(left.pods)}, volumes {len(left.volumes)}", style="bold", markup=False)


def _ledger(hub: forge.Forge) -> Ledger:
    return open_ledger(load_settings(hub.repository, hub.env), hub.env)


def _records(hub: forge.Forge) -> list[RunRecord]:
    ledger = _ledger(hub)
    return list(ledger.read_all(ledger.refs()).values())


def _left(hub: forge.Forge) -> Live:
    """What the simulated account still has."""
    from infra.clouds import connect

    return connect("runpod", hub.env).find("")
