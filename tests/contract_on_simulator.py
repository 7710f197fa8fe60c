"""The cloud contract over a client and the simulator: two clients of one account, and the board of faults."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from cloud_contract import Trouble
from simulator_client import Client
from simulator_fixtures import Faults

from infra.simulator.server import RunningSimulator
from pushtrain.cloud import Cloud


class OnTheSimulator:
    """Stands before `CloudContract` among the bases of a test class. `refusals`: how many creates in a row have to
    find no capacity before the client believes it."""

    refusals = 1

    def client(self, simulator: RunningSimulator) -> Cloud:
        """Opens one; the fixtures close it."""
        raise NotImplementedError("the subclass says which cloud")

    @pytest.fixture
    def cloud(self, api: Client, simulator: RunningSimulator) -> Iterator[Cloud]:
        with closing(self.client(simulator)) as client:
            yield client

    @pytest.fixture
    def twin(self, api: Client, simulator: RunningSimulator) -> Iterator[Cloud]:
        with closing(self.client(simulator)) as client:
            yield client

    @pytest.fixture
    def trouble(self, api: Client, simulator: RunningSimulator) -> Trouble:
        return Faults(simulator, refusals=self.refusals)
