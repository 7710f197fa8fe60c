"""A whole run on community machines: no volume, a lost pod takes everything with it, and nothing is left."""

from whole import World, end

pytest_plugins = ("whole",)


def test_a_lost_community_pod_is_followed_by_an_attempt_from_step_0_and_no_volume_is_ever_made(world: World) -> None:
    world.orders(steps=20, step_s=0.05, hang_at=10)
    world.write_job(gpus="NVIDIA RTX A6000")
    spec = world.repository / "jobs" / "job.yaml"
    spec.write_text(spec.read_text().replace("compute: {", "compute: {tiers: [COMMUNITY], "))
    world.push()
    world.until(lambda record: record.last.state == "training")
    world.simulator.fault("lost_pod", seconds=1, pod_name="*-a1")
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [(event.attempt, event.reason) for event in record.events if event.state == "lost"] == [(1, "PodLost")]
    assert [event.data["resumed_from_step"] for event in record.events if event.state == "training"] == [0, 0]
    pods = world.pods_made(record)
    assert [(pod["data_center"], pod["volume_id"]) for pod in pods] == [(None, None)] * 2
    receipt = record.receipt or {}
    assert receipt["volumes"] == [] and len(receipt["pods"]) == 2
    assert (receipt["proof"]["pods"], receipt["proof"]["volumes"]) == (0, 0)
    assert not [volume for volume in world.simulator.state()["volumes"] if volume["name"].startswith("pt-")]
    world.assert_nothing_left()
