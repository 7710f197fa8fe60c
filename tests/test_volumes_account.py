"""`pushtrain volumes`: whose a volume is, who uses it, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from climb_world import World

from infra.simulator.state import PodOrder, Volume
from pushtrain.errors import LedgerError, LedgerUnavailable, NoCapacity, RequestRejected, UsageError
from pushtrain.run import kept_volume_name
from pushtrain.volumes.account import Account

LEDGER = "https://git.example/me/runs.git"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(folder=tmp_path)


@pytest.fixture
def account(world: World) -> Account:
    control = world.control()
    return Account(cloud=control.cloud, ledger=control.ledger, say=world.said.append)


def never() -> bool:
    raise AssertionError("it was gone at once")


def refused(act: Callable[[], object]) -> RequestRejected:
    with pytest.raises(RequestRejected) as caught:
        act()
    return caught.value


def wrong(act: Callable[[], object]) -> str:
    """What the command line itself has wrong, for which a verb ends with 2."""
    with pytest.raises(UsageError) as caught:
        act()
    return caught.value.reason if caught.value.reason != UsageError.reason else str(caught.value)


def volume(world: World, name: str, data_center: str = "EU-SE-1", size_gb: int = 10) -> Volume:
    return world.runpod.account.create_volume(name, size_gb, data_center, None, world.runpod.now_s)


def test_a_list_says_whose_each_is_who_uses_it_and_what_it_costs_a_month(world: World, account: Account) -> None:
    world.job("keeper", volume="name: models, keep: true, size_gb: 100")
    world.job("plain")
    world.tick()
    volume(world, kept_volume_name("models", "https://git.example/other.git"))
    volume(world, "my-comfyui")
    volume(world, "pt-" + kept_volume_name("x", LEDGER)[8:15] + "gone-01234567-89abcdef-v")
    volume(world, kept_volume_name("idle", LEDGER), "US-CA-2", 2000)
    rows = {(row.whose, row.name): row for row in account.rows()}
    assert [whose for whose, _ in rows] == ["kept", "kept", "run", "orphan", "other ledger", "not pushtrain's"]
    models, idle = rows["kept", "models"], rows["kept", "idle"]
    assert models.runs == (world.record("keeper").run_id,) and [pod.name for pod in models.pods] == [
        world.run("keeper").pod_name(1)
    ]
    assert (idle.users, idle.as_json()["kind"], idle.as_json()["usd_per_month"]) == ([], "HIGH_PERFORMANCE", 280.0)
    (own,) = [row for row in rows.values() if row.whose == "run"]
    assert own.runs == (world.record("plain").run_id,) and own.as_json()["usd_per_month"] == 0.7
    json.dumps([row.as_json() for row in rows.values()])


def test_create_grow_and_delete(world: World, account: Account) -> None:
    made = account.create("models", 50, "EU-SE-1")
    assert (made.name, made.kind) == (kept_volume_name("models", LEDGER), "STANDARD")
    assert account.create("models", 50, "EU-SE-1") == made, "the same wish twice is one volume"
    assert "$3.50 a month" in world.said[-1]
    assert account.create("models", 60, "EU-SE-1").size_gb == 60
    assert account.grow("models", 100).size_gb == 100 and "$2.80 a month more" in world.said[-1]
    assert wrong(lambda: account.grow("models", 99)) == "CannotShrink"
    with pytest.raises(NoCapacity) as elsewhere:
        account.create("models", 50, "EU-RO-1")
    assert "EU-SE-1" in str(elsewhere.value)
    assert refused(lambda: account.delete("models", yes=False, wait=never)).reason == "NeedsYes"
    assert [row.name for row in account.rows()] == ["models"]
    account.delete("models", yes=True, wait=never)
    assert account.rows() == []


@pytest.mark.parametrize(
    ("name", "size_gb", "data_center"),
    [
        ("Models", 50, "EU-SE-1"),
        ("a/b", 50, "EU-SE-1"),
        ("x", 9, "EU-SE-1"),
        ("x", 5000, "EU-SE-1"),
        ("x", 50, "AP-JP-1"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(
    account: Account, name: str, size_gb: int, data_center: str
) -> None:
    with pytest.raises((UsageError, RequestRejected)):
        account.create(name, size_gb, data_center)
    assert account.rows() == []


def test_one_in_use_is_not_deleted_also_while_its_run_only_waits(world: World, account: Account) -> None:
    world.job(volume="name: models, keep: true, size_gb: 10")
    world.tick()
    said = refused(lambda: account.delete("models", yes=True, wait=never))
    assert said.reason == "InUse" and world.record().run_id in str(said) and "pushtrain cancel" in str(said.hint)
    # Lost, and nowhere to go: no pod mounts it now, but its checkpoints are there.
    world.runpod.account.terminate_pod(world.runpod.account.live_pods()[0].id, world.runpod.now_s)
    world.runpod.refuse = lambda path, body: (400, "no longer any instances available") if "pods" in path else None
    world.tick()
    assert world.record().last.state == "waiting"
    assert refused(lambda: account.delete("models", yes=True, wait=never)).reason == "InUse"
    world.checkout.jobs.clear()
    world.tick()
    # A pod that nobody here started.
    (row,) = account.rows()
    order = PodOrder(name="mine", image="x", gpu="NVIDIA A40", volume_id=row.volume.id)
    pod = world.runpod.account.create_pod(order, world.runpod.now_s)
    assert pod.id in str(refused(lambda: account.delete("models", yes=True, wait=never)))
    world.runpod.account.terminate_pod(pod.id, world.runpod.now_s)
    account.delete("models", yes=True, wait=never)
    assert account.rows() == []


def test_what_is_not_ours_is_listed_and_left_alone(world: World, account: Account) -> None:
    theirs = volume(world, kept_volume_name("models", "https://git.example/other.git"))
    foreign = volume(world, "my-comfyui")
    for it in (theirs, foreign):
        for text in (it.id, it.name):
            assert refused(lambda text=text: account.delete(text, yes=True, wait=never)).reason == "NotOurs"
            assert refused(lambda text=text: account.grow(text, 100)).reason == "NotOurs"
    assert wrong(lambda: account.delete("models", yes=True, wait=never)) == "UnknownVolume"
    volume(world, "my-comfyui")
    assert wrong(lambda: account.one("my-comfyui")) == "SeveralVolumes"
    assert len(account.rows()) == 3


def test_without_the_ledger_nobody_knows_who_uses_it_so_it_stays(world: World, account: Account) -> None:
    account.create("models", 10, "EU-SE-1")

    def away() -> None:
        raise LedgerUnavailable("the ledger does not answer")

    account.ledger.look = away  # type: ignore[method-assign,assignment]
    (row,) = account.rows()
    assert row.runs is None and "not known" in world.said[-1]
    with pytest.raises(LedgerError):
        account.delete("models", yes=True, wait=never)
    assert len(account.rows()) == 1


def test_a_delete_that_the_cloud_does_not_show_is_said(world: World, account: Account) -> None:
    made = account.create("models", 10, "EU-SE-1")
    account.cloud.read_volume = lambda volume_id: made  # type: ignore[method-assign]
    pauses = iter([True, True, False])
    assert refused(lambda: account.delete("models", yes=True, wait=lambda: next(pauses))).reason == "StillThere"


def test_two_of_one_name_are_told_with_the_one_that_runs_use(world: World, account: Account) -> None:
    ids = sorted(volume(world, kept_volume_name("models", LEDGER)).id for _ in range(2))
    account.rows()
    assert f"is there more than once, each billed: runs use {ids[0]}; delete {ids[1]}" in world.said[-1]
    world.job(volume="name: models, keep: true, size_gb: 10")
    world.tick()
    assert [pod.volume_id for pod in world.runpod.account.live_pods()] == [ids[0]]
    account.delete(ids[1], yes=True, wait=never)


def test_one_that_the_cloud_makes_late_is_told_by_every_tick_and_never_mounted(world: World, account: Account) -> None:
    """A create that was given up, carried out minutes later: its id comes first, and it is empty."""
    world.job("first", volume="name: models, keep: true, size_gb: 10")
    world.tick()
    (used,) = (pod.volume_id for pod in world.runpod.account.live_pods())
    with patch.object(world.runpod.account, "new_id", lambda: "0"):
        late = volume(world, kept_volume_name("models", LEDGER))
    assert used and late.id < used
    world.job("second", volume="name: models, keep: true, size_gb: 20")
    done = world.tick()
    assert {pod.volume_id for pod in world.runpod.account.live_pods()} == {used}
    (told,) = world.tick().failures
    assert (told.reason, told.exit_code) == ("KeptTwice", 4) and "KeptTwice" in [it.reason for it in done.failures]
    assert f"{late.id}, beside {used}, which runs use" in str(told)
    assert told.hint and f"`pushtrain volumes delete {late.id} --yes`" in told.hint
    account.delete(late.id, yes=True, wait=never)
    assert world.tick().failures == []
