"""The cloud contract over the Vast.ai client and the simulator, and what is Vast's own: offers that vanish, contracts
of refused creates, prices of single machines, logs without numbers, an instance's own key."""

import time
from contextlib import closing
from dataclasses import replace

import httpx
import pytest
from simulator_client import Client

from infra.clouds.vast.client import Vast
from infra.clouds.wire import Limits
from infra.simulator.server import RunningSimulator
from infra.start import boot_env, cloud_env, start_args
from pushtrain.capabilities import VAST
from pushtrain.cloud import PodRequest
from pushtrain.errors import CloudAuthFailed, NoCapacity

pytest.register_assert_rewrite("cloud_contract")
from cloud_contract import Facts, WithoutVolumes, within  # noqa: E402
from contract_on_simulator import OnTheSimulator  # noqa: E402

pytest_plugins = ("simulator_fixtures",)

# Lists of more than two have pages; whoever looks for a lost create does not wait ten seconds for it.
LIMITS = Limits(page=2, look_pauses_s=(0.05, 0.1, 0.2))


def connect(simulator: RunningSimulator) -> Vast:
    return Vast(simulator.keys.others["vast"], simulator.url, limits=LIMITS)


class TestVastOnTheSimulator(OnTheSimulator, WithoutVolumes):
    refusals = 5

    def client(self, simulator: RunningSimulator) -> Vast:
        return connect(simulator)

    @pytest.fixture
    def facts(self) -> Facts:
        return Facts(
            can=VAST,
            gpu="NVIDIA A40",
            data_center=None,
            image="acme/train:1",
            ports=("8888/tcp", "22/tcp"),
            sold_out=("NVIDIA B200", None),
            community_gpu="NVIDIA RTX A6000",
            absent_id="999999999999",
        )

    def test_a_refused_create_that_rented_all_the_same_leaves_nothing_of_it(
        self, cloud: Vast, pod: PodRequest, prefix: str, simulator: RunningSimulator
    ):
        simulator.fault("refused_but_rented", times=2, operation="create_pod")
        made = cloud.create_pod(pod)
        assert [it.id for it in cloud.find(prefix).pods] == [made.id]
        states = [it["status"] for it in simulator.state()["pods"] if it["name"] == pod.name]
        assert sorted(states) == ["RUNNING", "TERMINATED", "TERMINATED"]

    def test_a_bid_is_paid_as_bid_and_a_refused_one_leaves_nothing(
        self, cloud: Vast, pod: PodRequest, prefix: str, simulator: RunningSimulator
    ):
        offer = next(it for it in cloud.offers() if (it.gpu, it.tier) == (pod.gpu, "SECURE"))
        assert offer.min_bid_usd_per_gpu_hour is not None
        least = offer.min_bid_usd_per_gpu_hour * pod.gpu_count
        with pytest.raises(NoCapacity):
            cloud.create_pod(replace(pod, bid_usd_per_hour=least - 0.01))
        simulator.fault("refused_but_rented", times=1, operation="create_pod")
        made = cloud.create_pod(replace(pod, bid_usd_per_hour=least + 0.01))
        assert made.is_spot and least <= made.usd_per_hour < offer.usd_per_gpu_hour * pod.gpu_count
        assert [it.id for it in cloud.find(prefix).pods] == [made.id]
        simulator.fault("outbid", times=1, seconds=0, pod_id=made.id)
        assert within(150, lambda: (seen := cloud.read_pod(made.id)) is not None and not seen.is_alive)
        again = cloud.create_pod(pod)
        assert again.id != made.id and again.is_spot is False and cloud.read_pod(made.id) is None

    def test_an_offer_that_vanished_is_not_the_end_of_the_others(
        self, cloud: Vast, pod: PodRequest, simulator: RunningSimulator
    ):
        simulator.fault("no_capacity", times=2)
        assert cloud.create_pod(pod).name == pod.name

    def test_a_price_that_rose_above_what_was_planned_is_not_paid(self, cloud: Vast, pod: PodRequest, prefix: str):
        price = next(it.usd_per_gpu_hour for it in cloud.offers() if (it.gpu, it.tier) == (pod.gpu, "SECURE"))
        with pytest.raises(NoCapacity, match="an hour or less"):
            cloud.create_pod(_at_most(pod, price - 0.01))
        assert not cloud.find(prefix)
        assert cloud.create_pod(_at_most(pod, price)).usd_per_hour >= price

    def test_the_log_goes_on_after_the_last_line_that_was_seen(self, cloud: Vast, pod: PodRequest):
        words = _running(pod, "for i in 1 2 3; do echo line $i; done; sleep 600")
        made = cloud.create_pod(words)
        assert within(150, lambda: len(list(cloud.logs(made.id, timeout_s=3))) == 3)
        first, second, third = cloud.logs(made.id, timeout_s=3)
        assert [it.line for it in (first, second, third)] == ["line 1", "line 2", "line 3"]
        assert list(cloud.logs(made.id, first.event_id, timeout_s=3)) == [second, third]
        assert list(cloud.logs(made.id, third.event_id, timeout_s=3)) == []

    def test_the_key_of_an_instance_ends_that_instance_and_does_nothing_else(
        self, cloud: Vast, pod: PodRequest, prefix: str, simulator: RunningSimulator
    ):
        other = cloud.create_pod(_running(pod, "sleep 600", name=f"{prefix}a2"))
        made = cloud.create_pod(_running(pod, "echo key=$CONTAINER_API_KEY id=$CONTAINER_ID; sleep 600"))
        assert within(150, lambda: bool(list(cloud.logs(made.id, timeout_s=3))))
        (line,) = simulator.state_dir.glob(f"vast/pods/{made.id}/container.log")
        key = line.read_text().partition("key=")[2].split()[0]
        headers = {"Authorization": f"Bearer {key}", "User-Agent": "pushtrain-pod"}
        with httpx.Client(base_url=simulator.url, headers=headers, trust_env=False) as client:
            assert client.get("/api/v1/instances/").status_code == 403
            assert client.delete(f"/api/v0/instances/{other.id}/").status_code == 403
            assert client.delete(f"/api/v0/instances/{made.id}/").json() == {"success": True}
        assert within(150, lambda: [it.id for it in cloud.find(prefix).pods] == [other.id])

    @pytest.mark.parametrize("boot", [boot_env(), ""], ids=["the watchdog", "without python, curl"])
    def test_a_pod_that_cannot_begin_ends_itself(
        self, cloud: Vast, pod: PodRequest, prefix: str, simulator: RunningSimulator, boot: str
    ):
        env = cloud_env("vast", {"VAST_URL": simulator.url}) | {"PUSHTRAIN_BOOT": boot, "PUSHTRAIN_POD_TICK_S": "0.2"}
        made = cloud.create_pod(replace(pod, args=start_args("vast"), env=env))
        assert within(150, lambda: cloud.read_pod(made.id) is None), list(cloud.logs(made.id, timeout_s=3))
        assert not cloud.find(prefix)

    def test_the_accounts_keys_are_replaced_one_by_one_and_reach_a_pod_that_asks(self, cloud: Vast, pod: PodRequest):
        mine, theirs, third = (f"ssh-ed25519 AAAA{name} {name}" for name in ("mine", "theirs", "third"))
        try:
            cloud.replace_ssh_keys([mine, theirs])
            cloud.replace_ssh_keys([theirs, third])
            assert sorted(cloud.ssh_keys()) == sorted([theirs, third])
            made = cloud.create_pod(_running(pod, "echo keys $PUBLIC_KEY; sleep 600", ssh=True))
            assert within(150, lambda: any("AAAAthird" in it.line for it in cloud.logs(made.id, timeout_s=3)))
            assert within(150, lambda: getattr(cloud.read_pod(made.id), "ssh_direct", None) is not None)
        finally:
            cloud.replace_ssh_keys([])

    def test_the_key_of_another_cloud_is_refused_as_a_key(self, simulator: RunningSimulator):
        stranger = Vast(simulator.api_key, simulator.url, limits=LIMITS)
        for call in (stranger.offers, lambda: stranger.find(""), lambda: stranger.terminate("12345678")):
            with pytest.raises(CloudAuthFailed, match="Invalid user key"):
                call()
        stranger.close()


def test_a_runpod_account_and_one_at_vast_do_not_see_each_other(simulator: RunningSimulator, api: Client):
    before = time.monotonic()
    with closing(connect(simulator)) as cloud:
        made = cloud.create_pod(_REQUEST)
        try:
            assert api.raw("GET", "/v2/pods").json()["pods"] == []
            assert api.raw("DELETE", f"/v2/pods/{made.id}").status_code == 404
        finally:
            cloud.terminate(made.id)
    assert time.monotonic() - before < 150


_REQUEST = PodRequest(
    name="pt-alone-a1",
    image="acme/train:1",
    gpu="NVIDIA A40",
    gpu_count=1,
    tier="SECURE",
    disk_gb=10,
    args="sleep 600",
)


def _at_most(pod: PodRequest, usd: float) -> PodRequest:
    return _replaced(pod, max_usd_per_hour=usd)


def _running(pod: PodRequest, script: str, **changes: object) -> PodRequest:
    return _replaced(pod, args=f"bash -c '{script}'", **changes)


def _replaced(pod: PodRequest, **changes: object) -> PodRequest:
    return replace(pod, **changes)  # type: ignore[arg-type]
