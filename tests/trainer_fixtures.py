"""Fixtures of whole trainings of a tiny model; a module takes them with `pytest_plugins = ("trainer_fixtures",)`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub
from tiny_model import Bench, hub_with_model
from zygote import Zygote, zygote


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The model alone; a module that wants more on its Hub has a `hub` of its own."""
    with hub_with_model(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where downloads are kept from one training of a module to the next."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def bench(hub: Hub, home: Path, tmp_path: Path) -> Bench:
    return Bench(tmp_path, hub, home)


@pytest.fixture(scope="module")
def forks(hub: Hub, home: Path) -> Iterator[Zygote]:
    """One process imports torch, every training is a fork of it."""
    with zygote(Bench(home, hub, home).environ()) as ready:
        yield ready
