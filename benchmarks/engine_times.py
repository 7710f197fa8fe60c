"""Seconds of preview, up and destroy for each engine, against the simulator on loopback: what the real CLI costs, and
RunPod's own plugin.

One volume and one pod, ROUNDS times, each in a stack of its own; pods get no process. Prints medians and the ratio.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from infra.engines import engine_line, select
from infra.plan import StackPlan
from infra.program import program
from infra.simulator.server import RunningSimulator, SimulatorConfig, start
from pushtrain.cloud import PodRequest, VolumeRequest
from pushtrain.engine import Engine

ROUNDS = 5


def main() -> None:
    engines = ["embedded"]
    if shutil.which("pulumi"):
        engines += ["pulumi", *(["pulumi-runpod"] if shutil.which("pulumi-resource-runpod") else [])]
    seconds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        simulator = start(SimulatorConfig(state_dir=Path(folder, "simulator")))
        try:
            simulator.fault("never_starts", times=None)
            for name in engines:
                seconds[name] = measured(name, Path(folder, name), simulator)
        finally:
            simulator.stop()
    report(seconds)


def measured(name: str, state_dir: Path, simulator: RunningSimulator) -> dict[str, float]:
    """Median seconds of each call of engine `name`."""
    environ = {**os.environ, **simulator.env(), "PUSHTRAIN_ENGINE": "embedded" if name == "embedded" else "pulumi"}
    if name == "pulumi-runpod":
        environ |= {"PUSHTRAIN_RUNPOD_PROVIDER": name, "PULUMI_CONFIG_PASSPHRASE": "benchmark"}
    engine = select(environ, state_dir=state_dir)
    print(f"{name}: {engine_line(engine)}")
    rounds = [one_round(engine, environ, f"pt-{name}-{number}") for number in range(ROUNDS)]
    return {call: statistics.median(times[call] for times in rounds) for call in rounds[0]}


def one_round(engine: Engine, environ: Mapping[str, str], name: str) -> dict[str, float]:
    wanted, stack = program(plan(name), environ), f"run-{name}"
    calls: dict[str, Callable[[], object]] = {
        "preview of a new stack": lambda: engine.preview(stack, wanted),
        "up": lambda: engine.up(stack, wanted),
        "up, nothing to do": lambda: engine.up(stack, wanted),
        "preview, nothing to do": lambda: engine.preview(stack, wanted),
        "export": lambda: engine.export(stack),
        "destroy": lambda: engine.destroy(stack),
        "destroy of an unknown stack": lambda: engine.destroy(stack),
    }
    times = {}
    for call, work in calls.items():
        began = time.perf_counter()
        work()
        times[call] = time.perf_counter() - began
    return times


def plan(name: str) -> StackPlan:
    pod = PodRequest(
        name=f"{name}-a1", image="benchmark:1", gpu="NVIDIA A40", gpu_count=1, tier="SECURE", disk_gb=20, args="sleep 1"
    )
    volume = VolumeRequest(name=f"{name}-v", size_gb=20, data_center="EU-SE-1")
    return StackPlan(run_id=name, cloud="runpod", volume=volume, pod=pod)


def report(seconds: dict[str, dict[str, float]]) -> None:
    for call, embedded in seconds["embedded"].items():
        line = f"{call:30} embedded {embedded:7.3f} s"
        for name in [name for name in seconds if name != "embedded"]:
            real = seconds[name][call]
            line += f"   {name} {real:7.3f} s   ratio {real / embedded:6.1f}"
        print(line)
    if "pulumi" not in seconds:
        print("pulumi: not measured, its CLI is not on PATH ('pushtrain setup-pulumi' downloads it)")
    elif "pulumi-runpod" not in seconds:
        print("pulumi-runpod: not measured, pulumi-resource-runpod is not on PATH (README names the command)")


if __name__ == "__main__":
    main()
