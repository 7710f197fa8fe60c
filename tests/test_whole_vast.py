"""Whole runs at Vast.ai: the same job by one word, beside one on RunPod, and nothing is left of either."""

import dataclasses
from pathlib import Path

import pytest
from whole import World, end

from infra.clouds import connect
from pushtrain.errors import CloudAuthFailed

pytest_plugins = ("whole",)


@pytest.fixture
def both(world: World) -> World:
    """A world with the keys of both clouds, and its jobs written."""
    world.env |= world.simulator.env("vast")
    return world


def test_a_run_by_one_word_at_vast_beside_one_on_runpod_and_an_orphan_is_swept(both: World) -> None:
    orphan = both.orphan("vast", gpu="NVIDIA L40S")
    both.orders(steps=3, step_s=0.05)
    both.write_job("there", cloud="vast")
    both.write_job("here")
    both.push()
    control = both.control()
    assert control.cloud.name == "fleet" and connect("vast", both.env).read_pod(orphan.id) is not None
    both.until(lambda _: all(record.is_over for record in both.records()) and len(both.records()) == 2)
    there, here = both.record("there"), both.record("here")
    assert end(there) == end(here) == ("succeeded", "")
    ((pod,), (other,)) = both.pods_made(there), both.pods_made(here)
    assert pod["id"].isdigit() and not other["id"].isdigit()
    assert (there.run.get("cloud"), here.run.get("cloud")) == ("vast", None)
    (placed,) = (event for event in there.events if event.state == "provisioned")
    assert (placed.data["data_center"], placed.data["volume_id"], placed.data["tier"]) == (None, "", "SECURE")
    (booting,) = (event for event in there.events if event.state == "booting")
    assert booting.data["pod"] == pod["id"]
    receipt = there.receipt or {}
    assert receipt["pods"] == [pod["id"]] and receipt["volumes"] == [] and receipt["billed_usd"] > 0
    assert connect("vast", both.env).read_pod(orphan.id) is None
    both.assert_nothing_left()


def test_a_lost_instance_is_followed_by_an_attempt_from_step_0(both: World) -> None:
    both.orders(steps=20, step_s=0.05, hang_at=10)
    both.write_job(cloud="vast")
    both.push()
    both.until(lambda record: record.last.state == "training")
    both.simulator.fault("lost_pod", seconds=1, pod_name="*-a1")
    record = both.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [(event.attempt, event.reason) for event in record.events if event.state == "lost"] == [(1, "PodLost")]
    assert [event.data["resumed_from_step"] for event in record.events if event.state == "training"] == [0, 0]
    both.assert_nothing_left()


def test_a_bid_lost_in_the_middle_of_training_is_followed_by_an_attempt_on_demand(both: World) -> None:
    both.orders(steps=20, step_s=0.05, hang_at=10)
    both.write_job(cloud="vast")
    spec = Path(both.repository / "jobs/job.yaml")
    text = spec.read_text().replace("compute: {", "compute: {spot: {max_share: 0.8, interruptions: 1}, ")
    spec.write_text(text.replace("publish: {", "publish: {hub_strategy: checkpoint, "))
    both.push()
    both.until(lambda record: record.last.state == "training")
    both.simulator.fault("outbid", seconds=1, pod_name="*-a1")
    record = both.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    first, second = (event.data for event in record.events if event.state == "provisioned")
    assert (first["is_spot"], second["is_spot"]) == (True, False)
    assert first["usd_per_hour"] < second["usd_per_hour"]
    lost = [(event.attempt, event.reason) for event in record.events if event.state == "lost"]
    assert lost == [(1, "Preempted")] and (record.receipt or {})["attempts"] == 2
    both.assert_nothing_left()


def test_without_the_key_of_its_cloud_a_run_is_left_alone_and_said(both: World) -> None:
    both.orders(steps=100_000, step_s=0.1)
    both.write_job(cloud="vast")
    both.push()
    before = both.until(lambda record: record.last.state == "training")
    blind = dataclasses.replace(both, env={name: it for name, it in both.env.items() if name != "VAST_API_KEY"})
    report = blind.tick()
    assert [type(failure) for failure in report.failures] == [CloudAuthFailed]
    assert report.active == [before.run_id] and "VAST_API_KEY" in str(report.failures[0])
    assert both.cli("cancel", before.run_id).returncode == 0
    record = both.until(lambda record: record.is_over)
    assert end(record)[0] == "cancelled" and len(both.pods_made(record)) == 1
    both.assert_nothing_left()


def test_a_plan_has_live_prices_or_says_which_key_would_bring_them(both: World) -> None:
    both.orders(steps=1)
    both.write_job(cloud="vast")
    both.push()
    shown = both.cli("plan", "jobs/job.yaml", HF_HUB_OFFLINE="1")
    assert "NVIDIA A40" in shown.stdout and "starts from step 0" in shown.stdout, shown
    assert "VAST_API_KEY set" in both.cli("plan", "jobs/job.yaml", HF_HUB_OFFLINE="1", VAST_API_KEY="").stdout


def test_a_run_that_may_go_to_both_goes_to_the_cheaper_one_and_leaves_nothing_at_either(both: World) -> None:
    both.orders(steps=3, step_s=0.05)
    both.write_job(cloud="[vast, runpod]")
    both.push()
    record = both.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and record.run["clouds"] == ["vast", "runpod"]
    (placed,) = (event for event in record.events if event.state == "provisioned")
    (pod,) = both.pods_made(record)
    assert placed.data["cloud"] == record.run["candidates"][0]["cloud"]
    assert pod["id"].isdigit() == (placed.data["cloud"] == "vast")
    shown = both.cli("plan", "jobs/job.yaml", HF_HUB_OFFLINE="1").stdout
    assert "RunPod: live from RunPod's catalogue; Vast.ai: live" in shown or "Vast.ai: live" in shown
    both.assert_nothing_left()
