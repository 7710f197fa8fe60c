"""Fault schedules with real processes, a handful of them; `make faults-real N=50` plays more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.real import neighbourhood, play

from infra.simulator.server import RunningSimulator


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningSimulator]]:
    """The one simulator of all schedules; a schedule may restart it."""
    with neighbourhood(tmp_path_factory.mktemp("cloud")) as simulator:
        holder = [simulator]
        yield holder
        holder[0].stop(stop_pods=True)


@pytest.mark.parametrize(("cloud", "seed"), [*(("runpod", seed) for seed in range(4)), ("modal", 103)])
def test_every_promise_holds_with_real_processes(
    cloud: str, seed: int, clouds: list[RunningSimulator], tmp_path: Path
) -> None:
    broken, _, clouds[0] = play(seed, tmp_path, clouds[0], cloud)
    assert not broken, f"python -m faults.real --cloud {cloud} --first {seed} --n 1\n" + "\n".join(broken)
