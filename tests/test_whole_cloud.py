"""Whole runs against a cloud that says no, says nothing, or lies: they wait, go on or end, and nothing is left."""

import json
import shutil

import pytest
from whole import World, end

from pushtrain.errors import CloudAuthFailed, NoBalance
from pushtrain.run import ledger_prefix

pytest_plugins = ("whole",)


def test_without_a_key_or_with_a_wrong_one_nothing_is_claimed(world: World) -> None:
    world.write_job()
    world.push()
    for key, words in (("", "RUNPOD_API_KEY is not set"), ("wrong-key-of-somebody", "invalid bearer token")):
        done = world.cli("reconcile", "--follow", RUNPOD_API_KEY=key)
        assert done.returncode == 3 and words in done.stderr and "hint:" in done.stderr, done.stderr
        assert "wrong-key" not in done.stderr
    assert world.records() == []
    world.assert_nothing_left()


def test_an_empty_balance_is_waited_for_and_said_once(world: World) -> None:
    world.write_job()
    world.push()
    world.simulator.fault("http_402", times=2, operation="create_pod")
    for _ in range(2):
        done = world.tick()
        assert [type(failure) for failure in done.failures] == [NoBalance] and done.exit_code == 3
        assert not world.control().cloud.find("")  # whoever waits holds nothing
    waiting = [event for event in world.record("job").events if event.state == "waiting"]
    assert [event.reason for event in waiting] == ["NoBalance"]
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    world.assert_nothing_left()


def test_a_key_refused_in_the_middle_leaves_the_pod_at_work(world: World) -> None:
    world.orders(steps=100, step_s=0.05)
    world.write_job()
    world.push()
    world.until(lambda record: record.last.state == "training")
    world.simulator.fault("http_401", times=1, operation="list_pods")
    with pytest.raises(CloudAuthFailed):
        world.tick()
    assert end(world.until(lambda record: record.is_over)) == ("succeeded", "")
    world.assert_nothing_left()


def test_no_capacity_anywhere_is_waited_for_without_filling_the_branch(world: World) -> None:
    world.write_job()
    world.push()
    world.simulator.fault("no_capacity", times=None)
    for _ in range(4):
        done = world.tick()
        assert done.exit_code == 0 and done.active and not world.control().cloud.find("")
    states = [event.state for event in world.record("job").events]
    assert states == ["claimed", "provisioning", "waiting"]
    deadlines = _deadlines(world)
    world.simulator.request("DELETE", "/_simulator/faults")
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and _deadlines(world) == deadlines
    world.assert_nothing_left()


def test_out_of_stock_everywhere_rents_nothing_and_suspending_ends_the_wait(world: World) -> None:
    world.write_job()
    world.push()
    world.simulator.fault("no_stock", times=None)
    assert world.tick().active
    assert world.record("job").last.reason == "NoCapacity"
    world.write_job(more="suspend: true\n")
    world.push()
    done = world.cli("reconcile")
    assert done.returncode == 0, done.stderr
    record = world.record("job")
    assert end(record) == ("cancelled", "Suspended")
    assert record.receipt and record.receipt["billed_usd"] == 0 and record.receipt["pods"] == []
    assert world.simulator.state()["billed_usd"] >= 0 and world.pods_made(record) == []
    world.assert_nothing_left()


@pytest.mark.parametrize("fault", ["no_capacity", "http_403"])
def test_the_ladder_goes_on_to_the_next_data_center_and_the_next_gpu(world: World, fault: str) -> None:
    world.write_job(gpus="NVIDIA RTX A4000, NVIDIA A40")
    world.push()
    world.simulator.fault(fault, times=None, operation="create_pod", gpu="NVIDIA RTX A4000")
    if fault == "no_capacity":
        world.simulator.fault(fault, times=1, operation="create_pod", gpu="NVIDIA A40", data_center="CA-MTL-1")
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    (pod,) = world.pods_made(record)
    (provisioned,) = (event for event in record.events if event.state == "provisioned")
    where = "EU-SE-1" if fault == "no_capacity" else "CA-MTL-1"
    assert (pod["gpu"], pod["data_center"]) == ("NVIDIA A40", where)
    assert (provisioned.data["gpu"], provisioned.data["data_center"]) == ("NVIDIA A40", where)
    world.assert_nothing_left()


def test_access_denied_on_every_candidate_is_said_and_waited_for(world: World) -> None:
    world.write_job()
    world.push()
    world.simulator.fault("http_403", times=None, operation="create_pod")
    done = world.tick()
    assert [failure.reason for failure in done.failures] == ["AccessDenied"] and done.exit_code == 3
    assert world.record("job").last.reason == "AccessDenied" and not world.control().cloud.find("")
    world.simulator.request("DELETE", "/_simulator/faults")
    assert end(world.until(lambda record: record.is_over)) == ("succeeded", "")
    world.assert_nothing_left()


@pytest.mark.parametrize(
    ("fault", "operation"), [("error_after_create", "create_pod"), ("lost_answer", "create_volume")]
)
def test_a_create_whose_answer_is_lost_is_adopted_once(world: World, fault: str, operation: str) -> None:
    world.write_job()
    world.push()
    world.simulator.fault(fault, times=1, operation=operation)
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    assert record.receipt and len(record.receipt["volumes"]) == 1
    world.assert_nothing_left()


