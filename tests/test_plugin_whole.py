"""One whole run over RunPod's own plugin and the real CLI, whose creates are all answered by an error."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_world import PLUGIN
from whole import World, end, make_world

pytest_plugins = ("whole",)
pytestmark = pytest.mark.skipif(
    shutil.which("pulumi") is None or shutil.which("pulumi-resource-runpod") is None,
    reason="pulumi and pulumi-resource-runpod are not both on PATH: no whole run with RunPod's own plugin",
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path, engine="pulumi")
    made.env.update(PLUGIN)
    yield made
    made.close()


def test_a_push_becomes_a_receipt_with_one_pod_though_the_answers_of_its_creates_were_lost(world: World) -> None:
    for operation in ("create_volume", "create_pod"):
        world.simulator.fault("error_after_create", operation=operation)
    world.write_job()
    world.push()
    world.until(lambda record: record.is_over, timeout_s=150.0)
    record = world.record("job")
    assert end(record)[0] == "succeeded" and record.receipt
    assert 0 < record.receipt["billed_usd"] <= record.receipt["cap_usd"]
    assert record.receipt["proof"]["engine_complaint"] == ""
    assert len(world.pods_made(record)) == 1
    world.assert_nothing_left()
