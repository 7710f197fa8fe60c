"""A simulator for a module and an empty account for each test; `pytest_plugins = ("simulator_fixtures",)`."""

from collections.abc import Iterator

import pytest
from openapi import MISSING, OpenApi
from simulator_client import JUDGE, Client

from infra.simulator.server import RunningSimulator, SimulatorConfig, start


class Faults:
    """The simulator's board of faults, as the contract asks for them. `refusals`: creates that find no capacity."""

    def __init__(self, simulator: RunningSimulator, refusals: int = 1) -> None:
        self._simulator, self._refusals = simulator, refusals

    def lose_answer(self, operation: str) -> None:
        self._simulator.fault("lost_answer", operation=operation)

    def fail_after(self, operation: str) -> None:
        self._simulator.fault("error_after_create", operation=operation)

    def say_no_capacity(self) -> None:
        self._simulator.fault("no_capacity", times=self._refusals)

    def limit(self, operation: str, seconds: float) -> None:
        self._simulator.fault("http_429", seconds=seconds, operation=operation)


@pytest.fixture(scope="session")
def judge() -> OpenApi:
    if JUDGE is None:
        pytest.skip(MISSING)
    return JUDGE


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    running = start(SimulatorConfig(state_dir=tmp_path_factory.mktemp("simulator"), page_size=3, max_hours=0.5))
    yield running
    running.stop()
    # Nothing but its greeting: every traceback of the simulator ends up there.
    assert len((running.state_dir / "simulator.log").read_text().splitlines()) == 1


@pytest.fixture
def api(simulator: RunningSimulator) -> Iterator[Client]:
    """The account key, on an account without pods, volumes and faults."""
    client = Client(simulator.url, simulator.api_key)
    yield client
    simulator.request("DELETE", "/_simulator/faults").raise_for_status()
    state = simulator.state()
    for pod in state["pods"]:
        if pod["status"] != "TERMINATED":
            client.raw("DELETE", f"/v2/pods/{pod['id']}")
    for volume in state["volumes"]:
        if not volume["deleted"]:
            client.raw("DELETE", f"/v2/network-volumes/{volume['id']}")
