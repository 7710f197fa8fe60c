"""A small world for whole runs: the simulator as a process, a bare git remote, a repository, a control plane.

The trainer in the repository is a short program of the commit (`TRAINER`), so that these tests cost no torch import.
Whoever makes a World calls `close`. With `pytest_plugins = ("whole",)` a module gets the fixtures `cloud` (one
simulator) and `world` (one repository and ledger a test, in the same cloud account).
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.clouds import connect
from infra.simulator.server import RunningSimulator, SimulatorConfig, start
from pushtrain.cloud import Pod, PodRequest
from pushtrain.control import Control
from pushtrain.gitcmd import git
from pushtrain.ledger import RunRecord
from pushtrain.reconcile import Tick, tick
from pushtrain.run import ledger_prefix
from pushtrain.wiring import open_control

PROJECT = Path(__file__).parents[1]
CANARY = "canary-secret-"

JOB = """\
version: 1
name: {name}
task: sft
model: {{id: demo/base}}
data: {{path: data/rows.jsonl}}
compute: {{{cloud}gpus: [{gpus}], data_centers: [{data_centers}], volume: {{size_gb: 10}}}}
budget: {{max_hours: {max_hours}, max_usd: {max_usd}}}
publish: {{repo: demo/{name}}}
train: {{seed: {seed}}}
"""

# Obeys files in the checkout's `orders` folder, writes what docs/architecture.md says a trainer writes.
TRAINER = """\
import json, os, pathlib, sys, time
run_dir = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
attempt = int(sys.argv[sys.argv.index("--attempt") + 1])
here = run_dir / f"attempt-{attempt}"
here.mkdir(parents=True, exist_ok=True)
def note(file, **row):
    with (here / file).open("a") as out:
        out.write(json.dumps({"time": time.time(), **row}) + "\\n")
saved = run_dir / "step"
first = int(saved.read_text()) if saved.exists() else 0
note("events.jsonl", state="preparing", message="data", data={})
note("events.jsonl", state="training", message="from step %d" % first, data={"resumed_from_step": first})
print("attempt", attempt, "from step", first, flush=True)
print("environment", dict(os.environ), file=sys.stderr, flush=True)
orders = json.loads(pathlib.Path("data/orders.json").read_text())
for step in range(first + 1, orders["steps"] + 1):
    time.sleep(orders["step_s"])
    note("metrics.jsonl", step=step, total_steps=orders["steps"], loss=5.0 / step)
    saved.with_suffix(".new").write_text(str(step))
    saved.with_suffix(".new").replace(saved)
    while step == orders.get("hang_at") and attempt == 1:
        print("still here", flush=True)
        time.sleep(0.1)
    while step == orders.get("hold_at") and not os.path.exists(orders["gate"]):
        print("still here", flush=True)
        time.sleep(0.1)
    if step == orders.get("kill_at"):
        os.kill(os.getpid(), 9)
    if step == orders.get("fail_at") and attempt <= orders.get("fails", 99):
        failure = {"reason": "LossNotFinite", "message": "loss is NaN at step %d" % step}
        (here / "failure.json").write_text(json.dumps(failure))
        sys.exit(1)
note("events.jsonl", state="publishing", message="adapter", data={})
if attempt <= orders.get("hub_away_attempts", 0):
    failure = {"reason": "HubUnreachable", "message": "the adapter is on the volume"}
    (here / "failure.json").write_text(json.dumps(failure))
    sys.exit(1)
result = {"adapter": {"repo": "demo/x", "revision": "0" * 40, "files": {}}, "samples": [],
          "metrics": {"base_eval_loss": 5.0, "eval_loss": 1.0, "train_loss": 1.0, "steps": orders["steps"],
                      "resumed_from_step": first}}
