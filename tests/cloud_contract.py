"""The contract of `pushtrain.cloud.Cloud`, as tests over any member.

Held here: adopt by name before and after, also when nobody knows whether a create was carried out and when two create
at once; absent is success; a volume that is held is not deleted; every page of every list; failures sorted by what to
do next; a limit on requests is waited for.

    pytest.register_assert_rewrite("cloud_contract")
    from cloud_contract import CloudContract, Facts

    class TestMyCloud(CloudContract):
        @pytest.fixture
        def cloud(self) -> Cloud: ...

        @pytest.fixture
        def twin(self) -> Cloud: ...        # another client of the same account

        @pytest.fixture
        def facts(self) -> Facts: ...

        @pytest.fixture
        def trouble(self) -> Trouble: ...   # where the cloud can be made to fail; tests that need it skip without

Each test rents under a prefix of its own and removes what it rented, whatever happened.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from inspect import signature
from typing import Protocol, TypeVar

import pytest

from pushtrain.capabilities import CLOUDS, Capabilities
from pushtrain.cloud import Cloud, PodRequest, VolumeRequest
from pushtrain.errors import CloudError, CloudUnavailable, NoCapacity, RequestRejected
from pushtrain.run import KEPT_PREFIX

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Where the account can really place something. `gpu` has stock in `data_center`, which has network volumes.

    `sold_out`: (gpu, data center) that the cloud knows and cannot place now. `absent_id` was never given to anything.
    `community_gpu`: a GPU type that can be had on a community machine now.
    `elsewhere`: another data center with network volumes. `template`: id of a template that a pod can be made from.
    `settle_s`: how long a volume may stay busy, or a pod visible, after its pod was terminated. `can` is what the
    cloud says of itself; where it has no data centers, `data_center` is None, and `image` where it takes none.
    `volume_gb` is the smallest volume that it makes.
    """

    gpu: str
    data_center: str | None
    image: str | None
    can: Capabilities = CLOUDS["runpod"]
    ports: tuple[str, ...] = ("8888/http", "22/tcp")
    args: str = "sleep 600"
    sold_out: tuple[str, str | None] | None = None
    community_gpu: str | None = None
    absent_id: str = "absent0000000"
    settle_s: float = 15.0
    elsewhere: str | None = None
    template: str | None = None
    volume_gb: int = 10


class Trouble(Protocol):
    """Makes the cloud fail on the very next request of a kind (`create_pod`, `create_volume`, `list_pods`)."""

    def lose_answer(self, operation: str) -> None:
        """It is carried out, and no answer comes."""
        ...

    def fail_after(self, operation: str) -> None:
        """It is carried out, and the answer is a fault of the server."""
        ...

    def say_no_capacity(self) -> None:
        """The next pod is not made; what is said is what the cloud says when it is full."""
        ...

    def limit(self, operation: str, seconds: float) -> None:
        """It is refused, as one request too many; the next one is welcome after `seconds`."""
        ...