def test_a_volume_that_a_cut_climb_left_elsewhere_is_used_where_it_is(world: World) -> None:
    world.write_job()
    world.push()
    world.simulator.fault("no_capacity", times=None, operation="create_pod")
    world.tick()
    world.simulator.request("DELETE", "/_simulator/faults")
    shutil.rmtree(world.folder / "state" / "stacks", ignore_errors=True)
    name = str(world.record("job").run["resource_prefix"]) + "-v"
    body = {"name": name, "size": 10, "dataCenter": "US-KS-2"}
    world.simulator.request("POST", "/v2/network-volumes", json=body).raise_for_status()
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [pod["data_center"] for pod in world.pods_made(record)] == ["US-KS-2"]
    world.assert_nothing_left()


def test_a_volume_left_where_the_ladder_does_not_go_is_removed_first(world: World) -> None:
    world.write_job(data_centers="EU-SE-1")
    world.push()
    world.simulator.fault("no_capacity", times=None, operation="create_pod")
    world.tick()
    world.simulator.request("DELETE", "/_simulator/faults")
    shutil.rmtree(world.folder / "state" / "stacks", ignore_errors=True)
    name = str(world.record("job").run["resource_prefix"]) + "-v"
    body = {"name": name, "size": 10, "dataCenter": "CA-MTL-1"}
    world.simulator.request("POST", "/v2/network-volumes", json=body).raise_for_status()
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [pod["data_center"] for pod in world.pods_made(record)] == ["EU-SE-1"]
    world.assert_nothing_left()


def test_what_the_cloud_will_not_let_go_is_a_leak_until_it_does(world: World) -> None:
    world.write_job()
    world.push()
    world.tick()
    world.until(lambda record: record.last.state == "finished", ticks=False)
    shutil.rmtree(world.folder / "state" / "stacks")  # the engine knows nothing; the listing does
    world.simulator.fault("volume_busy", times=None)
    done = world.cli("reconcile", PUSHTRAIN_TEARDOWN_WAIT_S="0.5")
    record = world.record("job")
    assert done.returncode == 4 and "network volume" in done.stderr and "sweep" in done.stderr, done.stderr
    assert not record.is_over and record.last.state == "leak" and record.run_id in record.last.message
    listed = world.cli("sweep", "--json")
    assert listed.returncode == 0 and json.loads(listed.stdout)["orphans"] == []  # an active run still owns it
    world.simulator.request("DELETE", "/_simulator/faults")
    done = world.cli("reconcile")
    assert done.returncode == 0, done.stderr
    assert end(world.record("job")) == ("succeeded", "")
    world.assert_nothing_left()


def test_orphans_with_our_mark_are_swept_and_nobody_elses(world: World) -> None:
    mark = ledger_prefix(f"file://{world.folder}/remote.git")
    foreign = ledger_prefix("https://example.org/somebody/else.git")
    names = {
        "ours": f"{mark}gone-0123abcd-4567cdef",
        "foreign": f"{foreign}job-0123abcd-4567cdef",
        "plain": "a-notebook",
    }
    for name in names.values():
        volume = {"name": f"{name}-v", "size": 10, "dataCenter": "EU-SE-1"}
        world.simulator.request("POST", "/v2/network-volumes", json=volume).raise_for_status()
        pod = {"name": f"{name}-a1", "image": "x", "gpu": {"id": "NVIDIA A40"}}
        world.simulator.request("POST", "/v2/pods", json=pod).raise_for_status()
    world.write_job()
    world.push()
    listed = world.cli("sweep")
    assert listed.returncode == 4 and "gone-0123abcd" in listed.stdout and "notebook" not in listed.stdout
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 0 and "swept: pod" in done.stderr and "swept: network volume" in done.stderr
    live = world.control().cloud.find("")
    assert {pod.name for pod in live.pods} == {f"{names['foreign']}-a1", "a-notebook-a1"}
    assert {volume.name for volume in live.volumes} == {f"{names['foreign']}-v", "a-notebook-v"}
    assert end(world.record("job")) == ("succeeded", "")
    for pod in live.pods:
        world.control().cloud.terminate(pod.id)
    for volume in live.volumes:
        world.control().cloud.delete_volume(volume.id)
    world.assert_nothing_left()


def test_faults_of_the_hub_are_switched_like_those_of_the_cloud(world: World) -> None:
    world.simulator.fault("hub_down", times=1)
    assert world.simulator.request("GET", "/api/models/demo/nothing").status_code == 503
    assert world.simulator.request("GET", "/api/models/demo/nothing").status_code != 503
    world.simulator.fault("hub_down", times=None)
    world.simulator.request("DELETE", "/_simulator/faults").raise_for_status()
    assert world.simulator.request("GET", "/api/models/demo/nothing").status_code != 503
    answer = world.simulator.request("POST", "/_simulator/faults", json={"kind": "hub_melted"})
    assert answer.status_code == 422 and "hub_commit_lost" in answer.text


def _deadlines(world: World) -> set[float]:
    events = world.record("job").events
    return {rung["deadline_epoch_s"] for event in events for rung in event.data.get("rungs", ())}
