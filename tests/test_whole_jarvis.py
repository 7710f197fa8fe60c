"""A whole run at JarvisLabs: a file system for all attempts, machines that only the control plane can end, and nothing
left of either, nor of their start scripts."""

import json

import pytest
from whole import World, end, is_training

from infra.clouds import connect
from infra.clouds.jarvis.client import JarvisLabs
from pushtrain.run import ledger_prefix

pytest_plugins = ("whole",)
NAME = "jarvislabs"


@pytest.fixture
def there(world: World) -> World:
    """A world with the key of JarvisLabs besides."""
    world.env |= world.simulator.env(NAME)
    return world


def jarvis(world: World) -> JarvisLabs:
    cloud = connect(NAME, world.env)
    assert isinstance(cloud, JarvisLabs)
    return cloud


def scripts(world: World) -> list[str]:
    """Names of the start scripts that the account has now."""
    return list(json.loads((world.simulator.state_dir / NAME / "scripts" / "names.json").read_text()).values())


def test_a_run_by_one_word_goes_on_after_a_lost_machine_and_leaves_nothing(there: World) -> None:
    name = f"{ledger_prefix(there.control().settings.ledger_url)}nobodys-with-a-long-name-0-0-a1"
    orphan = there.orphan(NAME, name=name, image=None, gpu="NVIDIA L4")
    mark = ledger_prefix(there.control().settings.ledger_url)
    over, foreign = f"{mark}gone-0123abcd-4567cdef-a1", "pt-000000-gone-0123abcd-4567cdef-a1"
    for it in (over, foreign):
        jarvis(there)._scripts.put(it, b"#!/bin/bash\n# of a run that is over\n")
    there.orders(steps=20, step_s=0.05, hang_at=10)
    there.write_job(cloud=NAME, gpus="NVIDIA A40, NVIDIA RTX A6000")
    there.push()
    first = there.until(lambda record: is_training(record) and _steps(there, record.run_id) > 0)
    assert first.run["resource_prefix"] + "-a1" in scripts(there)
    there.simulator.fault("lost_pod", seconds=1, pod_name="*-a1")
    record = there.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [(event.attempt, event.reason) for event in record.events if event.state == "lost"] == [(1, "PodLost")]
    resumed = [event.data["resumed_from_step"] for event in record.events if event.state == "training"]
    assert resumed[0] == 0 and resumed[-1] > 0
    placed = [event.data for event in record.events if event.state == "provisioned"]
    assert {it["data_center"] for it in placed} == {"india-noida-01"} and len({it["volume_id"] for it in placed}) == 1
    receipt = record.receipt or {}
    assert receipt["pods"] == sorted(str(it["pod_id"]) for it in placed) and len(receipt["volumes"]) == 1
    assert (receipt["billed_source"], receipt["billed_is_final"]) == ("time × price", True)
    assert 0 < receipt["cost_usd"] < receipt["cap_usd"]
    assert connect(NAME, there.env).read_pod(orphan.id) is None
    assert receipt["proof"]["scripts"] == 0
    assert scripts(there) == [foreign], "what no active run owns is swept, and nothing of anybody else"
    jarvis(there).delete_script(foreign)
    there.assert_nothing_left()


def test_a_spot_instance_that_was_taken_away_is_followed_by_one_on_demand_with_the_same_file_system(
    there: World,
) -> None:
    there.orders(steps=20, step_s=0.05, hang_at=10)
    there.write_job(cloud=NAME, gpus="NVIDIA RTX A6000")
    path = there.repository / "jobs/job.yaml"
    path.write_text(path.read_text().replace("compute: {", "compute: {spot: {max_share: 0.8, interruptions: 1}, "))
    there.push()
    there.until(lambda record: is_training(record) and _steps(there, record.run_id) > 0)
    there.simulator.fault("outbid", seconds=0, pod_name="*-a1")
    record = there.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    lost = [(event.attempt, event.reason) for event in record.events if event.state == "lost"]
    assert lost == [(1, "Preempted")]
    first, second = (event.data for event in record.events if event.state == "provisioned")
    assert (first["is_spot"], second["is_spot"]) == (True, False)
    assert first["usd_per_hour"] < second["usd_per_hour"] and first["volume_id"] == second["volume_id"]
    resumed = [event.data["resumed_from_step"] for event in record.events if event.state == "training"]
    assert resumed[0] == 0 and resumed[-1] > 0
    assert scripts(there) == []
    there.assert_nothing_left()


def _steps(world: World, run_id: str) -> int:
    saved = world.simulator.state_dir.glob(f"{NAME}/volumes/*/runs/{run_id}/step")
    return max((int(path.read_text() or 0) for path in saved), default=0)
