"""The cloud contract over the RunPod client and the simulator: both halves at once, as a run uses them."""

import pytest

from infra.clouds.runpod.client import RunPod
from infra.clouds.wire import Limits
from infra.simulator.server import RunningSimulator

pytest.register_assert_rewrite("cloud_contract")
from cloud_contract import CloudContract, Facts  # noqa: E402
from contract_on_simulator import OnTheSimulator  # noqa: E402

pytest_plugins = ("simulator_fixtures",)

# Lists of more than two have pages; whoever looks for a lost create does not wait ten seconds for it.
LIMITS = Limits(page=2, look_pauses_s=(0.05, 0.1, 0.2))


class TestRunPodOnTheSimulator(OnTheSimulator, CloudContract):
    def client(self, simulator: RunningSimulator) -> RunPod:
        return RunPod(simulator.api_key, simulator.url, limits=LIMITS)

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
