"""The real CLI killed, interrupted, locked out: nothing lost, nothing billed twice, no lock broken without proof."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from engine_world import HF_CANARY, LEDGER_CANARY, World

from infra.engines import select
from infra.program import program
from pushtrain.engine import Engine
from pushtrain.errors import StackLocked

pytest_plugins = ("engine_fixtures",)
DRIVER = Path(__file__).with_name("engine_driver.py")
pytestmark = pytest.mark.skipif(
    shutil.which("pulumi") is None,
    reason="pulumi CLI not on PATH: crash, signal and lock of the real CLI were not tried",
)


@dataclass
class Scene:
    """One stack whose state is in `state_dir`; `said` is what the engine said aloud."""

    world: World
    state_dir: Path
    said: list[str] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        return {**self.world.environ, "PUSHTRAIN_ENGINE": "pulumi"}

    def engine(self) -> Engine:
        return select(self.environ, state_dir=self.state_dir, say=self.said.append)

    def up(self, attempt: int = 1) -> dict[str, object]:
        return dict(self.engine().up(self.world.stack, program(self.world.plan(attempt=attempt))))

    def destroy(self) -> None:
        self.engine().destroy(self.world.stack)

    def pods(self) -> list[str]:
        return [pod.name for pod in self.world.live().pods]

    def locks(self) -> list[Path]:
        return list((self.state_dir / "pulumi" / ".pulumi" / "locks").rglob("*.json"))

    @contextmanager
    def another(self, verb: str = "up") -> Iterator["subprocess.Popen[str]"]:
        """The same engine in a process of its own; whatever it left running is killed at the end."""
        started = subprocess.Popen(
            [sys.executable, str(DRIVER), verb, str(self.state_dir), self.world.prefix],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield started
        finally:
            for pid in [*self.processes(), started.pid]:
                _kill(pid)
            started.communicate()

    @contextmanager
    def creating(self, slow_s: float = 1.5) -> Iterator["subprocess.Popen[str]"]:
        """An `up` whose pod exists while nobody has its id yet; that takes another `slow_s` seconds."""
        self.world.simulator.fault("slow", times=None, seconds=slow_s, operation="list_pods")
        with self.another() as driver:
            wait_until(lambda: len(self.world.ever()) == 2, "the pod exists, its create not answered")
            yield driver
        self.world.clear_faults()

    def processes(self) -> list[int]:
        """The CLI and its provider, whoever their parent is: they have this stack's credentials."""
        key = f"RUNPOD_API_KEY={self.world.environ['RUNPOD_API_KEY']}".encode()
        mine = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                environ = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if key in environ and any(it.startswith(b"PUSHTRAIN_CLI_CALL=") for it in environ):
                mine.append(int(path.parent.name))
        return mine

    def killed_while_creating(self) -> int:
        """The CLI, its provider and the engine above them, all at once. Returns the CLI's process id."""
        with self.creating() as driver:
            (lock,) = self.locks()
            owner = int(json.loads(lock.read_text())["pid"])
            driver.kill()
            for pid in self.processes():
                _kill(pid)
        assert self.pods() == [f"{self.world.prefix}-a1"], "the create was not in flight"
        return owner

    def kept(self) -> list[bytes]:
        """Every file of the state folder: checkpoints, history, backups, locks, records of calls."""
        return [path.read_bytes() for path in self.state_dir.rglob("*") if path.is_file()]

    def rewrite_lock(self, **changed: object) -> Path:
        (lock,) = self.locks()
        lock.write_text(json.dumps(json.loads(lock.read_text()) | changed))
        return lock


@pytest.fixture
def scene(stack_world: World, tmp_path: Path) -> Scene:
    return Scene(stack_world, tmp_path / "state")


def test_a_cli_killed_in_the_middle_of_a_create_leaves_nothing_to_destroy(scene: Scene) -> None:
    owner = scene.killed_while_creating()
    scene.destroy()
    assert not scene.world.live() and not scene.locks()
    assert scene.engine().outputs(scene.world.stack) == {}
    (line,) = scene.said
    assert f"process {owner}" in line and "breaking the lock" in line
    assert not list((scene.state_dir / "pulumi-calls").iterdir())


