"""The contract of `pushtrain.cloud.Cloud`, as tests over any member.

    pytest.register_assert_rewrite("cloud_contract")
    from cloud_contract import CloudContract, Facts

    class TestMyCloud(CloudContract):
        @pytest.fixture
        def cloud(self) -> Cloud: ...

        @pytest.fixture
        def facts(self) -> Facts: ...

Each test rents under a prefix of its own and removes what it rented, whatever happened.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from pushtrain.cloud import Cloud, Live, PodRequest, VolumeRequest
from pushtrain.errors import CloudError, CloudUnavailable, NoCapacity


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Where the account can really place something. `gpu` has stock in `data_center`, which has network volumes.

    `sold_out`: (gpu, data center) that the cloud knows and cannot place now. `absent_id` was never given to anything.
    `settle_s`: how long a volume may stay busy, or a pod visible, after its pod was terminated.
    """

    gpu: str
    data_center: str
    image: str
    args: str = "sleep 600"
    sold_out: tuple[str, str] | None = None
    absent_id: str = "absent0000000"
    settle_s: float = 15.0


class CloudContract:
    """Subclass as Test…, with fixtures `cloud` and `facts`."""

    @pytest.fixture
    def cloud(self) -> Cloud:
        raise NotImplementedError("the subclass says which cloud")

    @pytest.fixture
    def facts(self) -> Facts:
        raise NotImplementedError("the subclass says where there is stock")

    @pytest.fixture
    def prefix(self, cloud: Cloud, facts: Facts) -> Iterator[str]:
        mine = f"pt-{uuid.uuid4().hex[:12]}-"
        yield mine
        sweep(cloud, mine, facts.settle_s)

    @pytest.fixture
    def volume(self, prefix: str, facts: Facts) -> VolumeRequest:
        return VolumeRequest(name=f"{prefix}v", size_gb=10, data_center=facts.data_center)

    @pytest.fixture
    def pod(self, prefix: str, facts: Facts) -> PodRequest:
        return PodRequest(
            name=f"{prefix}a1",
            image=facts.image,
            gpu=facts.gpu,
            gpu_count=1,
            tier="SECURE",
            disk_gb=10,
            args=facts.args,
            data_center=facts.data_center,
            env={"PUSHTRAIN_ATTEMPT": "1"},
            secret_env=("PUSHTRAIN_NOT_SET_ANYWHERE",),
        )

    def test_offers_are_of_known_gpus_and_have_the_one_we_will_rent(self, cloud: Cloud, facts: Facts):
        offers = cloud.offers()
        assert {offer.gpu for offer in offers} <= set(cloud.gpu_names())
        mine = [offer for offer in offers if offer.gpu == facts.gpu and offer.data_center == facts.data_center]
        assert len(mine) == 1
        assert mine[0].tier == "SECURE" and mine[0].has_network_volumes and mine[0].stock != "NONE"
        assert mine[0].usd_per_gpu_hour > 0 and mine[0].gpu_memory_gb > 0 and mine[0].max_count >= 1
        assert all(not offer.has_network_volumes for offer in offers if offer.data_center is None)

    def test_a_volume_reads_back_as_it_was_made(self, cloud: Cloud, volume: VolumeRequest):
        made = cloud.create_volume(volume)
        assert (made.name, made.size_gb, made.data_center) == (volume.name, volume.size_gb, volume.data_center)
        assert cloud.read_volume(made.id) == made

    def test_a_volume_of_that_name_is_adopted(self, cloud: Cloud, volume: VolumeRequest, prefix: str):
        assert cloud.create_volume(volume).id == cloud.create_volume(volume).id
        assert len(cloud.find(prefix).volumes) == 1

    def test_a_deleted_volume_is_gone_and_deleting_it_again_is_success(
        self, cloud: Cloud, volume: VolumeRequest, prefix: str
    ):
        made = cloud.create_volume(volume)
        cloud.delete_volume(made.id)
        assert cloud.read_volume(made.id) is None
        assert not cloud.find(prefix)
        cloud.delete_volume(made.id)

    def test_a_pod_reads_back_as_it_was_made(self, cloud: Cloud, pod: PodRequest, prefix: str):
        made = cloud.create_pod(pod)
        assert (made.name, made.gpu, made.gpu_count) == (pod.name, pod.gpu, pod.gpu_count)
        assert made.usd_per_hour > 0
        found = cloud.read_pod(made.id)
        assert found is not None and (found.id, found.name) == (made.id, made.name)
        assert found.data_center == pod.data_center
        assert [each.id for each in cloud.find(prefix).pods] == [made.id]

    def test_a_pod_of_that_name_is_adopted(self, cloud: Cloud, pod: PodRequest, prefix: str):
        assert cloud.create_pod(pod).id == cloud.create_pod(pod).id
        assert len(cloud.find(prefix).pods) == 1

    def test_another_name_is_another_pod(self, cloud: Cloud, pod: PodRequest, prefix: str):
        first, second = cloud.create_pod(pod), cloud.create_pod(replace(pod, name=f"{prefix}a11"))
        assert first.id != second.id
        assert {each.id for each in cloud.find(prefix).pods} == {first.id, second.id}

    def test_a_terminated_pod_is_gone_and_terminating_it_again_is_success(
        self, cloud: Cloud, pod: PodRequest, prefix: str, facts: Facts
    ):
        made = cloud.create_pod(pod)
        cloud.terminate(made.id)
        assert within(facts.settle_s, lambda: cloud.read_pod(made.id) is None and not cloud.find(prefix))
        cloud.terminate(made.id)

    def test_a_name_may_be_used_again_after_its_pod_was_terminated(self, cloud: Cloud, pod: PodRequest):
        first = cloud.create_pod(pod)
        cloud.terminate(first.id)
        assert cloud.create_pod(pod).id != first.id

    def test_what_never_was_reads_as_absent_and_is_removed_with_success(self, cloud: Cloud, facts: Facts):
        assert cloud.read_pod(facts.absent_id) is None
        assert cloud.read_volume(facts.absent_id) is None
        cloud.terminate(facts.absent_id)
        cloud.delete_volume(facts.absent_id)
        assert list(cloud.logs(facts.absent_id, timeout_s=2.0)) == []

    def test_find_ignores_what_does_not_begin_with_the_prefix(
        self, cloud: Cloud, pod: PodRequest, volume: VolumeRequest, prefix: str
    ):
        made, held = cloud.create_pod(pod), cloud.create_volume(volume)
        assert cloud.find(prefix) and not cloud.find(f"x{prefix}") and not cloud.find(prefix[1:])
        assert [each.id for each in cloud.find(pod.name).pods] == [made.id]
        assert cloud.find(pod.name).volumes == ()
        assert [each.id for each in cloud.find(volume.name).volumes] == [held.id]

    def test_a_mounted_volume_cannot_be_deleted_before_its_pod(
        self, cloud: Cloud, pod: PodRequest, volume: VolumeRequest, facts: Facts
    ):
        held = cloud.create_volume(volume)
        holder = cloud.create_pod(replace(pod, volume_id=held.id))
        with pytest.raises(CloudUnavailable):
            cloud.delete_volume(held.id)
        assert cloud.read_volume(held.id) is not None
        cloud.terminate(holder.id)
        assert within(facts.settle_s, lambda: deleted(cloud, held.id))
        assert cloud.read_volume(held.id) is None

    def test_a_sold_out_gpu_asks_for_the_next_candidate_and_leaves_nothing(
        self, cloud: Cloud, pod: PodRequest, prefix: str, facts: Facts
    ):
        if facts.sold_out is None:
            pytest.skip("this account has no GPU that is surely sold out")
        gpu, data_center = facts.sold_out
        with pytest.raises(NoCapacity) as caught:
            cloud.create_pod(replace(pod, gpu=gpu, data_center=data_center))
        assert caught.value.hint
        assert not cloud.find(prefix)

    def test_a_gpu_nobody_sells_is_refused_and_leaves_nothing(self, cloud: Cloud, pod: PodRequest, prefix: str):
        with pytest.raises(CloudError):
            cloud.create_pod(replace(pod, gpu="Nobody Sells This 9000"))
        assert not cloud.find(prefix)

    def test_the_log_of_a_living_pod_ends_in_time(self, cloud: Cloud, pod: PodRequest):
        made, begun = cloud.create_pod(pod), time.monotonic()
        for line in cloud.logs(made.id, timeout_s=0.5):
            assert line.event_id and line.source
        assert time.monotonic() - begun < 10

    def test_the_bill_of_something_new_is_small_and_of_nothing_is_nothing(
        self, cloud: Cloud, pod: PodRequest, facts: Facts
    ):
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
        made = cloud.create_pod(pod)
        bill = cloud.bill([made.id], [], since)
        assert 0 <= bill.pods_usd < 1 and bill.volumes_usd == 0
        assert cloud.bill([facts.absent_id], [facts.absent_id], since).total_usd == 0
        assert cloud.bill([], [], since).total_usd == 0


def sweep(cloud: Cloud, prefix: str, settle_s: float) -> None:
    """Remove everything under the prefix; fails the test when something stays."""
    for pod in cloud.find(prefix).pods:
        cloud.terminate(pod.id)
    for volume in cloud.find(prefix).volumes:
        assert within(settle_s, lambda volume_id=volume.id: deleted(cloud, volume_id)), f"{volume.name} stays"
    left: Live = cloud.find(prefix)
    assert not left, f"left behind: {left}"


def deleted(cloud: Cloud, volume_id: str) -> bool:
    try:
        cloud.delete_volume(volume_id)
    except CloudUnavailable:
        return False
    return True


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
