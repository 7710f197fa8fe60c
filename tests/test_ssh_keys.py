"""Our key in the account: whatever else is there stays, also when two people register at once."""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from runpod_memory import MemoryRunPod, Turns, every_order
from ssh_world import needs_clients
from whole import World

from infra.clouds.runpod.client import RunPod
from infra.clouds.wire import Limits
from infra.simulator.others import OTHERS, others_env
from pushtrain.errors import CloudUnavailable, SshError
from pushtrain.ssh.keys import OwnKey, find_or_make, has
from pushtrain.ssh.keys import register as register_key

pytest_plugins = ("whole",)

THEIRS, MINE, HERS = (
    f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{name} {name}@laptop" for name in ("theirs", "mine", "hers")
)


def client(account: MemoryRunPod) -> RunPod:
    return RunPod("key", environ={}, limits=Limits(jitter=lambda: 0.0), sleep=lambda _: None, transport=account)


def quietly(cloud: RunPod, line: str) -> bool:
    return register_key(cloud, line, sleep=lambda _: None, jitter=lambda: 0.0)


def test_a_key_is_added_and_every_other_stays() -> None:
    account = MemoryRunPod()
    account.account.ssh_keys = [THEIRS]
    assert quietly(client(account), MINE) is True
    assert account.account.ssh_keys == [THEIRS, MINE]
    assert quietly(client(account), f"{' '.join(MINE.split()[:2])} another comment") is False
    assert account.account.ssh_keys == [THEIRS, MINE]


def test_two_people_at_once_both_end_up_in_the_account_in_every_order_of_their_requests() -> None:
    def run(order: Sequence[int]) -> tuple[Any, list[int], list[int]]:
        account = MemoryRunPod()
        account.account.ssh_keys = [THEIRS]
        turns = Turns(account)
        limits = Limits(jitter=lambda: 0.0)
        clouds = [RunPod("key", environ={}, limits=limits, transport=turns.transport(number)) for number in (0, 1)]

        def call(number: int, line: str) -> bool:
            return register_key(clouds[number], line, sleep=lambda _: turns.sleep(number), jitter=lambda: 0.0)

        results, chosen, offered = turns.run([lambda: call(0, MINE), lambda: call(1, HERS)], order)
        return (account.account.ssh_keys, results), chosen, offered

    orders = 0
    for keys, results in every_order(run):
        orders += 1
        assert results == [True, True]
        assert sorted(keys) == sorted([THEIRS, MINE, HERS])
    assert orders >= 20


def test_a_write_whose_answer_is_lost_is_looked_up_and_not_sent_again() -> None:
    account, spoilt = MemoryRunPod(), ["lost"]
    account.spoil = lambda method, path: spoilt.pop() if method == "PUT" and spoilt else None
    assert quietly(client(account), MINE) is True
    assert account.account.ssh_keys == [MINE] and account.asked["PUT", "/v2/account/…"] == 1


def test_somebody_who_writes_over_it_for_ever_is_said() -> None:
    account = MemoryRunPod()
    cloud = client(account)

    def wipe(_: float) -> None:
        account.account.ssh_keys = [THEIRS]

    with pytest.raises(CloudUnavailable, match="keeps changing"):
        register_key(cloud, MINE, sleep=wipe, jitter=lambda: 0.0)


@needs_clients
def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    made = find_or_make(environ)
    assert made.was_made and made.path == tmp_path / ".ssh" / "pushtrain_ed25519"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600 and made.line.startswith("ssh-ed25519 ")
    assert find_or_make(environ) == OwnKey(path=made.path, line=made.line)
    made.path.with_name("pushtrain_ed25519.pub").unlink()
    assert has([made.line], find_or_make(environ).line), "derived from the private half, the comment aside"


@needs_clients
def test_what_is_no_public_key_is_never_sent(tmp_path: Path) -> None:
    made = find_or_make({"HOME": str(tmp_path)})
    made.path.with_name("pushtrain_ed25519.pub").write_text(made.path.read_text())
    with pytest.raises(SshError, match="is not one public key"):
        find_or_make({"HOME": str(tmp_path)})
    with pytest.raises(SshError, match="is not there"):
        find_or_make({"HOME": str(tmp_path), "PUSHTRAIN_SSH_KEY": str(tmp_path / "nothing")})


@needs_clients
def test_the_verb_registers_with_every_cloud_that_takes_keys_and_names_those_that_do_not(world: World) -> None:
    every = others_env(world.simulator.urls, world.simulator.keys.others, *OTHERS)
    done = world.cli("ssh-key", **every)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and [line.partition(":")[0] for line in lines] == ["RunPod", "Vast.ai", "Lambda Cloud"]
    assert all("is registered now" in line for line in lines)
    assert "modal shell" in done.stderr and "JarvisLabs takes no keys" in done.stderr
    again = world.cli("ssh-key", **every)
    assert [line.count("was registered already") for line in again.stdout.splitlines()] == [1, 1, 1]
    broken = world.cli("ssh-key", **every | {"VAST_API_KEY": "nobody"})
    assert broken.returncode == 3 and broken.stdout.count("was registered") == 2 and "Vast.ai" in broken.stderr
    alone = others_env(world.simulator.urls, world.simulator.keys.others, "modal") | {"RUNPOD_API_KEY": ""}
    refused = world.cli("ssh-key", **alone)
    assert refused.returncode != 0 and "takes ssh keys" in refused.stderr and "modal shell" in refused.stderr