class CloudContract:
    """Subclass as Test…, with fixtures `cloud`, `twin` and `facts`."""

    @pytest.fixture
    def cloud(self) -> Cloud:
        raise NotImplementedError("the subclass says which cloud")

    @pytest.fixture
    def twin(self) -> Cloud:
        raise NotImplementedError("the subclass says how the same account is reached a second time")

    @pytest.fixture
    def facts(self) -> Facts:
        raise NotImplementedError("the subclass says where there is stock")

    @pytest.fixture
    def trouble(self) -> Trouble:
        pytest.skip("this cloud cannot be made to fail")

    @pytest.fixture
    def prefix(self, cloud: Cloud, facts: Facts) -> Iterator[str]:
        mine = f"pt-{uuid.uuid4().hex[:12]}-"
        yield mine
        sweep(cloud, mine, facts.settle_s)

    @pytest.fixture
    def volume(self, prefix: str, facts: Facts) -> VolumeRequest:
        assert facts.data_center is not None
        return VolumeRequest(name=f"{prefix}v", size_gb=facts.volume_gb, data_center=facts.data_center)

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
            ports=facts.ports,
            secret_env=("PUSHTRAIN_NOT_SET_ANYWHERE",),
        )

    def test_offers_are_of_known_gpus_and_have_the_one_we_will_rent(self, cloud: Cloud, facts: Facts):
        offers = cloud.offers()
        assert {offer.gpu for offer in offers} <= set(cloud.gpu_names())
        can, here = facts.can, (facts.gpu, facts.data_center, "SECURE")
        mine = [offer for offer in offers if (offer.gpu, offer.data_center, offer.tier) == here]
        assert len(mine) == 1
        assert mine[0].has_network_volumes == can.keeps("SECURE") and mine[0].stock != "NONE"
        assert mine[0].usd_per_gpu_hour > 0 and mine[0].gpu_memory_gb > 0 and mine[0].max_count >= 1
        assert all(not offer.has_network_volumes for offer in offers if offer.data_center is None)
        assert all(not can.keeps(offer.tier) for offer in offers if offer.data_center is None)

    def test_a_volume_reads_back_as_it_was_made(self, cloud: Cloud, volume: VolumeRequest, facts: Facts):
        made = cloud.create_volume(volume)
        assert (made.name, made.data_center) == (volume.name, volume.data_center)
        assert made.size_gb == (volume.size_gb if facts.can.has_sized_volumes else 0)
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
        assert made.ports == found.ports == pod.ports
        assert [each.id for each in cloud.find(prefix).pods] == [made.id]

    def test_the_accounts_ssh_keys_are_replaced_as_a_whole(self, cloud: Cloud):
        before, key = cloud.ssh_keys(), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQrContract me@here"
        try:
            cloud.replace_ssh_keys([*before, key])
            assert cloud.ssh_keys() == [*before, key]
        finally:
            cloud.replace_ssh_keys(before)
        assert cloud.ssh_keys() == before

    def test_a_pod_of_that_name_is_adopted(self, cloud: Cloud, pod: PodRequest, prefix: str):
        assert cloud.create_pod(pod).id == cloud.create_pod(pod).id
        assert len(cloud.find(prefix).pods) == 1

    def test_an_adopted_pod_is_told_as_it_is_not_as_it_was_asked_for(self, cloud: Cloud, pod: PodRequest):
        made = cloud.create_pod(pod)
        adopted = cloud.create_pod(replace(pod, gpu="Nobody Sells This 9000"))
        assert (adopted.id, adopted.gpu) == (made.id, pod.gpu)

    @pytest.mark.parametrize("way", ["lose_answer", "fail_after"])
    def test_a_pod_whose_creator_got_no_answer_is_found_and_is_the_only_one(
        self, cloud: Cloud, pod: PodRequest, prefix: str, trouble: Trouble, way: str
    ):
        getattr(trouble, way)("create_pod")
        made = cloud.create_pod(pod)
        assert [each.id for each in cloud.find(prefix).pods] == [made.id]

    @pytest.mark.parametrize("way", ["lose_answer", "fail_after"])
    def test_a_volume_whose_creator_got_no_answer_is_found_and_is_the_only_one(
        self, cloud: Cloud, volume: VolumeRequest, prefix: str, trouble: Trouble, way: str
    ):
        getattr(trouble, way)("create_volume")
        made = cloud.create_volume(volume)
        assert [each.id for each in cloud.find(prefix).volumes] == [made.id]

    def test_two_who_create_the_same_pod_at_once_leave_one(
        self, cloud: Cloud, twin: Cloud, pod: PodRequest, prefix: str, facts: Facts
    ):
        made = at_once(lambda: cloud.create_pod(pod), lambda: twin.create_pod(pod))
        assert {each.name for each in made} == {pod.name}
        assert within(facts.settle_s, lambda: len(cloud.find(prefix).pods) == 1)
        assert cloud.find(prefix).pods[0].id in {each.id for each in made}
        assert cloud.create_pod(pod).id == twin.create_pod(pod).id

    def test_two_who_create_the_same_volume_at_once_leave_one(
        self, cloud: Cloud, twin: Cloud, volume: VolumeRequest, prefix: str
    ):
        made = at_once(lambda: cloud.create_volume(volume), lambda: twin.create_volume(volume))
        (left,) = cloud.find(prefix).volumes
        assert left.id in {each.id for each in made}

    def test_what_one_client_made_another_one_sees_adopts_and_ends(
        self, cloud: Cloud, twin: Cloud, pod: PodRequest, volume: VolumeRequest, prefix: str, facts: Facts
    ):
        held, made = cloud.create_volume(volume), cloud.create_pod(pod)
        assert (twin.create_volume(volume).id, twin.create_pod(pod).id) == (held.id, made.id)
        twin.terminate(made.id)
        twin.delete_volume(held.id)
        assert within(facts.settle_s, lambda: not cloud.find(prefix))
        cloud.terminate(made.id)
        cloud.delete_volume(held.id)

    def test_find_lists_everything_however_many_there_are(self, cloud: Cloud, volume: VolumeRequest, prefix: str):
        made = {cloud.create_volume(replace(volume, name=f"{prefix}{number}")).id for number in range(5)}
        assert {each.id for each in cloud.find(prefix).volumes} == made
        cloud.delete_volume(sorted(made)[0])
        assert len(cloud.find(prefix).volumes) == 4

    def test_a_volume_grows_and_never_shrinks(self, cloud: Cloud, volume: VolumeRequest, facts: Facts):
        made, twice = cloud.create_volume(volume), 2 * facts.volume_gb
        if not facts.can.has_sized_volumes:
            assert cloud.grow_volume(made.id, twice) == made, "it is as large as what is on it"
            with pytest.raises(RequestRejected):
                cloud.grow_volume(facts.absent_id, 5000)
            return
        assert cloud.grow_volume(made.id, twice).size_gb == twice
        assert cloud.grow_volume(made.id, twice - 5).size_gb == twice, "it is large enough already"
        assert cloud.grow_volume(made.id, twice) == cloud.read_volume(made.id) == replace(made, size_gb=twice)
        for wrong in (made.id, facts.absent_id):
            with pytest.raises(RequestRejected):
                cloud.grow_volume(wrong, 5000)
        assert cloud.read_volume(made.id) == replace(made, size_gb=twice)

    def test_every_volume_of_the_account_is_listed_and_a_pod_says_which_it_mounts(
        self, cloud: Cloud, pod: PodRequest, volume: VolumeRequest, prefix: str
    ):
        made = [cloud.create_volume(replace(volume, name=f"{prefix}{number}")) for number in range(4)]
        assert set(made) <= set(cloud.volumes())
        holder = cloud.create_pod(replace(pod, volume_id=made[0].id))
        bare = cloud.create_pod(replace(pod, name=f"{prefix}a2"))
        assert {it.id: it.volume_id for it in cloud.find(prefix).pods} == {holder.id: made[0].id, bare.id: None}

    def test_two_who_make_a_kept_volume_at_once_leave_the_same_one_wherever_they_wanted_it(
        self, cloud: Cloud, twin: Cloud, facts: Facts
    ):
        name = f"{KEPT_PREFIX}{uuid.uuid4().hex[:12]}-models"
        assert facts.data_center is not None
        here = VolumeRequest(name=name, size_gb=facts.volume_gb, data_center=facts.data_center)
        there = replace(here, data_center=facts.elsewhere or facts.data_center)
        try:
            at_once(
                lambda: outcome(lambda: cloud.create_volume(here)), lambda: outcome(lambda: twin.create_volume(there))
            )
            (left,) = cloud.find(name).volumes
            assert left.data_center in (here.data_center, there.data_center)
            assert cloud.create_volume(replace(here, data_center=left.data_center)) == left
            if facts.elsewhere is not None:
                (other,) = {here.data_center, there.data_center} - {left.data_center}
                with pytest.raises(NoCapacity, match=left.data_center):
                    cloud.create_volume(replace(here, data_center=other))
            assert cloud.find(name).volumes == (left,)
        finally:
            sweep(cloud, name, facts.settle_s)

    def test_a_pod_made_from_a_template_is_what_the_request_says_over_what_the_template_says(
        self, cloud: Cloud, pod: PodRequest, prefix: str, facts: Facts
    ):
        if facts.template is None:
            pytest.skip("this account has no template for sure")
        found = cloud.read_template(facts.template)
        assert found is not None and found.id == facts.template and found.image and not found.is_serverless
        made = cloud.create_pod(replace(pod, image=None, template=facts.template, ports=()))
        assert (made.gpu, made.ports) == (pod.gpu, ()), "the template's ports would be open"
        assert [it.id for it in cloud.find(prefix).pods] == [made.id]

    def test_a_template_nobody_has_is_refused_for_good_and_leaves_nothing(
        self, cloud: Cloud, pod: PodRequest, prefix: str, facts: Facts
    ):
        assert cloud.read_template(facts.absent_id) is None
        with pytest.raises(RequestRejected, match=facts.absent_id) as caught:
            cloud.create_pod(replace(pod, image=None, template=facts.absent_id))
        assert caught.value.reason == "UnknownTemplate"
        assert not cloud.find(prefix)

    def test_a_limit_on_requests_is_waited_for(self, cloud: Cloud, pod: PodRequest, prefix: str, trouble: Trouble):
        begun = time.monotonic()
        trouble.limit("create_pod", 1.0)
        made = cloud.create_pod(pod)
        assert time.monotonic() - begun >= 1.0
        trouble.limit("list_pods", 1.0)
        assert [each.id for each in cloud.find(prefix).pods] == [made.id]

    def test_a_pod_with_a_disk_of_its_own_on_a_community_machine(
        self, cloud: Cloud, pod: PodRequest, volume: VolumeRequest, prefix: str, facts: Facts
    ):
        if facts.community_gpu is None:
            pytest.skip("this account has no community machine for sure")
        there = replace(pod, gpu=facts.community_gpu, tier="COMMUNITY", data_center=None, persistent_gb=10)
        made = cloud.create_pod(there)
        assert (made.tier, made.data_center) == ("COMMUNITY", None)
        assert cloud.find(prefix).volumes == ()
        held = cloud.create_volume(volume)
        with pytest.raises(CloudError):
            cloud.create_pod(replace(there, name=f"{prefix}a2", persistent_gb=None, volume_id=held.id))
        assert [each.id for each in cloud.find(prefix).pods] == [made.id]

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

    def test_what_the_cloud_says_when_it_is_full_is_understood(
        self, cloud: Cloud, pod: PodRequest, prefix: str, trouble: Trouble
    ):
        trouble.say_no_capacity()
        with pytest.raises(NoCapacity):
            cloud.create_pod(pod)
        assert not cloud.find(prefix)

    def test_a_gpu_nobody_sells_is_refused_and_leaves_nothing(self, cloud: Cloud, pod: PodRequest, prefix: str):
        with pytest.raises(CloudError):
            cloud.create_pod(replace(pod, gpu="Nobody Sells This 9000"))
        assert not cloud.find(prefix)

    def test_the_log_of_a_living_pod_ends_in_time(self, cloud: Cloud, pod: PodRequest):
        made, begun = cloud.create_pod(pod), time.monotonic()
        for line in cloud.logs(made.id, timeout_s=0.5):
            assert line.event_id and line.source
        assert time.monotonic() - begun < 100

    def test_the_bill_of_something_new_is_small_and_of_nothing_is_nothing(
        self, cloud: Cloud, pod: PodRequest, facts: Facts
    ):
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
        made = cloud.create_pod(pod)
        bill = cloud.bill([made.id], [], since)
        assert 0 <= bill.pods_usd < 1 and bill.volumes_usd == 0
        assert cloud.bill([facts.absent_id], [facts.absent_id], since).total_usd == 0
        assert cloud.bill([], [], since).total_usd == 0
        now_s, until = time.time(), since
        assert not bill.final and not cloud.bill([made.id], [], since, until=until, now_s=now_s).final
        assert cloud.bill([made.id], [], since, until=until, now_s=now_s + 2 * 3600).final