(here / "result.json").write_text(json.dumps(result))
"""


@dataclass(kw_only=True)
class World:
    """`env` is the environment of the control plane and of every process it starts."""

    folder: Path
    simulator: RunningSimulator
    repository: Path
    env: dict[str, str]
    said: list[str] = field(default_factory=list)
    owns_simulator: bool = True

    def control(self) -> Control:
        """A new control plane process would make the same: nothing is kept in memory between two of them."""
        control = open_control(self.repository, self.said.append, self.env)
        return control

    def write_job(self, name: str = "job", *, cloud: str = "", more: str = "", **given: str | float) -> None:
        """A `cloud`, or a list of them, is the one word more with which a job goes elsewhere. `given` is any of gpus,
        data_centers, max_hours, max_usd and seed."""
        usual = {"gpus": "NVIDIA A40", "data_centers": "", "max_hours": 1, "max_usd": 1, "seed": 1}
        assert given.keys() <= usual.keys(), given
        elsewhere = f"cloud: {cloud}, " if cloud else ""
        self.write(f"jobs/{name}.yaml", JOB.format(name=name, cloud=elsewhere, **{**usual, **given}) + more)

    def orphan(self, cloud: str, **request: Any) -> Pod:
        """A pod at that cloud with the ledger's mark, of a run that nobody knows."""
        mark = ledger_prefix(self.control().settings.ledger_url)
        usual: dict[str, Any] = {
            "name": f"{mark}nobodys-0-0-a1",
            "image": "acme/train:1",
            "gpu_count": 1,
            "tier": "SECURE",
            "disk_gb": 10,
            "args": "sleep 600",
        }
        return connect(cloud, self.env).create_pod(PodRequest(**{**usual, **request}))

    def write(self, path: str, text: str) -> None:
        target = self.repository / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def orders(self, **orders: float) -> None:
        """What the commit's trainer does: steps, step_s, fail_at; and the data file beside it. Whoever has to find it
        at work gives a step to wait at: `hang_at`, where the first attempt stays, or `hold_at`, until `let_go`."""
        self.write("data/orders.json", json.dumps({**orders, "gate": str(self.folder / "gate")}))
        self.write("data/rows.jsonl", json.dumps({"prompt": "a", "completion": "b"}) + "\n")

    def let_go(self) -> None:
        """Trainers that wait at `hold_at` go on."""
        (self.folder / "gate").touch()

    def push(self, message: str = "change") -> str:
        for command in (
            ["add", "--all"],
            ["commit", "-q", "--allow-empty", "-m", message],
            ["push", "-q", "origin", "main"],
        ):
            git(command, env=self.env, cwd=self.repository)
        return git(["rev-parse", "HEAD"], env=self.env, cwd=self.repository).stdout.decode().strip()

    def git(self, *args: str) -> str:
        return git(list(args), env=self.env, cwd=self.repository).stdout.decode().strip()

    def tick(self, control: Control | None = None) -> Tick:
        return tick(control or self.control())

    def cli(self, *args: str, timeout_s: float = 150.0, **env: str) -> "subprocess.CompletedProcess[str]":
        """One pushtrain command to its end; whatever happened, no traceback and no secret."""
        started = self.start_cli(*args, **env)
        stdout, stderr = started.communicate(timeout=timeout_s)
        said = stdout + stderr
        self.said.append(said)
        assert "Traceback" not in said and CANARY not in said, said
        return subprocess.CompletedProcess(args, started.returncode, stdout, stderr)

    def start_cli(self, *args: str, cwd: Path | None = None, **env: str) -> "subprocess.Popen[str]":
        """A pushtrain command as a process; whoever starts it waits for it or kills it."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "pushtrain", *args],
            cwd=cwd or self.repository,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until(self, wanted: Callable[[RunRecord], bool], *, timeout_s: float = 150.0, ticks: bool = True) -> RunRecord:
        """Tick and read until the newest run satisfies `wanted`. Fails with what was said when it takes too long."""
        control = self.control()
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if ticks:
                tick(control)
            record = self.newest(control)
            if record is not None and wanted(record):
                return record
            time.sleep(0.2)
        raise AssertionError("waited too long; said:\n" + "\n".join(self.said))

    def newest(self, control: Control | None = None) -> RunRecord | None:
        ledger = (control or self.control()).ledger
        records = ledger.read_all(ledger.refs()).values()
        return max(records, key=lambda record: record.events[0].epoch_s, default=None)

    def record(self, job: str) -> RunRecord:
        """The newest run of a job."""
        mine = [record for record in self.records() if record.run["job"] == job]
        return max(mine, key=lambda record: record.events[0].epoch_s)

    def pods_made(self, record: RunRecord) -> list[dict[str, Any]]:
        """Every pod the cloud ever had under the run's name, ended ones too."""
        prefix = str(record.run["resource_prefix"])
        return [pod for pod in self.simulator.state()["pods"] if pod["name"].startswith(prefix)]

    def wait_for_step(self, step: int, timeout_s: float = 150.0) -> None:
        """Until a trainer of this world has saved step `step` on its volume, and the ledger heard that it trains.
        Nothing ticks meanwhile."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            mine = {it.run_id for it in self.records() if is_training(it)}
            for saved in self.simulator.state_dir.glob("volumes/*/runs/*/step"):
                if saved.parent.name in mine and int(saved.read_text() or 0) >= step:
                    return
            time.sleep(0.05)
        raise AssertionError("no such step; said:\n" + "\n".join(self.said))

    def records(self) -> list[RunRecord]:
        ledger = self.control().ledger
        return list(ledger.read_all(ledger.refs()).values())

    def assert_no_secret(self) -> None:
        """Canary values in nothing that is kept: git objects of the remote and its cache, state, pods' files, argv."""
        kept = [self._objects(self.folder / "remote.git")]
        kept += [self._objects(cache) for cache in self.folder.glob("state*/ledger/*.git")]
        for folder in (*self.folder.glob("state*"), *(self.simulator.state_dir / name for name in ("pods", "volumes"))):
            kept += _files(folder)
        for pod in self.simulator.state()["pods"]:
            for pid in pod["processes"]:
                try:
                    kept.append(Path(f"/proc/{pid}/cmdline").read_bytes())
                except OSError:
                    continue  # it ended meanwhile
        token = base64.b64encode(f"x-access-token:{self.env['PUSHTRAIN_LEDGER_TOKEN']}".encode())
        for raw in kept:
            for secret in (CANARY.encode(), token):
                at = raw.find(secret)
                assert at < 0, raw[max(0, at - 200) : at + 60]

    def _objects(self, repository: Path) -> bytes:
        command = ["cat-file", "--batch-all-objects", "--batch"]
        return git(command, env=self.env, cwd=repository).stdout

    def assert_nothing_left(self) -> None:
        """Ask the cloud for anything at all, then wait (bounded) until no process of any pod is alive."""
        live = self.control().cloud.find("")
        assert not live, live
        assert not list(self.folder.glob("state*/stacks/*.json")), "an engine still remembers a stack"
        self.assert_no_secret()
        end = time.monotonic() + 150
        while self.simulator.state()["processes_alive"]:
            assert time.monotonic() < end, self.simulator.state()
            time.sleep(0.1)

    def close(self) -> None:
        if self.owns_simulator:
            self.simulator.stop(stop_pods=True)


