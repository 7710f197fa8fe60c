"""What only the pulumi engine promises: a CLI found or missed clearly, interrupted kindly, unlocked with care."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_world import World

from infra.engines import engine_line, select
from infra.program import program
from infra.pulumi_cli import MINIMUM, PulumiCli
from infra.pulumi_lock import Calls, Owner
from pushtrain.errors import EngineError

pytest_plugins = ("engine_fixtures",)
DRIVER = Path(__file__).with_name("engine_driver.py")
needs_cli = pytest.mark.skipif(
    shutil.which("pulumi") is None, reason="pulumi CLI not on PATH: crash and signal of the real CLI were not tried"
)


def test_the_engine_is_the_one_named_or_the_one_at_hand_and_never_another(tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path / "empty")}
    with_cli = {"PATH": str(_cli(tmp_path, f"echo v{MINIMUM}").parent)}
    assert engine_line(select(bare, state_dir=tmp_path / "s")) == f"engine: embedded, state in {tmp_path / 's'}"
    assert engine_line(select(with_cli, state_dir=tmp_path / "s")) == (
        f"engine: pulumi {MINIMUM}, state in {(tmp_path / 's' / 'pulumi').as_uri()}"
    )
    assert select({**with_cli, "PUSHTRAIN_ENGINE": "embedded"}, state_dir=tmp_path).name == "embedded"
    with pytest.raises(EngineError, match="not on PATH") as refused:
        select({**bare, "PUSHTRAIN_ENGINE": "pulumi"}, state_dir=tmp_path)
    assert "PUSHTRAIN_ENGINE=embedded" in (refused.value.hint or "")
    with pytest.raises(EngineError, match="terraform"):
        select({**with_cli, "PUSHTRAIN_ENGINE": "terraform"}, state_dir=tmp_path)


def test_the_state_backend_is_shown_without_its_key(tmp_path: Path) -> None:
    environ = {
        "PATH": str(_cli(tmp_path, f"echo v{MINIMUM}").parent),
        "PULUMI_BACKEND_URL": "s3://key:canary-secret-key@bucket?region=auto",
    }
    assert engine_line(select(environ, state_dir=tmp_path)).endswith("state in s3://***@bucket?region=auto")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo v3.100.0", r"is version 3\.100\.0"),
        (f"echo v{MINIMUM}-dev.0", "is version .*-dev"),
        ("echo hello", "does not say its version: it says 'hello' and exits with 0"),
        ("echo canary >&2; exit 3", "it says 'canary' and exits with 3"),
        ("exit 3", "it says 'nothing'"),
        ("sleep 60", "said nothing for 0.5 s"),
    ],
)
def test_a_cli_that_cannot_be_used_is_refused_before_anything_happens(script: str, said: str, tmp_path: Path) -> None:
    path = f"{_cli(tmp_path, script).parent}:{os.environ['PATH']}"
    with pytest.raises(EngineError, match=said) as refused:
        PulumiCli({"PATH": path}, version_timeout_s=0.5)
    assert str(MINIMUM) in (refused.value.hint or "") and "setup-pulumi" in (refused.value.hint or "")


def test_a_newer_cli_is_taken_also_an_unfinished_one(tmp_path: Path) -> None:
    newer = f"{MINIMUM.bump_minor()}-alpha.1"
    assert str(PulumiCli({"PATH": str(_cli(tmp_path, f"echo v{newer}").parent)}).version) == newer


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    cli = _cli(tmp_path, "echo v1")
    cli.write_bytes(b"\x7fELF of another machine")
    with pytest.raises(EngineError, match="bin/pulumi does not start: Exec format error"):
        PulumiCli({"PATH": str(cli.parent)})
    cli.chmod(0o644)
    with pytest.raises(EngineError, match="bin/pulumi is not executable"):
        PulumiCli({"PATH": str(cli.parent)})


def test_a_cli_that_never_ends_is_interrupted(tmp_path: Path) -> None:
    says_version = f'[ "$1" = version ] && echo v{MINIMUM} && exit'
    saves_when_interrupted = f'trap "kill \\$!; echo saved >> {tmp_path}/log; exit 1" INT; sleep 60 & wait'
    script = f"{says_version}\n{saves_when_interrupted}"
    cli = PulumiCli({"PATH": f"{_cli(tmp_path, script).parent}:{os.environ['PATH']}"}, timeout_s=0.5)
    with pytest.raises(EngineError, match="'pulumi up' took more than"):
        cli.run(["up"], str(tmp_path), {})
    assert (tmp_path / "log").read_text() == "saved\n"


def test_a_killed_cli_leaves_no_process_and_its_call_on_record(tmp_path: Path) -> None:
    """Its provider runs in a process group of its own, and would wait for ever."""
    provider = f"setsid sleep 60 > /dev/null 2>&1 & echo $! > {tmp_path}/provider"
    script = f'[ "$1" = version ] && echo v{MINIMUM} && exit\n{provider}\nsleep 0.2; kill -9 $$'
    calls = Calls(tmp_path / "calls")
    cli = PulumiCli({"PATH": f"{_cli(tmp_path, script).parent}:{os.environ['PATH']}"}, calls)
    with pytest.raises(EngineError, match=r"'pulumi up' was killed \(SIGKILL\)"):
        cli.run(["up"], str(tmp_path), {})
    _wait_until(lambda: not _alive(int((tmp_path / "provider").read_text())), "the provider is gone", 10)
    (record,) = (tmp_path / "calls").iterdir()
    owner = Owner(user="x", host=socket.gethostname(), pid=json.loads(record.read_text())["pid"], since_s=None)
    assert calls.is_dead(owner)


@needs_cli
def test_a_cli_killed_in_the_middle_of_a_create_leaves_nothing_to_destroy(stack_world: World, tmp_path: Path) -> None:
    owner = _killed_during_create(stack_world, tmp_path)
    (lock,) = _locks(tmp_path)
    assert json.loads(lock.read_text())["pid"] == owner
    assert [pod.name for pod in stack_world.live().pods] == [f"{stack_world.prefix}-a1"], "the create was not in flight"
    engine = select({**stack_world.environ, "PUSHTRAIN_ENGINE": "pulumi"}, state_dir=tmp_path / "state")
    engine.destroy(stack_world.stack)
    assert not stack_world.live() and not _locks(tmp_path)
    assert engine.outputs(stack_world.stack) == {}


@needs_cli
def test_up_after_such_a_kill_adopts_the_pod_and_a_lock_of_another_machine_is_left_alone(
    stack_world: World, tmp_path: Path
) -> None:
    _killed_during_create(stack_world, tmp_path)
    engine = select({**stack_world.environ, "PUSHTRAIN_ENGINE": "pulumi"}, state_dir=tmp_path / "state")
    (lock,) = _locks(tmp_path)
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"hostname": "runner-7", "username": "ci"}))
    for call in (
        lambda: engine.up(stack_world.stack, program(stack_world.plan())),
        lambda: engine.destroy(stack_world.stack),
    ):
        with pytest.raises(EngineError, match="locked by ci@runner-7") as refused:
            call()
        assert refused.value.reason == "StackLocked" and "pulumi cancel" in (refused.value.hint or "")
    assert len(stack_world.live().pods) == 1
    lock.unlink()

    outputs = engine.up(stack_world.stack, program(stack_world.plan()))
    assert [pod.id for pod in stack_world.live().pods] == [outputs["pod_id"]]
    assert len([it for it in stack_world.ever() if "ended_at" in it]) == 1, "a second pod was made"
    engine.destroy(stack_world.stack)
    assert not stack_world.live()


@needs_cli
def test_an_interrupt_reaches_the_cli_which_saves_its_state_and_lets_go_of_its_lock(
    stack_world: World, tmp_path: Path
) -> None:
    stack_world.simulator.fault("slow", times=None, seconds=1.5, operation="list_pods")
    driver = _driver(stack_world, tmp_path)
    try:
        _wait_until(lambda: len(stack_world.ever()) == 2, "the pod exists, its create not answered")
        driver.send_signal(signal.SIGINT)
        stderr = driver.communicate(timeout=60)[1]
    finally:
        driver.kill()
        driver.wait()
    assert "KeyboardInterrupt" in stderr
    assert not _locks(tmp_path), "the CLI was killed, not interrupted"
    (state,) = (tmp_path / "state").rglob(f"{stack_world.stack}.json")
    stack_world.clear_faults()
    assert stack_world.live().pods[0].id in state.read_text(), "the create in flight was not written down"
    select({**stack_world.environ, "PUSHTRAIN_ENGINE": "pulumi"}, state_dir=tmp_path / "state").destroy(
        stack_world.stack
    )
    assert not stack_world.live()


def _killed_during_create(stack_world: World, tmp_path: Path) -> int:
    """Kills the CLI, and the engine above it, while the pod exists and nobody has its id. Returns the CLI's pid."""
    stack_world.simulator.fault("slow", times=None, seconds=1.5, operation="list_pods")
    driver = _driver(stack_world, tmp_path)
    try:
        _wait_until(lambda: len(stack_world.ever()) == 2, "the pod exists, its create not answered")
        owner = int(json.loads(_locks(tmp_path)[0].read_text())["pid"])
        for pid in [owner, *_descendants(owner)]:
            os.kill(pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.communicate()
    stack_world.clear_faults()
    return owner


def _descendants(pid: int) -> list[int]:
    """The CLI starts its provider in a process group of its own; alone it would wait for ever."""
    children = [int(it) for path in Path(f"/proc/{pid}/task").glob("*/children") for it in path.read_text().split()]
    return [it for child in children for it in (child, *_descendants(child))]


def _driver(stack_world: World, tmp_path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(DRIVER), "up", str(tmp_path / "state"), stack_world.prefix],
        env={**stack_world.environ, "PUSHTRAIN_ENGINE": "pulumi"},
        stderr=subprocess.PIPE,
        text=True,
    )


def _locks(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "state" / "pulumi" / ".pulumi" / "locks").rglob("*.json"))


def _cli(tmp_path: Path, script: str) -> Path:
    """A program called pulumi that does what `script` says."""
    path = tmp_path / "bin" / "pulumi"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    gives_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < gives_up, f"never: {what}"
        time.sleep(0.05)
