"""One reconcile tick over 1,000 finished and 100 active runs, beside the bare questions it cannot do without: one
`git ls-remote` and the cloud's lists of pods and volumes.

    python benchmarks/reconcile_tick.py [--finished N] [--active N] [--delay SECONDS]

The cloud is the simulator (a process on loopback) with a pod and a volume for each active run; the ledger is a bare
repository on the same disk, or with --delay one behind git's smart HTTP backend on loopback, where then every request,
of git and of the cloud, takes so much longer, as over a network. Prints seconds, ratios, and where a tick's time goes.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from support.big_ledger import ENV, git, make_source, median_s, runs_of, write_runs

from infra.simulator.server import RunningSimulator, SimulatorConfig, start
from pushtrain.control import Control
from pushtrain.reconcile import tick
from pushtrain.run import Run, ledger_prefix
from pushtrain.wiring import open_control


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--finished", type=int, default=1000)
    parser.add_argument("--active", type=int, default=100)
    parser.add_argument("--delay", type=float, default=0.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        config = SimulatorConfig(state_dir=base / "simulator", requests_per_minute=10**6, max_hours=0.5)
        simulator = start(config)
        try:
            measure(base, simulator, asked)
        finally:
            simulator.stop()


def measure(base: Path, simulator: RunningSimulator, asked: argparse.Namespace) -> None:
    finished, active, delay_s = asked.finished, asked.active, asked.delay
    remote = base / "ledger.git"
    git("init", "-q", "--bare", str(remote))
    git("config", "uploadpack.allowFilter", "true", cwd=remote)  # as at GitHub
    url = f"{smart_http(base, delay_s)}/ledger.git" if delay_s else f"file://{remote}"
    source, commit = make_source(base / "source", active)
    env = ENV | simulator.env() | {"PUSHTRAIN_LEDGER_URL": url, "PUSHTRAIN_SOURCE_URL": f"file://{source}"}
    env |= {"PUSHTRAIN_ENGINE": "embedded"}
    owned = {run.id: rent(simulator, run) for run, _ in runs_of(commit, url, 0, active)}
    began_s = time.perf_counter()
    write_runs(
        remote, runs_of("f" * 40, url, 10_000, finished), closed=True, pod=lambda run: ("p", "v"), log_bytes=4096
    )
    write_runs(remote, runs_of(commit, url, 0, active), closed=False, pod=lambda run: owned[run.id], log_bytes=100_000)
    print(f"{finished} finished and {active} active runs written in {time.perf_counter() - began_s:.1f} s")

    if delay_s:
        simulator.fault("slow", times=None, seconds=delay_s)
    said: list[str] = []

    def control() -> Control:
        """As a new process would make it."""
        return open_control(source, said.append, env)

    def cold() -> None:
        shutil.rmtree(source / ".pushtrain", ignore_errors=True)
        check(tick(control()).active, active, said)

    one = control()
    bare_s = median_s(lambda: (git("ls-remote", "--heads", url), one.cloud.find(ledger_prefix(url))))
    cold_s = median_s(cold, times=3)
    fresh_s = median_s(lambda: check(tick(control()).active, active, said))
    warm_s = median_s(lambda: check(tick(one).active, active, said))
    print(f"bare: git ls-remote and the lists of pods and volumes   {bare_s:6.3f} s")
    for name, seconds in (
        ("tick, no cache at all (an Action)", cold_s),
        ("tick, a new process with a warm cache (cron)", fresh_s),
        ("tick, the same process again (--follow)", warm_s),
    ):
        print(f"{name:55} {seconds:6.3f} s   ratio {seconds / bare_s:5.2f}")
    parts(url, one, control)


def parts(url: str, one: Control, new: Callable[[], Control]) -> None:
    """Milliseconds of each step of a tick, in a new process and in one that has ticked before."""
    print("where the time goes:")
    tips = one.ledger.look().open_runs
    for step, work in (
        ("git ls-remote, bare", lambda: git("ls-remote", "--heads", url)),
        ("ls-remote, sorted into open and closed runs", one.ledger.look),
        ("lists of pods and volumes", lambda: one.cloud.find(ledger_prefix(url))),
        ("new process: control plane put together", new),
        ("new process: specs at HEAD", lambda: new().source.desired()),
        ("new process: open runs out of the warm cache", lambda: new().ledger.read_all(tips)),
        ("same process: specs at HEAD", one.source.desired),
        ("same process: open runs", lambda: one.ledger.read_all(tips)),
    ):
        print(f"  {1000 * median_s(work):7.1f} ms  {step}")


def smart_http(base: Path, delay_s: float) -> str:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from git_http import GitHost

    return GitHost(base, ENV, delay_s=delay_s).url


def rent(simulator: RunningSimulator, run: Run) -> tuple[str, str]:
    """A volume and a pod under the run's names; returns the pod's and the volume's id."""
    order = {"name": run.volume_name, "size": 10, "dataCenter": "EU-SE-1"}
    volume = simulator.request("POST", "/v2/network-volumes", json=order).raise_for_status().json()["id"]
    body = {"name": run.pod_name(1), "image": "x", "gpu": {"id": "NVIDIA A40"}, "args": "sleep 1800"}
    pod = simulator.request("POST", "/v2/pods", json=body).raise_for_status().json()["id"]
    return str(pod), str(volume)


def check(found: list[str], active: int, said: list[str]) -> None:
    assert len(found) == active, said[-5:]


if __name__ == "__main__":
    os.nice(10)
    main()