class WithoutVolumes(CloudContract):
    """The same for a cloud that has no network volumes and no templates: what needs one is refused, not left out."""

    def test_a_volume_is_refused_for_good_and_absent_everywhere(self, cloud: Cloud, pod: PodRequest, prefix: str):
        with pytest.raises(RequestRejected, match="volume"):
            cloud.create_volume(VolumeRequest(name=f"{prefix}v", size_gb=10, data_center="EU-SE-1"))
        with pytest.raises(RequestRejected, match="volume"):
            cloud.grow_volume("v1", 20)
        with pytest.raises(RequestRejected, match="volume"):
            cloud.create_pod(replace(pod, volume_id="v1"))
        assert cloud.volumes() == [] and cloud.read_volume("v1") is None and not cloud.find(prefix)

    def test_a_pod_with_a_disk_of_its_own_on_either_tier(
        self, cloud: Cloud, pod: PodRequest, prefix: str, facts: Facts
    ):
        own = replace(pod, persistent_gb=10)
        there = replace(own, name=f"{prefix}a2", gpu=facts.community_gpu or pod.gpu, tier="COMMUNITY")
        assert [cloud.create_pod(asked).tier for asked in (own, there)] == ["SECURE", "COMMUNITY"]
        assert {(it.name, it.tier) for it in cloud.find(prefix).pods} == {(it.name, it.tier) for it in (own, there)}

    def test_what_one_client_made_another_one_adopts_and_ends(
        self, cloud: Cloud, twin: Cloud, pod: PodRequest, prefix: str, facts: Facts
    ):
        made = cloud.create_pod(pod)
        assert twin.create_pod(pod).id == made.id
        assert cloud.find(prefix) and not cloud.find(f"x{prefix}") and not cloud.find(prefix[1:])
        twin.terminate(made.id)
        assert within(facts.settle_s, lambda: not cloud.find(prefix))
        cloud.terminate(made.id)


