"""The cloud contract over the RunPod client and the simulator: both halves at once, as a run uses them."""

from collections.abc import Iterator

import pytest
from simulator_client import Client
from simulator_fixtures import Faults

from infra.clouds.runpod import RunPod
from infra.clouds.wire import Limits
from infra.simulator.server import RunningSimulator

pytest.register_assert_rewrite("cloud_contract")
from cloud_contract import CloudContract, Facts, Trouble  # noqa: E402

pytest_plugins = ("simulator_fixtures",)

# Lists of more than two have pages; whoever looks for a lost create does not wait ten seconds for it.
LIMITS = Limits(page=2, look_pauses_s=(0.05, 0.1, 0.2))


class TestRunPodOnTheSimulator(CloudContract):
    @pytest.fixture
    def cloud(self, api: Client, simulator: RunningSimulator) -> Iterator[RunPod]:
        client = RunPod(simulator.api_key, simulator.url, limits=LIMITS)
        yield client
        client.close()

    @pytest.fixture
    def twin(self, api: Client, simulator: RunningSimulator) -> Iterator[RunPod]:
        client = RunPod(simulator.api_key, simulator.url, limits=LIMITS)
        yield client
        client.close()

    @pytest.fixture
    def trouble(self, api: Client, simulator: RunningSimulator) -> Trouble:
        return Faults(simulator)

    @pytest.fixture
    def facts(self) -> Facts:
        return Facts(
            gpu="NVIDIA A40",
            data_center="EU-SE-1",
            image="acme/train:1",
            sold_out=("NVIDIA B200", "US-CA-2"),
            community_gpu="NVIDIA RTX A6000",
            elsewhere="EU-RO-1",
            template="simtorch280",
        )
