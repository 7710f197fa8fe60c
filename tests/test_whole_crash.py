"""Whole runs whose control plane dies: whoever comes next finds the same pod, the same deadline, and one receipt."""

import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from whole import World, end, make_world, simulator_config

from infra.simulator.server import start
from pushtrain.cloud import LISTS_BEHIND_S
from pushtrain.control import Control
from pushtrain.engine import Engine, Outputs, Program
from pushtrain.events import broken_links
from pushtrain.reconcile import tick
from pushtrain.wiring import open_control

pytest_plugins = ("whole",)


class Died(BaseException):
    """The process is gone: nothing after the line that raised it was done."""


class DyingEngine:
    """Does what the engine does, then dies before anybody hears of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name

    def up(self, stack: str, program: Program) -> Outputs:
        self._engine.up(stack, program)
        raise Died

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def test_a_control_plane_killed_at_every_stage_leaves_one_pod_and_one_receipt(world: World) -> None:
    jitter = random.Random(7)
    world.orders(steps=100_000, step_s=0.1)
    world.write_job()
    world.push()
    stages: dict[str, Callable[[], bool]] = {
        "claimed": lambda: bool(world.records()),
        "rungs recorded": lambda: _said(world, "provisioning"),
        "volume made": lambda: bool(_cloud(world)["volumes"]),
        "pod made": lambda: bool(_cloud(world)["pods"]),
        "pod recorded": lambda: _said(world, "provisioned"),
        "training": lambda: _said(world, "training"),
        "cancelled": lambda: _said(world, "destroying"),
        "pod gone": lambda: all(pod["status"] == "TERMINATED" for pod in _cloud(world)["pods"]),
        "volume gone": lambda: all(volume["deleted"] for volume in _cloud(world)["volumes"]),
    }
    killed = 0
    for stage, reached in stages.items():
        if stage == "cancelled":
            world.write_job(more="suspend: true\n")
            world.push()
        process = world.start_cli("reconcile", "--follow")
        gives_up = time.monotonic() + 150
        while process.poll() is None and not reached():
            assert time.monotonic() < gives_up, stage
        time.sleep(jitter.uniform(0.0, 0.03))
        killed += process.poll() is None
        process.kill()
        _, said = process.communicate()
        assert "Traceback" not in said, said
    assert killed >= 8, "the stages went by before anybody could be killed"
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 0, done.stderr
    record = world.record("job")
    assert end(record) == ("cancelled", "Suspended") and len(world.pods_made(record)) == 1
    assert broken_links(record.events) == []
    states = [event.state for event in record.events]
    assert states.count("provisioned") == 1 and states.count("destroying") == 1
    world.assert_nothing_left()


def test_a_control_plane_killed_again_and_again_still_ends_with_the_result(world: World) -> None:
    moments = random.Random(11)
    world.orders(steps=40, step_s=0.1)
    world.write_job()
    world.push()
    for _ in range(3):
        process = world.start_cli("reconcile", "--follow")
        time.sleep(moments.uniform(0.8, 2.2))
        process.kill()
        _, said = process.communicate()
        assert "Traceback" not in said, said
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 0, done.stderr
    record = world.record("job")
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    world.assert_nothing_left()


@pytest.mark.parametrize("state", ["kept", "lost"])
def test_a_crash_between_up_and_its_event_adopts_the_pod_under_its_own_deadline(world: World, state: str) -> None:
    world.orders(steps=60, step_s=0.05, hold_at=50)
    world.write_job()
    world.push()
    _die_after_up(world)
    (pod,) = world.control().cloud.find("").pods
    env = world.simulator.request("GET", f"/v2/pods/{pod.id}").json()["env"]
    if state == "lost":
        shutil.rmtree(world.folder / "state")
    late = world.control()
    late.clock = lambda: time.time() + 600.0
    tick(late)
    record = world.record("job")
    (provisioned,) = (event for event in record.events if event.state == "provisioned")
    assert provisioned.data["pod_id"] == pod.id
    assert int(provisioned.data["deadline_epoch_s"]) == int(env["PUSHTRAIN_DEADLINE_EPOCH_S"])
    world.let_go()
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    world.assert_nothing_left()


def test_a_pod_that_came_and_went_while_nobody_looked_is_still_on_the_receipt(world: World) -> None:
    world.write_job()
    world.push()
    _die_after_up(world)
    end_s = time.monotonic() + 150
    while world.control().cloud.find("").pods:
        assert time.monotonic() < end_s
        time.sleep(0.1)
    assert world.record("job").last.state == "finished"
    record = world.until(lambda record: record.is_over)
    (pod,) = world.pods_made(record)
    assert end(record) == ("succeeded", "")
    assert record.receipt and record.receipt["pods"] == [pod["id"]] and len(record.receipt["volumes"]) == 1
    assert record.receipt["billed_usd"] >= pod["billed_usd"] > 0
    world.assert_nothing_left()


def test_a_pod_made_while_another_reconcile_closed_the_run_does_not_stay(world: World) -> None:
    world.write_job()
    world.push()
    slow = world.control()

    class Overtaken(DyingEngine):
        def up(self, stack: str, program: Program) -> Outputs:
            world.write_job(more="suspend: true\n")
            world.push()
            other = open_control(world.repository, world.said.append, other_machine)
            tick(other)
            assert not world.record("job").is_over, "a create was cut short, for all it knows: its list may be behind"
            other.clock = lambda: time.time() + LISTS_BEHIND_S
            tick(other)
            assert world.record("job").is_over
            return self._engine.up(stack, program)

    other_machine = world.env | {"PUSHTRAIN_STATE_DIR": str(world.folder / "state-2")}
    slow.engine = Overtaken(slow.engine)
    tick(slow)
    record = world.record("job")
    assert end(record) == ("cancelled", "Suspended") and len(world.pods_made(record)) == 1
    world.assert_nothing_left()


def test_a_simulator_that_is_restarted_in_the_middle_costs_nothing_but_time(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    try:
        world.orders(steps=60, step_s=0.05, hold_at=50)
        world.write_job()
        world.push()
        following = world.start_cli("reconcile", "--follow")
        world.until(lambda record: record.last.state == "training", ticks=False)
        world.simulator.stop(stop_pods=False)
        time.sleep(0.5)
        world.simulator = start(simulator_config(world.folder / "simulator"))
        world.let_go()
        _, said = following.communicate(timeout=150)
        assert following.returncode == 0 and "Traceback" not in said, said
        record = world.record("job")
        assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
        assert [event.attempt for event in record.events if event.state == "provisioned"] == [1]
        world.assert_nothing_left()
    finally:
        world.close()


def _die_after_up(world: World) -> None:
    control: Control = world.control()
    control.engine = DyingEngine(control.engine)
    with pytest.raises(Died):
        tick(control)
    assert world.record("job").last.state != "provisioned"


def _said(world: World, state: str) -> bool:
    return any(event.state == state for record in world.records() for event in record.events)


def _cloud(world: World) -> Mapping[str, Any]:
    """Pods and volumes of this world, ended ones too."""
    state = world.simulator.state()
    mine = [str(record.run["resource_prefix"]) for record in world.records()]
    found = {kind: [it for it in state[kind] if it["name"].startswith(tuple(mine))] for kind in ("pods", "volumes")}
    return found if mine else {"pods": [], "volumes": []}
