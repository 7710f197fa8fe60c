"""`pushtrain cp` where ssh takes no files: typed into the proxy's terminal, carried by runpodctl's codes."""

import hashlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ssh_world import MISSING, make_key, needs_clients, register
from whole import World, make_world

from infra.simulator.server import RunningSimulator
from infra.simulator.ssh_ports import write_runpodctl
from pushtrain.errors import SshError
from pushtrain.ssh import codes, parcel
from pushtrain.ssh.codes import Local, masked
from pushtrain.ssh.copying import Ways, carry
from pushtrain.ssh.places import Copy, read_places
from pushtrain.ssh.session import open_line
from pushtrain.ssh.typed import Cut, typed_shell

pytest_plugins = ("whole",)
pytestmark = pytest.mark.timeout(600)
CODE = re.compile(r"\d{4}(-[a-z]+){3}-0")
STRANGE = 'it\'s a "strange" $(name) ümlaut ?[1];&|\\ -x.txt'
PATIENCE_S = 150.0


@pytest.fixture(scope="module")
def far(cloud: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a run whose pods have no address from outside, and a runpodctl here that reaches them."""
    if MISSING:
        pytest.skip(f"not installed here: {', '.join(MISSING)}")
    world = make_world(tmp_path_factory.mktemp("far"), steps=100_000, step_s=0.1, simulator=cloud)
    register(world, make_key(world))
    cloud.fault("no_public_ip", times=None, pod_name="*-far-*")
    world.env["PATH"] = f"{cloud.state_dir}/bin:{world.env['PATH']}"
    world.write_job("far")
    world.push()
    world.until(lambda record: record.events[-1].state == "training", timeout_s=PATIENCE_S)
    yield world


def volume(world: World) -> Path:
    (path,) = (world.simulator.state_dir / "volumes").iterdir()
    return path


def copied(world: World, *places: str, **more: Callable[[str], object]) -> None:
    line = open_line(world.repository, world.env, world.said.append)
    ways = Ways(has_rsync=True, progress=False, **more)
    carry(line, read_places(places[:-1], places[-1]), ways, wait_s=PATIENCE_S)


@needs_clients
def test_files_and_folders_go_to_a_pod_behind_the_proxy_and_come_back(far: World, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    for name in (STRANGE, "sub/deep", "run.sh"):
        (mine / name).write_text(name)
    (mine / "run.sh").chmod(0o755)
    (mine / "link").symlink_to("run.sh")
    shown: list[str] = []
    copied(far, str(mine / STRANGE), "far:one/", show=shown.append)
    assert (volume(far) / "one" / STRANGE).read_text() == STRANGE
    copied(far, str(mine / "run.sh"), "far:one/called.sh")
    assert (volume(far) / "one" / "called.sh").read_text() == "run.sh"
    copied(far, str(mine), "far:all")
    there = volume(far) / "all" / "mine"
    assert sorted(it.name for it in there.iterdir()) == sorted([STRANGE, "link", "run.sh", "sub"])
    assert os.access(there / "run.sh", os.X_OK) and (there / "link").is_symlink()

    copied(far, f"far:one/{STRANGE}", f"{tmp_path}/back/")
    assert (tmp_path / "back" / STRANGE).read_text() == STRANGE
    copied(far, "far:all/mine", "far:one/called.sh", f"{tmp_path}/both/")
    assert (tmp_path / "both" / "mine" / "sub" / "deep").read_text() == "sub/deep"
    assert (tmp_path / "both" / "called.sh").read_text() == "run.sh"
    for left in (volume(far), tmp_path / "back", tmp_path / "both"):
        assert not [it for it in (left / parcel.PARTIAL).glob("*")], "what was on its way is taken away"
    assert any("sending" in text for text in shown) and not any(CODE.search(text) for text in shown)
    assert not CODE.search("\n".join(far.said)), "a code is told to nobody"
    for record in far.records():
        assert not CODE.search(str(record.events))


@needs_clients
def test_a_sender_that_comes_late_to_the_relay_gets_another_code_and_more_time(
    far: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes, "_ARRIVES_S", (0.0, 4.0, 60.0))
    late = far.simulator.state_dir / "codes" / "late_s"
    late.write_text("3")
    (tmp_path / "a").write_text("late")
    try:
        copied(far, str(tmp_path / "a"), "far:late/")
        copied(far, "far:late/a", f"{tmp_path}/back/")
    finally:
        late.unlink()
    assert (tmp_path / "back" / "a").read_text() == "late"


@needs_clients
def test_the_verb_says_by_which_way_and_what_is_not_there(far: World, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    done = far.cli("cp", str(tmp_path / "a.txt"), "far:verb/", timeout_s=PATIENCE_S)
    assert done.returncode == 0 and "by runpodctl's codes" in done.stderr and not CODE.search(done.stderr + done.stdout)
    assert (volume(far) / "verb" / "a.txt").read_text() == "a"
    missing = far.cli("cp", "far:no/such", str(tmp_path / "x"), timeout_s=PATIENCE_S)
    assert missing.returncode == 3 and "no/such is not there" in missing.stderr


@needs_clients
def test_a_pod_or_a_machine_without_the_program_says_where_it_is_had(far: World, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (program,) = (it for it in far.simulator.state_dir.glob("pods/*/bin/runpodctl"))
    program.rename(program.with_name("away"))
    try:
        with pytest.raises(SshError, match="the pod's image has no runpodctl") as refused:
            copied(far, str(tmp_path / "a"), "far:")
        assert refused.value.reason == "NoProgram" and "volume" in str(refused.value.hint)
        with pytest.raises(SshError, match="the pod's image has no runpodctl"):
            copied(far, "far:runs", f"{tmp_path}/x/")
    finally:
        program.with_name("away").rename(program)


@needs_clients
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_what_a_lost_pod_cuts_goes_on_with_the_next_attempt(far: World, tmp_path: Path, up: bool) -> None:
    """Over both ends: what had come before the pod was lost is not sent a second time."""
    meeting = far.simulator.state_dir / "codes"
    content = b"".join(hashlib.sha256(f"{up} {it}".encode()).digest() * 1024 for it in range(256))
    source, name = (tmp_path, "up-big") if up else (volume(far), "down-big")
    (source / name).write_bytes(content)
    received = volume(far) if up else tmp_path / "got"
    places = (str(tmp_path / name), "far:") if up else (f"far:{name}", f"{tmp_path}/got/")
    (meeting / "bytes_per_s").write_text("5e5")
    shown: list[str] = []
    failed: list[SshError] = []

    def copy() -> None:
        try:
            copied(far, *places, show=shown.append)
        except SshError as error:
            failed.append(error)

    def there() -> int:
        return max((it.stat().st_size for it in received.glob(f"{parcel.PARTIAL}/*/{name}")), default=0)

    before = far.record("far").last.attempt
    thread = threading.Thread(target=copy)
    thread.start()
    try:
        until(lambda: there() > 2**20 or failed, far)
        far.simulator.fault("lost_pod", seconds=0.0, pod_name="*-far-*")
        (meeting / "bytes_per_s").unlink()
        kept = there()
        far.until(lambda record: record.last.attempt > before and record.last.state == "training", timeout_s=PATIENCE_S)
    finally:
        thread.join(PATIENCE_S)
    assert not thread.is_alive() and not failed, (failed, far.said)
    assert (received / name).read_bytes() == content
    assert any("broke; going on" in text for text in far.said)
    # Of the program here, which shows how far it is: the second time begins where the first one ended.
    begins = [at for at, text in enumerate(shown) if "(->" in text or "(<-" in text]
    percent = [int(found[1]) for text in shown[begins[-1] :] if (found := re.search(r"(\d+)%", text))]
    assert len(begins) >= 2 and kept > 2**20 and percent[0] >= 100 * 2**20 // len(content), shown


def until(ready: Callable[[], object], world: World) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < give_up_s, world.said
        time.sleep(0.02)


# Without any pod: the shell that is typed into, the lines of sh, the program's own words.


@pytest.mark.parametrize("shell", [["bash", "--norc", "-i"], ["sh", "-i"], ["dash", "-i"]], ids=lambda it: it[0])
def test_a_terminal_of_any_shell_becomes_one_that_takes_scripts(shell: list[str], tmp_path: Path) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed here")
    terminal = ["script", "-qfec", " ".join(shell), "/dev/null"]
    if shutil.which("script") is None:
        pytest.skip("script is not installed here")
    long, strange = "x" * 9000, "a\tb\x03\x04\x15 ümlaut"
    with typed_shell(terminal) as typed:
        typed.type(f"echo {long}; printf '%s\\n' '{strange}'; cat; exit 7")
        said = list(read(typed.line, lambda: typed.ended is not None))
        assert typed.ended == 7 and long in said and strange in said
        assert not any("exit 7" in text for text in said), "what is typed is not echoed"
        typed.type("kill -9 $PPID; sleep 60")
        with pytest.raises(Cut):
            list(read(typed.line, lambda: False))


def read(line: Callable[[float], str | None], is_over: Callable[[], bool]) -> Iterator[str]:
    give_up_s = time.monotonic() + PATIENCE_S
    while not is_over():
        assert time.monotonic() < give_up_s
        if (text := line(0.1)) is not None:
            yield text


def here(folder: Path, script: str, tools: Path) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "PUSHTRAIN_WORKSPACE": str(folder)}
    return subprocess.run(
        ["sh"],
        input=f"( {script}\n) </dev/null",
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_lines_of_sh_take_names_as_they_are_and_say_what_is_missing(tmp_path: Path) -> None:
    tools, pod, mine = tmp_path / "tools", tmp_path / "pod", tmp_path / "mine"
    write_runpodctl(tools, tmp_path / "meeting")
    for folder in (pod, mine):
        folder.mkdir()
    (mine / STRANGE).write_text("there and back")
    environ = {"PATH": f"{tools}:{os.environ['PATH']}"}
    copy = Copy(run="r", here=(str(mine / STRANGE),), there=(f"new/{STRANGE}",), up=True)
    with parcel.packed(copy) as packed:
        local = Local(["runpodctl", "send", "--", packed.path.name], packed.path.parent, environ, lambda text: None)
        give_up_s = time.monotonic() + PATIENCE_S
        while not local.code:
            assert time.monotonic() < give_up_s and local.process.poll() is None
            time.sleep(0.02)
        done = here(pod, parcel.take_in(copy, packed, local.code), tools)
        local.end()
    assert done.returncode == 0, done.stderr
    assert (pod / "new" / STRANGE).read_text() == "there and back" and not list(pod.glob(f"{parcel.PARTIAL}/*"))
    again = here(pod, parcel.take_in(copy, packed, local.code), tools)
    assert again.returncode == 1 and "room not ready" in again.stderr, "a code is good for one"
    down = replace(copy, up=False, here=(str(tmp_path / "x"),), there=("not here",))
    missing = here(pod, parcel.give_out(down, "mark"), tools)
    assert missing.returncode == parcel.NOT_THERE and "not here is not there" in missing.stdout
    (tmp_path / "empty").mkdir()
    bare = subprocess.run(
        ["/bin/sh", "-c", parcel.give_out(down, "mark")],
        env={"PATH": str(tmp_path / "empty"), "PUSHTRAIN_WORKSPACE": str(pod)},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert bare.returncode == parcel.NO_PROGRAM


def test_a_tar_that_leads_out_of_its_folder_does_not(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "evil").symlink_to("/etc/passwd")
    (tmp_path / "in" / "good").write_text("good")
    copy = Copy(run="r", here=(str(tmp_path / "in"),), there=("x",), up=True)
    down = Copy(run="r", here=(f"{tmp_path}/out/",), there=("in",), up=False)
    stage = parcel.stage_here(down)
    stage.mkdir(parents=True)
    with parcel.packed(copy) as packed:
        assert packed.is_tar
        shutil.copy(packed.path, stage)
    assert parcel.unpacked(down, stage, is_tar=True) == ["in/evil"]
    assert [it.name for it in (tmp_path / "out" / "in").iterdir()] == ["good"] and not stage.parent.exists()
    with pytest.raises(SshError, match="did not come"):
        parcel.unpacked(down, stage, is_tar=True)


def test_a_code_is_masked_wherever_it_stands() -> None:
    assert masked("runpodctl receive 0664-miguel-piano-journal-12 now") == "runpodctl receive *** now"
    assert masked("2026-11-22 02:10, step 1234-5") == "2026-11-22 02:10, step 1234-5"
