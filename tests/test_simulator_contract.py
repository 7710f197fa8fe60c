"""The cloud contract over the RunPod client and the simulator: both halves at once, as a run uses them."""

from collections.abc import Iterator

import pytest
from simulator_client import Client

from infra.clouds.runpod import RunPod
from infra.simulator.server import RunningSimulator

pytest.register_assert_rewrite("cloud_contract")
from cloud_contract import CloudContract, Facts  # noqa: E402

pytest_plugins = ("simulator_fixtures",)


class TestRunPodOnTheSimulator(CloudContract):
    @pytest.fixture
    def cloud(self, api: Client, simulator: RunningSimulator) -> Iterator[RunPod]:
        client = RunPod(simulator.api_key, simulator.url)
        yield client
        client.close()

    @pytest.fixture
    def facts(self) -> Facts:
        return Facts(
            gpu="NVIDIA A40",
            data_center="EU-SE-1",
            image="acme/train:1",
            sold_out=("NVIDIA B200", "US-CA-2"),
        )
