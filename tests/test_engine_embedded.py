"""What only the embedded engine promises: it heals from a crash at any moment, and one process works on a stack."""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pulumi
import pytest
from engine_world import World

from infra.engine_embedded import EmbeddedEngine
from infra.engines import select
from infra.program import program
from pushtrain.engine import Engine
from pushtrain.errors import EngineError, NoCapacity

pytest_plugins = ("engine_fixtures",)
DRIVER = Path(__file__).with_name("engine_driver.py")


@pytest.fixture
def engine(stack_world: World, tmp_path: Path) -> Engine:
    return select({**stack_world.environ, "PUSHTRAIN_ENGINE": "embedded"}, state_dir=tmp_path / "state")


def test_a_crash_at_any_moment_of_up_or_destroy_leaks_nothing_and_heals(stack_world: World, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, str(DRIVER), "crashes", str(state_dir), stack_world.prefix],
        env=stack_world.environ,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    seen = json.loads(done.stdout)
    for story in ("up, then destroy", "destroy, then again"):
        assert [moment["left"] for moment in seen[story]] == [[]] * len(seen[story]), story
    a2 = [f"{stack_world.prefix}-a2 NVIDIA RTX A6000", f"{stack_world.prefix}-v"]
    for moment in seen["new attempt, then again"]:
        assert moment["live"] == a2 and moment["outputs_true"] and moment["same"], moment
    deaths = {story: sum(moment["died"] for moment in moments) for story, moments in seen.items()}
    assert min(deaths.values()) > 10, f"hardly any moment was hit: {deaths}"


def test_a_second_process_is_told_who_works_and_a_dead_ones_lock_is_nobodys(
    engine: Engine, stack_world: World, tmp_path: Path
) -> None:
    stack_world.simulator.fault("slow", times=None, seconds=5, operation="list_pods")
    owner = subprocess.Popen(
        [sys.executable, str(DRIVER), "up", str(tmp_path / "state"), stack_world.prefix],
        env={**stack_world.environ, "PUSHTRAIN_ENGINE": "embedded"},
    )
    try:
        _wait_until(lambda: bool(stack_world.ever()), "the first process created its volume")
        for locked in (
            lambda: engine.up(stack_world.stack, program(stack_world.plan())),
            lambda: engine.destroy(stack_world.stack),
        ):
            with pytest.raises(EngineError, match=str(owner.pid)) as refused:
                locked()
            assert refused.value.reason == "StackLocked"
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    stack_world.clear_faults()
    engine.destroy(stack_world.stack)
    assert not stack_world.live()
    assert not list((tmp_path / "state").iterdir())


def test_a_program_in_another_thread_waits_for_its_own_outputs_only(tmp_path: Path) -> None:
    ended = []

    def outer() -> None:
        pulumi.export("is", pulumi.Output.from_input("not there yet"))
        inner = threading.Thread(
            target=EmbeddedEngine(tmp_path / "inner").up, args=("run-inner", lambda: None), daemon=True
        )
        inner.start()
        inner.join(10)
        ended.append(not inner.is_alive())

    assert EmbeddedEngine(tmp_path / "outer").up("run-outer", outer) == {"is": "not there yet"}
    assert ended == [True]


def test_a_failed_step_prints_nothing(engine: Engine, stack_world: World, capfd: pytest.CaptureFixture[str]) -> None:
    stack_world.simulator.fault("no_capacity", times=None, pod_name=f"{stack_world.prefix}-*")
    with pytest.raises(NoCapacity):
        engine.up(stack_world.stack, program(stack_world.plan()))
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_a_program_that_fails_is_an_engine_error_and_keeps_what_was_made(engine: Engine, stack_world: World) -> None:
    def broken() -> None:
        program(stack_world.plan())()
        raise ValueError("canary in the coal mine")

    with pytest.raises(EngineError, match="ValueError: canary in the coal mine"):
        engine.up(stack_world.stack, broken)
    engine.destroy(stack_world.stack)
    assert not stack_world.live()


def test_a_volume_that_is_gone_stands_in_nobodys_way(engine: Engine, stack_world: World) -> None:
    """Swept while the run went elsewhere: what the state remembers of it is nothing that could be lost."""
    plan = replace(stack_world.plan(), pod=None)
    first = engine.up(stack_world.stack, program(plan))
    elsewhere = program(replace(plan, volume=replace(plan.volume, data_center="US-KS-2")))
    with pytest.raises(EngineError, match="checkpoints would be lost"):
        engine.up(stack_world.stack, elsewhere)
    stack_world.cloud.delete_volume(first["volume_id"])
    second = engine.up(stack_world.stack, elsewhere)
    (volume,) = stack_world.live().volumes
    assert (volume.id, volume.data_center) == (second["volume_id"], "US-KS-2")
    engine.destroy(stack_world.stack)
    assert not stack_world.live()


def test_a_resource_that_is_not_ours_is_refused(engine: Engine, stack_world: World) -> None:
    with pytest.raises(EngineError, match="nobody here knows how to carry out a Bucket"):
        engine.up(stack_world.stack, lambda: pulumi.CustomResource("aws:s3:Bucket", "bucket") and None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a state file"),
        ('{"version": 1, "resources": [{"shape": "unknown"}], "outputs": {}}', "not a state file"),
        ('{"version": 2, "resources": [], "outputs": {}}', "version 2"),
    ],
)
def test_a_state_file_it_cannot_read_is_never_taken_for_an_empty_one(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)

    def connect(name: str) -> object:
        raise AssertionError(f"asked {name} on the strength of a state nobody can read")

    engine = EmbeddedEngine(tmp_path, connect)  # type: ignore[arg-type]
    for call in (engine.outputs, engine.destroy, lambda stack: engine.up(stack, lambda: None)):
        with pytest.raises(EngineError, match=said):
            call("s")
    assert (tmp_path / "s.json").read_text() == text


def test_several_stacks_and_several_ups_live_in_one_process(engine: Engine, stack_world: World) -> None:
    for stack in ("one", "two"):
        assert engine.up(stack, lambda stack=stack: pulumi.export("stack", stack)) == {"stack": stack}
    assert engine.outputs("one") == {"stack": "one"}
    assert pulumi.runtime.get_root_resource() is None, "the SDK's settings leaked out of the engine"


def _wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 150.0) -> None:
    gives_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < gives_up, f"never: {what}"
        time.sleep(0.05)


def test_bringing_up_a_stack_leaves_pythons_pickler_as_it_was(engine: Engine, stack_world: World) -> None:
    """Pulumi's SDK wraps it at each resource: a process that follows for hours would run out of stack."""
    names = ("_batch_setitems", "save_dict")
    before = [getattr(pickle._Pickler, name) for name in names]
    engine.up(stack_world.stack, stack_world.program())
    assert [getattr(pickle._Pickler, name) for name in names] == before
    engine.destroy(stack_world.stack)