def test_up_after_such_a_kill_adopts_the_pod_and_destroy_then_finds_it(scene: Scene) -> None:
    scene.killed_while_creating()
    outputs = scene.up()
    assert [pod.id for pod in scene.world.live().pods] == [outputs["pod_id"]]
    assert len([it for it in scene.world.ever() if "ended_at" in it]) == 1, "a second pod was made"
    assert scene.up() == outputs
    scene.destroy()
    assert not scene.world.live()


def test_the_next_attempt_after_such_a_kill_is_the_only_pod(scene: Scene) -> None:
    scene.killed_while_creating()
    outputs = scene.up(attempt=2)
    assert scene.pods() == [f"{scene.world.prefix}-a2"]
    pods = {it["name"]: it for it in scene.world.ever() if "ended_at" in it}
    first, second = (pods[f"{scene.world.prefix}-a{attempt}"] for attempt in (1, 2))
    assert first["ended_at"] <= second["created_at"], "two pods were billed at once"
    assert outputs["volume_id"] == scene.world.live().volumes[0].id and len(scene.world.live().volumes) == 1
    scene.destroy()
    assert not scene.world.live()


def test_a_destroy_that_was_killed_is_taken_up_again_by_destroy_and_by_up(scene: Scene) -> None:
    first = scene.up()
    scene.world.simulator.fault("slow", times=None, seconds=20, operation="delete_pod")
    (state,) = (scene.state_dir / "pulumi" / ".pulumi" / "stacks").rglob("*.json")
    with scene.another("destroy"):
        wait_until(lambda: '"deleting"' in state.read_text(), "the pod's delete is on its way")
    scene.world.clear_faults()
    scene.world.cloud.terminate(str(first["pod_id"]))
    again = scene.up()
    assert [pod.id for pod in scene.world.live().pods] == [again["pod_id"]] and again["volume_id"] == first["volume_id"]
    scene.world.simulator.fault("slow", times=None, seconds=20, operation="delete_pod")
    with scene.another("destroy"):
        wait_until(lambda: '"deleting"' in state.read_text(), "the other pod's delete is on its way")
    scene.world.clear_faults()
    scene.destroy()
    assert not scene.world.live() and not scene.locks()


def test_a_lock_of_another_machine_is_never_broken_and_the_command_for_a_person_works(scene: Scene) -> None:
    scene.killed_while_creating()
    hour_ago = (datetime.now(timezone.utc) - timedelta(minutes=62)).isoformat()
    scene.rewrite_lock(hostname="runner-7", username="ci", pid=4711)
    for call in (scene.up, scene.destroy):
        with pytest.raises(StackLocked, match=r"locked by ci@runner-7 \(process 4711, for \d+ s\)") as refused:
            call()
        assert refused.value.passing, "somebody may well be at work there"
    scene.rewrite_lock(timestamp=hour_ago)
    with pytest.raises(StackLocked, match=r"ci@runner-7 \(process 4711, for 62 min\)") as refused:
        scene.destroy()
    assert not refused.value.passing and len(scene.pods()) == 1 and scene.said == []

    hint = refused.value.hint or ""
    command = hint.partition("then: ")[2]
    assert not re.search("canary", hint)
    person = {"PATH": os.environ["PATH"], "HOME": scene.environ["HOME"], "PULUMI_SKIP_UPDATE_CHECK": "1"}
    subprocess.run(["sh", "-c", command], env=person, cwd="/", capture_output=True, timeout=150, check=True)
    assert not scene.locks()
    scene.destroy()
    assert not scene.world.live()


def test_a_dead_process_id_of_this_host_name_alone_is_no_proof(scene: Scene) -> None:
    """Another container, or another machine of the same name, has process ids of its own."""
    scene.killed_while_creating()
    shutil.rmtree(scene.state_dir / "pulumi-calls")
    with pytest.raises(StackLocked) as refused:
        scene.destroy()
    assert not refused.value.passing and "pulumi cancel" in (refused.value.hint or "")
    assert scene.locks() and scene.pods()


