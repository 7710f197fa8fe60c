"""Every way in which nobody gets in, or not by the front door: what is said, and what to do."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from recipe_runner import Command, Terminal, terminal_env
from ssh_world import MISSING, has_door, make_key, needs_clients, register
from whole import World, make_world

from infra.simulator.server import RunningSimulator
from pushtrain.errors import SshError
from pushtrain.ssh.client import pin
from pushtrain.ssh.reach import Seams, reach, scan
from pushtrain.ssh.session import Line, open_line

pytest_plugins = ("whole",)


@pytest.fixture(scope="module")
def street(cloud: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One run for each way not to get in: made before a key was there, without an address, without sshd, shut, slow."""
    if MISSING:
        pytest.skip(f"not installed here: {', '.join(MISSING)}")
    world = make_world(tmp_path_factory.mktemp("street"), steps=10_000, step_s=0.1, simulator=cloud)
    register(world)
    world.write_job("nokeys")
    world.push()
    world.until(lambda record: record.last.state == "provisioned" or has_door(record))
    register(world, make_key(world))
    cloud.fault("no_public_ip", pod_name="*-noaddress-*")
    cloud.fault("no_sshd", pod_name="*-nosshd-*")
    cloud.fault("slow_sshd", pod_name="*-slow-*", seconds=2.0)
    for name in ("noaddress", "nosshd", "open", "slow"):
        world.write_job(name)
    world.write_job("shut")
    shut = (world.repository / "jobs" / "shut.yaml").read_text()
    world.write("jobs/shut.yaml", shut.replace("compute: {", "compute: {ssh: false, "))
    world.push()
    world.until(lambda _: sum(it.events[-1].state == "training" for it in world.records()) == 6)
    yield world


def line_of(world: World) -> Line:
    return open_line(world.repository, world.env, world.said.append)


def refusal(world: World, job: str) -> SshError:
    with pytest.raises(SshError) as refused:
        line_of(world).reach(job, wait_s=0)
    return refused.value


def test_a_pod_made_before_a_key_was_there_says_so_and_what_to_do(street: World) -> None:
    refused = refusal(street, "nokeys")
    assert refused.reason == "NoKeys" and "had no ssh key when this pod was made" in str(refused)
    assert "pushtrain ssh-key" in str(refused.hint)


def test_a_pod_of_a_spec_that_wants_no_ssh_has_none(street: World) -> None:
    assert refusal(street, "shut").reason == "SshOff"
    pods = {it["name"]: it for it in street.simulator.request("GET", "/v2/pods").json()["pods"]}
    shut = next(pod for name, pod in pods.items() if "-shut-" in name)
    assert shut["ports"] == [] and "PUBLIC_KEY" not in shut["env"]


@pytest.mark.parametrize(("job", "why"), [("noaddress", "NoPort"), ("nosshd", "NoSshd")])
def test_the_proxy_gives_a_terminal_where_there_is_no_address_or_no_sshd(street: World, job: str, why: str) -> None:
    hello = next(it for it in street.record(job).events if it.state == "booting")
    assert hello.data["ssh"]["off"] == why
    terminal = Terminal(street.repository, terminal_env(street.folder, street.env))
    code, said = terminal._typed(
        ["pushtrain", "ssh", job], Command(line=job, typed=("echo I am on $RUNPOD_POD_ID", "exit"))
    )
    assert code == 0 and f"I am on {hello.data['pod']}" in said, said
    command = street.cli("ssh", job, "--", "ls")
    assert command.returncode == 3 and "a terminal and nothing else" in command.stderr
    copied = street.cli("cp", "jobs/open.yaml", f"{job}:")
    assert copied.returncode == 3 and "this machine has no runpodctl" in copied.stderr
    assert "https://github.com/runpod/runpodctl#install" in copied.stderr
    synced = street.cli("sync", "jobs", f"{job}:jobs")
    assert synced.returncode == 3 and "sync needs rsync over ssh" in synced.stderr


def test_an_sshd_that_takes_its_time_is_waited_for(street: World) -> None:
    found, _ = line_of(street).reach("slow", wait_s=30)
    assert found.host_key.startswith("ssh-ed25519 ") and not found.proxy


def test_a_key_that_the_pod_does_not_know_is_said_before_ssh_does(street: World, tmp_path: Path) -> None:
    mine = Path(street.env["HOME"], ".ssh", "id_ed25519")
    mine.rename(mine.with_name("kept"))
    (public := mine.with_name("id_ed25519.pub")).rename(mine.with_name("kept.pub"))
    try:
        make_key(street)
        refused = refusal(street, "open")
    finally:
        mine.with_name("kept").rename(mine)
        mine.with_name("kept.pub").rename(public)
    assert refused.reason == "KeyRefused" and "ours is not among them: SHA256:" in str(refused)


def test_a_changed_host_key_is_refused_and_nothing_is_sent(street: World) -> None:
    found, _ = line_of(street).reach("open", wait_s=0)
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVzZWQgZm9yIGEgdGVzdCwgYW5kIG5vdGhpbmcg"
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    line = line_of(street)
    seams = Seams(say=street.said.append, clock=lambda: now[0], sleep=wait, scan=lambda host, port: other)
    with pytest.raises(SshError, match="somebody else answers") as refused:
        reach(line.cloud, line.ledger, "open", seams, wait_s=60)
    assert refused.value.reason == "HostKeyChanged" and 20 <= now[0] < 30
    assert scan(found.host, found.port) == found.host_key
    pin(replace(found, host_key=other), street.env)
    said = street.cli("ssh", "open", "--", "true")
    assert said.returncode == 0, "the ledger's key is pinned anew at each use"


def test_nobody_answers_is_waited_for_and_then_said(street: World) -> None:
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    line = line_of(street)
    seams = Seams(say=street.said.append, clock=lambda: now[0], sleep=wait, scan=lambda host, port: None)
    with pytest.raises(SshError, match="does not answer") as refused:
        reach(line.cloud, line.ledger, "open", seams, wait_s=7)
    assert refused.value.reason == "NoAnswer" and 7 <= now[0] < 9
    assert any("waiting up to 7 s" in text for text in street.said)


@needs_clients
def test_a_run_that_is_over_says_so(street: World) -> None:
    assert street.cli("cancel", "open").returncode == 0
    said = street.cli("ssh", "open")
    assert said.returncode == 3 and "is over: it has no pod any more" in said.stderr
    unknown = street.cli("ssh", "nobody")
    assert unknown.returncode == 2 and "no run 'nobody'" in unknown.stderr