_LEFT_OUT = ("wherever_they_wanted_it", "over_what_the_template_says")
# Of the contract above what makes a volume, or a pod from a template, has its counterpart in WithoutVolumes.
for _name, _test in list(vars(CloudContract).items()):
    if _name.startswith("test_") and ("volume" in signature(_test).parameters or _name.endswith(_LEFT_OUT)):
        setattr(WithoutVolumes, _name, None)


def outcome(call: Callable[[], T]) -> T | CloudError:
    try:
        return call()
    except CloudError as refusal:
        return refusal


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Each call in a thread of its own, begun together; what they returned. A call that raises fails the test."""
    start = threading.Barrier(len(calls))

    def one(call: Callable[[], T]) -> T:
        start.wait(150)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [begun.result(60) for begun in [pool.submit(one, call) for call in calls]]


def sweep(cloud: Cloud, prefix: str, settle_s: float) -> None:
    """Remove everything under the prefix; fails the test when something stays."""
    for pod in cloud.find(prefix).pods:
        cloud.terminate(pod.id)
    for volume in cloud.find(prefix).volumes:
        assert within(settle_s, lambda volume_id=volume.id: deleted(cloud, volume_id)), f"{volume.name} stays"
    assert within(settle_s, lambda: not cloud.find(prefix)), f"left behind: {cloud.find(prefix)}"


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
