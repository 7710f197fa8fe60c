"""Whole runs with the real CLI, and with one engine in the first half and the other in the second."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole import CANARY, World, end, make_world

from pushtrain.gitcmd import git
from pushtrain.ledger import RunRecord
from pushtrain.reconcile import tick

pytestmark = pytest.mark.skipif(
    shutil.which("pulumi") is None, reason="pulumi CLI not on PATH: whole runs were tried with the embedded engine only"
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path, engine="pulumi")
    yield made
    made.close()


def test_a_run_with_the_real_cli_leaves_its_last_state_in_the_ledger_and_nothing_else(world: World) -> None:
    world.write_job()
    world.push()
    record = world.until(lambda record: record.is_over, timeout_s=150)
    assert end(record)[0] == "succeeded" and record.receipt is not None
    document = json.loads(_file(world, record, "deployment.json"))
    assert (document["engine"], document["stack"]) == ("pulumi", f"run-{record.run_id}")
    resources = {it["urn"].rsplit("::", 1)[-1]: it for it in document["state"]["deployment"]["resources"]}
    assert [resources["pod"]["id"]] == record.receipt["pods"] and [resources["volume"]["id"]] == record.receipt[
        "volumes"
    ]
    for side in ("inputs", "outputs"):
        assert resources["pod"][side]["env"]["PUSHTRAIN_BOOT"].startswith("sha256:")
    assert CANARY not in json.dumps(document) and len(json.dumps(document)) < 20_000
    assert _stacks(world) == []
    world.assert_nothing_left()


def test_a_run_whose_engine_changes_in_the_middle_is_taken_away_whole_and_the_state_left_behind_is_said(
    world: World,
) -> None:
    world.orders(steps=2000, step_s=0.1)
    world.write_job()
    world.push()
    world.until(lambda record: any(event.state == "provisioned" for event in record.events), timeout_s=90)
    world.write_job(more="suspend: true\n")
    world.push()
    world.env["PUSHTRAIN_ENGINE"] = "embedded"
    assert tick(world.control()).failures == []
    (record,) = world.records()
    assert end(record) == ("cancelled", "Suspended")
    assert [line for line in world.said if "provisioned by engine pulumi, destroyed by embedded" in line]
    world.assert_nothing_left()

    assert _stacks(world) == [f"run-{record.run_id}.json"], "what was said to stay is not there"
    world.env["PUSHTRAIN_ENGINE"] = "pulumi"
    world.control().engine.destroy(f"run-{record.run_id}")
    assert _stacks(world) == []


def _stacks(world: World) -> list[str]:
    folder = world.folder / "state" / "stacks" / "pulumi" / ".pulumi" / "stacks"
    return [path.name for path in folder.rglob("*.json")]


def _file(world: World, record: RunRecord, name: str) -> bytes:
    """A file of the run, as anybody with git reads it."""
    return git(["show", f"runs/{record.run_id}:{name}"], env=world.env, cwd=world.folder / "remote.git").stdout