def _files(folder: Path) -> Iterator[bytes]:
    """Every file below, but for those that a volume on its way out loses meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield Path(parent, name).read_bytes()


def end(record: RunRecord) -> tuple[str, str]:
    """Outcome and reason of a closed run. A pod that is being stopped may have its last word after `closed`."""
    (closed,) = (event for event in record.events if event.state == "closed")
    assert record.receipt is not None and record.receipt["outcome"] == closed.data["outcome"]
    return str(closed.data["outcome"]), closed.reason


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    running = start(simulator_config(tmp_path_factory.mktemp("cloud")))
    yield running
    running.stop(stop_pods=True)
    log = (running.state_dir / "simulator.log").read_text()
    assert "Traceback" not in log, log[-3000:]


def is_training(record: RunRecord) -> bool:
    """Whether the newest attempt has said so, whatever was written after it."""
    newest = max(event.attempt for event in record.events)
    return any((event.state, event.attempt) == ("training", newest) for event in record.events)


@pytest.fixture
def world(cloud: RunningSimulator, tmp_path: Path) -> Iterator[World]:
    """An account without pods, volumes and faults; what a failed test leaves is removed for the next one."""
    made = make_world(tmp_path, simulator=cloud)
    yield made
    cloud.request("DELETE", "/_simulator/faults").raise_for_status()
    state = cloud.state()
    for pod in state["pods"]:
        if pod["status"] != "TERMINATED":
            cloud.request("DELETE", f"/v2/pods/{pod['id']}")
    for volume in state["volumes"]:
        if not volume["deleted"]:
            cloud.request("DELETE", f"/v2/network-volumes/{volume['id']}")


def simulator_config(folder: Path) -> SimulatorConfig:
    return SimulatorConfig(
        state_dir=folder, api_key=CANARY + "runpod-account", hf_token=CANARY + "hub", max_hours=0.5, keep_pods=True
    )


def make_world(
    folder: Path,
    *,
    steps: int = 5,
    step_s: float = 0.05,
    engine: str = "embedded",
    simulator: RunningSimulator | None = None,
) -> World:
    """A world with one repository whose trainer takes `steps` steps of `step_s` seconds; no job is committed yet.

    Without `simulator` it has one of its own.
    """
    owns_simulator = simulator is None
    simulator = simulator or start(simulator_config(folder / "simulator"))
    remote = folder / "remote.git"
    identity = {
        f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in (("NAME", "t"), ("EMAIL", "t@t"))
    }
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        **identity,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **simulator.env(),
        "PUSHTRAIN_ENGINE": engine,
        "PUSHTRAIN_STATE_DIR": str(folder / "state"),
        "PUSHTRAIN_SOURCE_URL": f"file://{remote}",
        "PUSHTRAIN_TICK_S": "0.2",
        "PUSHTRAIN_SHIP_EVERY_S": "0.3",
        "PUSHTRAIN_POD_TICK_S": "0.2",
        "PUSHTRAIN_GRACE_S": "10",
        "PUSHTRAIN_LEDGER_TOKEN": CANARY + "ledger",
        "PYTHONPATH": str(PROJECT),
    }
    (folder / "home").mkdir()
    git(["init", "-q", "--bare", "--initial-branch=main", str(remote)], env=env)
    repository = folder / "repository"
    git(["init", "-q", "--initial-branch=main", str(repository)], env=env)
    git(["remote", "add", "origin", f"file://{remote}"], env=env, cwd=repository)
    ignore = shutil.ignore_patterns("__pycache__", "simulator", "demo")
    for room in ("pushtrain", "infra"):
        shutil.copytree(PROJECT / room, repository / room, ignore=ignore)
    world = World(folder=folder, simulator=simulator, repository=repository, env=env, owns_simulator=owns_simulator)
    world.write("trainer/__init__.py", "")
    world.write("trainer/__main__.py", TRAINER)
    world.orders(steps=steps, step_s=step_s)
    return world
