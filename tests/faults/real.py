"""Schedules with real processes: kill -9 at seeded moments, the real simulator over HTTP, real git.

Few and slow beside those under virtual time; they hold what a model cannot know. `python -m faults.real --n 50`.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whole import World, make_world, simulator_config

from infra.simulator.server import RunningSimulator, start
from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.events import broken_links
from pushtrain.run import ledger_prefix

# How long blows fall, and how long the last reconcile may take to bring everything down.
BLOWS_S, REST_S = 6.0, 60.0
PATIENCE_S = 10.0
FOREIGN = ("my-notebook", "pt-000000-job-00000000-00000000-a1")
STEPS, STEP_S = 30, 0.1
CONTROL_KILLED = ("control SIGKILL", "control SIGKILL", "control SIGTERM", "control SIGINT")
BOARD: Mapping[str, Mapping[str, Any]] = {
    "500 after create": {"kind": "error_after_create", "operation": "create_*"},
    "lost answer": {"kind": "lost_answer", "times": 2},
    "slow answer": {"kind": "slow", "seconds": 1.0, "times": 2},
    "429": {"kind": "http_429", "seconds": 1.0, "times": 2},
    "500": {"kind": "http_500", "times": 3},
    "502": {"kind": "http_502", "times": 3},
    "no capacity": {"kind": "no_capacity", "times": 1},
    "volume busy": {"kind": "volume_busy", "times": 2},
    "lost pod": {"kind": "lost_pod", "seconds": 0.0, "pod_name": "MARK*"},
    "container restart": {"kind": "container_restart", "seconds": 0.0, "pod_name": "MARK*"},
}
# Where a create waits minutes for a machine: longer than a schedule lasts.
QUEUES = ("modal",)
PROCESSES = {"trainer SIGKILL": "-m trainer", "agent SIGKILL": "pushtrain.pod.agent", "watchdog SIGKILL": "/tmp/tmp."}
OTHERS = ("simulator restarted", "two reconciles", "suspended", "state lost", "ledger away")


@dataclass(kw_only=True)
class Real:
    """One schedule: what befell whom, and when."""

    seed: int
    world: World
    mark: str
    cloud: str = DEFAULT_CLOUD
    following: Any = None
    blows: list[tuple[float, str]] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    others: list[Any] = field(default_factory=list)

    def write_job(self, more: str = "") -> None:
        """The same job at the cloud of this schedule, by one word."""
        if self.cloud == DEFAULT_CLOUD:
            self.world.write_job(max_hours=0.2, max_usd=1, more=more)
            return
        self.world.write_job(max_hours=0.2, max_usd=1, gpus="NVIDIA A40, NVIDIA RTX A6000, NVIDIA L4", more=more)
        path = self.world.repository / "jobs" / "job.yaml"
        path.write_text(path.read_text().replace("compute: {", f"compute: {{cloud: {self.cloud}, "))

    def follow(self, **env: str) -> Any:
        return self.world.start_cli("reconcile", "--follow", "--max-minutes", "1", **env)


def draw(seed: int) -> list[tuple[float, str]]:
    """Seconds after the push, and what happens then: a kill of the control plane at least."""
    rng = random.Random(f"real {seed}")
    kinds = [rng.choice(CONTROL_KILLED)]
    kinds += [rng.choice([*CONTROL_KILLED, *BOARD, *PROCESSES, *OTHERS]) for _ in range(rng.randrange(1, 5))]
    return sorted((round(BLOWS_S * rng.random() ** 1.5, 2), kind) for kind in kinds)


def play(
    seed: int, folder: Path, simulator: RunningSimulator, cloud: str = DEFAULT_CLOUD
) -> tuple[list[str], Counter[str], RunningSimulator]:
    """Broken promises, what struck, and the simulator, which may be another process by now. At another cloud RunPod's
    key is there besides."""
    world = make_world(folder, steps=STEPS, step_s=STEP_S, simulator=simulator)
    world.env["PUSHTRAIN_BOOT_LIMIT_S"] = "20"
    world.env |= simulator.env(cloud)
    mark = ledger_prefix(world.control().settings.ledger_url)
    real = Real(seed=seed, world=world, mark=mark, cloud=cloud, blows=draw(seed))
    real.write_job()
    world.push()
    began_s = time.monotonic()
    real.following = real.follow()
    try:
        for at_s, kind in real.blows:
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            if strike(real, kind):
                real.struck[kind] += 1
            if real.following.poll() is not None:
                _said(real.following)
                real.following = real.follow()
        world.simulator.request("DELETE", "/_simulator/faults").raise_for_status()
        return [*_rest(real), *check(real)], real.struck, world.simulator
    finally:
        for process in [real.following, *real.others]:
            if process.poll() is None:
                process.kill()
            process.communicate()


def strike(real: Real, kind: str) -> bool:
    """False when there is nothing it could befall at this moment."""
    if kind.startswith("control "):
        return _kill_control(real, kind)
    if kind == "no capacity" and real.cloud in QUEUES:
        return False
    if kind in BOARD:
        fault = {name: f"{real.mark}*" if value == "MARK*" else value for name, value in BOARD[kind].items()}
        real.world.simulator.fault(fault.pop("kind"), **fault)
        return True
    if kind in PROCESSES:
        return _kill_in_pod(real, PROCESSES[kind])
    return _OTHERS[kind](real)


def _kill_control(real: Real, kind: str) -> bool:
    if real.following.poll() is not None:
        return False
    os.kill(real.following.pid, getattr(signal, kind.split()[1]))
    _said(real.following)
    real.following = real.follow()
    return True


def _kill_in_pod(real: Real, part: str) -> bool:
    """The first process of one of our pods whose command line has this in it; waits a while for there to be one."""
    gives_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < gives_up:
        for pod in real.world.simulator.state()["pods"]:
            for pid in pod["processes"] if pod["name"].startswith(real.mark) else ():
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if part in line and "bash" not in line and not line.rstrip().endswith(" boot"):
                        os.kill(pid, signal.SIGKILL)
                        return True
        time.sleep(0.05)
    return False


def _restart_simulator(real: Real) -> bool:
    folder = real.world.simulator.state_dir
    real.world.simulator.stop(stop_pods=False)
    real.world.simulator = start(simulator_config(folder))
    return True


def _second_reconcile(real: Real) -> bool:
    real.others.append(real.follow(PUSHTRAIN_STATE_DIR=str(real.world.folder / "state-2")))
    return True


def _suspend(real: Real) -> bool:
    real.write_job(more="suspend: true\n")
    real.world.push()
    return True


def _lose_state(real: Real) -> bool:
    """The machine is gone with everything on it."""
    struck = _kill_control(real, "control SIGKILL")
    real.following.kill()
    _said(real.following)
    shutil.rmtree(real.world.folder / "state", ignore_errors=True)
    real.following = real.follow()
    return struck


def _ledger_away(real: Real) -> bool:
    remote, hidden = real.world.folder / "remote.git", real.world.folder / "hidden.git"
    remote.rename(hidden)
    time.sleep(1.0)
    hidden.rename(remote)
    return True


_OTHERS: Mapping[str, Callable[[Real], bool]] = {
    "simulator restarted": _restart_simulator,
    "two reconciles": _second_reconcile,
    "suspended": _suspend,
    "state lost": _lose_state,
    "ledger away": _ledger_away,
}


def _rest(real: Real) -> list[str]:
    """Reconcile until every run has its receipt, then once more."""
    gives_up = time.monotonic() + REST_S
    while time.monotonic() < gives_up:
        for process in [real.following, *real.others]:
            process.wait(timeout=REST_S)
            if "Traceback" in (said := _said(process)):
                return [f"crash: {said[-1500:]}"]
        real.others.clear()
        if all(record.is_over for record in real.world.records()):
            break
        real.following = real.follow()
    done = real.world.cli("sweep", "--yes", timeout_s=REST_S)
    return [] if done.returncode == 0 else [f"sweep: exit code {done.returncode}: {done.stderr[-500:]}"]


def check(real: Real) -> list[str]:
    """What is broken now that all is at rest."""
    state, broken = real.world.simulator.state(), list[str]()
    records = real.world.records()
    if not records and not real.struck["suspended"]:
        broken.append("receipt: the run was never claimed")
    for record in records:
        states = [event.state for event in record.events]
        if not record.is_over or states.count("closed") != 1:
            broken.append(f"receipt: {record.run_id} ends with {states[-3:]}")
        broken += [f"events: {record.run_id}: {problem}" for problem in broken_links(record.events)]
        mine = [pod for pod in state["pods"] if pod["name"].startswith(str(record.run["resource_prefix"]) + "-")]
        billed = sum(it["billed_usd"] for it in mine)
        if billed > record.run["budget"]["max_usd"]:
            broken.append(f"cap: ${billed:.4f}")
    ours = [pod for pod in state["pods"] if pod["name"].startswith(real.mark)]
    broken += [f"nothing left: pod {pod['name']}" for pod in ours if pod["status"] != "TERMINATED"]
    volumes = [volume for volume in state["volumes"] if volume["name"].startswith(real.mark)]
    broken += [f"nothing left: volume {volume['name']}" for volume in volumes if not volume["deleted"]]
    foreign = [pod for pod in state["pods"] if pod["name"] in FOREIGN]
    broken += [f"foreign: {pod['name']}" for pod in foreign if pod["status"] != "RUNNING"]
    if len(foreign) != len(FOREIGN):
        broken.append("foreign: pods of others are not listed any more")
    gives_up = time.monotonic() + 10.0
    while any(pod["processes"] for pod in real.world.simulator.state()["pods"] if pod["name"].startswith(real.mark)):
        if time.monotonic() > gives_up:
            return [*broken, "nothing left: a process of a pod that is gone"]
        time.sleep(0.1)
    return broken


def _said(process: Any) -> str:
    stdout, stderr = process.communicate(timeout=REST_S) if not process.stdout.closed else ("", "")
    return f"{stdout}{stderr}"


@contextlib.contextmanager
def neighbourhood(folder: Path) -> Iterator[RunningSimulator]:
    """A simulator whose account has pods of other people. Whoever plays may put another process in its place, and stops
    that one."""
    simulator = start(simulator_config(folder))
    for name in FOREIGN:
        body = {"name": name, "image": "x", "args": "sleep infinity", "gpu": {"id": "NVIDIA A40"}}
        simulator.request("POST", "/v2/pods", json=body).raise_for_status()
    try:
        yield simulator
    finally:
        simulator.stop(stop_pods=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults.real", description="Fault schedules with real processes.")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cloud", choices=CLOUDS, default=DEFAULT_CLOUD)
    options = parser.parse_args()
    began_s, struck, failed = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="pushtrain-real-") as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        simulator = stack.enter_context(neighbourhood(folder / "cloud"))
        for seed in range(options.first, options.first + options.n):
            at_s = time.monotonic()
            broken, its, simulator = play(seed, _made(folder / str(seed)), simulator, options.cloud)
            struck += its
            failed += bool(broken)
            took = f"{time.monotonic() - at_s:5.1f} s"
            print(f"seed {seed:4} {took}  {'; '.join(f'{at:g} s {kind}' for at, kind in draw(seed))}", flush=True)
            for sentence in broken:
                print(f"  broken: {sentence}", flush=True)
            shutil.rmtree(folder / str(seed), ignore_errors=True)
        simulator.stop(stop_pods=True)
    print(f"{options.n} schedules, {failed} broke a promise, {time.monotonic() - began_s:.0f} s")
    print("\n".join(f"  {kind:24} {count}" for kind, count in struck.most_common()))
    return int(failed > 0)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
