"""`pushtrain volumes` over several clouds at once, against their emulators: each with its cloud and its price."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from whole import CANARY, World

from infra.clouds import connect
from infra.clouds.lambda_cloud.client import Lambda
from infra.clouds.lambda_cloud.pace import LambdaLimits
from infra.simulator.others import OTHERS, others_env
from pushtrain.capabilities import CLOUDS
from pushtrain.errors import CloudUnavailable, PushtrainError, RequestRejected, UsageError
from pushtrain.fleet import Fleet
from pushtrain.settings import load_settings
from pushtrain.volumes import files
from pushtrain.volumes.account import Account
from pushtrain.volumes.transfer import Transfer
from pushtrain.wiring import open_ledger

pytest_plugins = ("whole",)
DISK_USD = CLOUDS["jarvislabs"].volume_usd or 0.0
TRANSFER = Transfer(sleep=lambda pause_s: None, progress=lambda *said: None)


@pytest.fixture
def account(world: World) -> Account:
    simulator = world.simulator
    env = world.env | others_env(simulator.urls, simulator.keys.others, *OTHERS)
    at = {name: connect(name, env) for name in ("runpod", "modal", "jarvislabs")}
    at["lambda"] = Lambda(
        simulator.keys.others["lambda"], simulator.urls["lambda"], limits=LambdaLimits(request_s=0.0, launch_s=0.0)
    )
    return Account(cloud=Fleet(at), ledger=open_ledger(load_settings(world.repository, env)), say=world.said.append)


def refused(act: Callable[[], object]) -> PushtrainError:
    with pytest.raises((RequestRejected, UsageError)) as caught:
        act()
    return caught.value


def gone_soon() -> bool:
    return True


def test_each_volume_stands_with_its_cloud_at_its_own_price_and_goes_by_the_same_verb(
    world: World, account: Account, tmp_path: Path
) -> None:
    account.create("here", 60, "EU-RO-1")
    account.create("models", 60, "us-west-1", "lambda")
    account.create("cache", 60, "", "modal")
    account.create("data", 60, "india-noida-01", "jarvislabs")
    assert "60 GB in india-noida-01 at JarvisLabs, $" in world.said[-1] and "at Modal, $0.09" in world.said[-2]
    rows = {row.name: row.as_json() for row in account.rows()}
    prices = {name: (row["cloud"], row["usd_per_month"]) for name, row in rows.items()}
    assert prices["here"] == ("runpod", 4.2) and prices["data"] == ("jarvislabs", pytest.approx(60 * DISK_USD))
    assert prices["models"] == ("lambda", None), "nothing is on it yet, and no size is billed"
    assert prices["cache"] == ("modal", None)
    json.dumps(rows)

    for name, told in (("models", "pushtrain sync"), ("cache", "modal volume"), ("data", "console")):
        where, more = files.place(f"{name}/x"), {"transfer": TRANSFER, "environ": world.env}
        for act in (
            partial(files.put, account, tmp_path, where, **more),
            partial(files.remove, account, where, yes=True, environ=world.env),
            partial(files.copy_volume, account, name, "EU-RO-1", new_name="", **more),
        ):
            said = refused(act)
            assert said.reason == "NoS3" and told in str(said.hint), name
    assert refused(lambda: account.grow("models", 100)).reason == "NoSize"
    assert account.grow("data", 70).size_gb == 70
    for name in ("here", "models", "cache", "data"):
        account.delete(name, yes=True, wait=gone_soon)
    assert account.rows() == []


def test_what_a_cloud_has_not_is_refused_before_anything_is_made(account: Account) -> None:
    assert "has no volume that outlives" in str(refused(lambda: account.create("x", 50, "", "vast")))
    assert "50 to 2048" in str(refused(lambda: account.create("x", 10, "india-noida-01", "jarvislabs")).hint)
    assert "no data centers" in str(refused(lambda: account.create("x", 50, "EU-RO-1", "modal")))
    assert "us-west-1" in str(refused(lambda: account.create("x", 50, "", "lambda")).hint)
    members = dict(account.cloud.members)  # type: ignore[attr-defined]
    del members["runpod"]
    several = Account(cloud=Fleet(members), ledger=account.ledger, say=account.say)
    assert "--cloud" in str(refused(lambda: several.create("x", 50, "us-west-1")).hint)
    assert account.rows() == []


def test_a_cloud_that_is_away_costs_its_own_volumes_alone(world: World, account: Account) -> None:
    account.create("here", 50, "EU-RO-1")

    def away(prefix: str) -> None:
        raise CloudUnavailable("no answer")

    account.cloud.members["lambda"].find = away  # type: ignore[attr-defined]
    assert [row.name for row in account.rows()] == ["here"]
    assert "what Lambda Cloud has is not known" in "\n".join(world.said)
    account.delete("here", yes=True, wait=gone_soon)


def test_the_command_makes_lists_and_prices_one_at_another_cloud(world: World) -> None:
    env = others_env(world.simulator.urls, world.simulator.keys.others, "jarvislabs") | {"RUNPOD_API_KEY": ""}
    made = world.cli("volumes", "create", "models", "india-noida-01", "--size-gb", "50", "--json", **env)
    assert made.returncode == 0 and json.loads(made.stdout)["cloud"] == "jarvislabs", made.stderr
    listed = world.cli("volumes", **env)
    assert "jarvislabs" in listed.stdout and f"{50 * DISK_USD:.2f}" in listed.stdout and CANARY not in listed.stdout
    swept = world.cli("sweep", **env)
    assert "kept on purpose" in swept.stdout and "at JarvisLabs" in swept.stdout, swept.stdout + swept.stderr
    assert world.cli("volumes", "delete", "models", "--yes", **env).returncode == 0