def test_a_stack_somebody_works_on_is_left_to_them(scene: Scene) -> None:
    with scene.creating(slow_s=30) as driver:
        (lock,) = scene.locks()
        owner = json.loads(lock.read_text())["pid"]
        for call in (scene.destroy, scene.up):
            with pytest.raises(StackLocked, match=rf"process {owner}, for") as refused:
                call()
            assert refused.value.passing and scene.said == []
        assert driver.poll() is None and scene.locks() == [lock]


def test_of_two_that_find_a_dead_lock_one_breaks_it_and_nobody_the_others(scene: Scene) -> None:
    scene.killed_while_creating()
    with scene.another("destroy") as one, scene.another("destroy") as two:
        said = [it.communicate(timeout=150)[0] for it in (one, two)]
        codes = [one.returncode, two.returncode]
    assert 0 in codes, said
    for code, text in zip(codes, said, strict=True):
        assert code == 0 or "StackLocked" in text, text
    assert sum(text.count("breaking the lock") for text in said) == 1, said
    assert not scene.world.live() and not scene.locks()


def test_we_are_killed_and_the_cli_brings_its_step_to_an_end(scene: Scene) -> None:
    with scene.creating() as driver:
        driver.kill()
        driver.wait()
        wait_until(lambda: not scene.processes(), "the CLI and its provider end by themselves")
    (pod,) = scene.world.live().pods
    assert not scene.locks() and pod.id in json.dumps(scene.engine().export(scene.world.stack))
    scene.destroy()
    assert not scene.world.live() and scene.said == []


def test_a_provider_that_outlived_everybody_is_ended_before_the_lock_is_broken(scene: Scene) -> None:
    with scene.creating(slow_s=5) as driver:
        (lock,) = scene.locks()
        driver.kill()
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
        driver.wait()
        assert scene.processes(), "nothing outlived the CLI"
        scene.destroy()
        assert not scene.processes()
    assert not scene.world.live()


def test_the_cli_is_killed_and_we_are_not(scene: Scene) -> None:
    with scene.creating() as driver:
        (lock,) = scene.locks()
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
        said = driver.communicate(timeout=150)[0]
        assert "'pulumi up' was killed (SIGKILL)" in said
        wait_until(lambda: not scene.processes(), "its provider is gone")
    outputs = scene.up()
    assert [pod.id for pod in scene.world.live().pods] == [outputs["pod_id"]]
    scene.destroy()
    assert not scene.world.live()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_cli_which_saves_its_state_and_lets_go_of_its_lock(
    signum: signal.Signals, scene: Scene
) -> None:
    with scene.creating() as driver:
        driver.send_signal(signum)
        said = driver.communicate(timeout=150)[0]
        assert driver.returncode == -signum or "KeyboardInterrupt" in said
        assert not scene.processes() and not scene.locks(), "the CLI was killed, not interrupted"
    (state,) = (scene.state_dir / "pulumi").rglob(f"{scene.world.stack}.json")
    assert scene.world.live().pods[0].id in state.read_text(), "the create in flight was not written down"
    assert not list((scene.state_dir / "pulumi-calls").iterdir())
    scene.destroy()
    assert not scene.world.live()


def test_no_secret_is_in_the_arguments_of_any_process_nor_in_the_state(scene: Scene) -> None:
    given = {
        "AWS_SECRET_ACCESS_KEY": "canary-secret-bucket-key",
        "PULUMI_ACCESS_TOKEN": "pul-canary0secret0token",
        "PULUMI_CONFIG_PASSPHRASE": "canary secret passphrase",
    }
    scene.world.environ.update(given)
    secrets = [HF_CANARY, LEDGER_CANARY, scene.environ["RUNPOD_API_KEY"], *given.values()]
    with scene.creating() as driver:
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in scene.processes()]
        assert any(b"up" in line.split(b"\0") for line in lines) and len(lines) >= 2, lines
        half_way = scene.kept()
        said = driver.communicate(timeout=150)[0]
    assert half_way and len(scene.kept()) >= len(half_way)
    for raw in [*lines, *half_way, *scene.kept(), said.encode()]:
        assert not [secret for secret in secrets if secret.encode() in raw]


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 150.0) -> None:
    gives_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < gives_up, f"never: {what}"
        time.sleep(0.05)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
