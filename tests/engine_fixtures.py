"""Fixtures of the engine tests; a module takes them with `pytest_plugins = ("engine_fixtures",)`."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_world import HF_CANARY, LEDGER_CANARY, World

from infra.simulator.server import RunningSimulator, SimulatorConfig, start


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    simulator = start(SimulatorConfig(state_dir=tmp_path_factory.mktemp("account"), max_hours=0.5))
    yield simulator
    simulator.stop()


@pytest.fixture
def stack_world(account: RunningSimulator, tmp_path: Path) -> World:
    """A run of its own in the shared account; `environ` has canaries for every secret a pod is given."""
    home = tmp_path / "home"
    home.mkdir()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        **account.env(),
        "HF_TOKEN": HF_CANARY,
        "PUSHTRAIN_LEDGER_TOKEN": LEDGER_CANARY,
    }
    it = World(simulator=account, environ=environ, prefix=f"pt-{uuid.uuid4().hex[:8]}")
    it.clear_faults()
    return it
