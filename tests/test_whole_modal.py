"""Whole runs at Modal: the same job by one word, orphans that are swept, a lost sandbox that is followed by another one
on the same volume, and nothing is left."""

import pytest
from whole import World, end

from infra.clouds import connect
from pushtrain.cloud import VolumeRequest
from pushtrain.run import ledger_prefix

pytest_plugins = ("whole",)


@pytest.fixture
def there(world: World) -> World:
    """A world with Modal's token beside RunPod's key, and a job of one word more."""
    world.env |= world.simulator.env("modal")
    world.write_job(cloud="modal", gpus="NVIDIA L40S")
    return world


def test_a_run_by_one_word_at_modal_with_a_volume_and_orphans_are_swept(there: World) -> None:
    modal, orphans = connect("modal", there.env), ledger_prefix(there.control().settings.ledger_url)
    held = modal.create_volume(VolumeRequest(name=f"{orphans}nobodys-0-0-v", size_gb=10, data_center="anywhere"))
    orphan = there.orphan("modal", gpu="NVIDIA L4", volume_id=held.id)
    there.orders(steps=3, step_s=0.05)
    there.push()
    record = there.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and record.run.get("cloud") == "modal"
    ((pod,),) = (there.pods_made(record),)
    (placed,) = (event for event in record.events if event.state == "provisioned")
    assert placed.data["data_center"] == "anywhere" and placed.data["volume_id"].startswith("vo-")
    (booting,) = (event for event in record.events if event.state == "booting")
    assert booting.data["pod"] == pod["id"] and pod["id"].startswith("sb-")
    receipt = record.receipt or {}
    assert receipt["pods"] == [pod["id"]] and receipt["billed_usd"] > 0
    assert receipt["billed_source"] == "billing API", "the sandbox's, and the volume by time × price"
    assert modal.read_pod(orphan.id) is None and modal.read_volume(held.id) is None
    assert not modal.find("")
    there.assert_nothing_left()


def test_creates_without_an_answer_and_a_lost_sandbox_are_followed_by_an_attempt_from_the_checkpoint_on_the_same_volume(
    there: World,
) -> None:
    there.orders(steps=20, step_s=0.05, hang_at=10)
    for kind, operation in (("error_after_create", "create_volume"), ("lost_answer", "create_pod")):
        there.simulator.fault(kind, operation=operation)
    there.simulator.fault("http_502", times=2, operation="list_pods")
    there.simulator.fault("lost_pod", seconds=5, pod_name="*-a1")
    there.push()
    record = there.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [(event.attempt, event.reason) for event in record.events if event.state == "lost"] == [(1, "PodLost")]
    volumes = {event.data["volume_id"] for event in record.events if event.state == "provisioned"}
    assert len(volumes) == 1 and len(there.pods_made(record)) == 2
    there.assert_nothing_left()
