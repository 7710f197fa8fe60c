"""Pods whose network, cloud or clock fails them."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pod_bench import Api, Bench
from whole import World, end, make_world, simulator_config

from infra.simulator.container_log import read_log
from infra.simulator.server import start


@pytest.fixture
def apis() -> Iterator[list[Api]]:
    made: list[Api] = []
    yield made
    for api in made:
        api.close()


def bench_at(api: Api, folder: Path, steps: str, deadline_s: float) -> Bench:
    bench = Bench(folder, steps, deadline_s=deadline_s)
    bench.api.close()
    bench.api = api
    bench.env["RUNPOD_API_BASE_URL"] = api.url
    return bench


def test_a_pod_that_nobody_answers_any_more_saves_ends_what_runs_and_asks_until_it_is_heard(tmp_path: Path) -> None:
    """Cloud and ledger take every connection and say nothing."""
    bench = bench_at(Api(), tmp_path, "event training\ntalk 60", deadline_s=5)
    bench.api.is_open.clear()
    try:
        first = bench.start(PUSHTRAIN_LEDGER_URL=f"{bench.api.url}/o/ledger.git")
        bench.wait(lambda: bench.said("the end: Deadline"), "end")
        assert time.time() <= bench.deadline + 60
        assert (bench.attempt_dir.parent / "saved").exists()
        assert not [line for line in bench.processes().values() if "trainer" in line or "agent" in line]
        bench.wait(lambda: bench.said("timed out"), "unanswered request")
        assert first.poll() is None
        bench.api.is_open.set()
        bench.wait_until_terminated()
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("ahead_s", "left_s", "end"),
    [(3600.0, 5.0, ("failed", "DeadlineReached")), (-3600.0, 60.0, ("finished", ""))],
    ids=["clock-behind", "clock-ahead"],
)
def test_a_pod_whose_clock_is_wrong_keeps_the_clouds_deadline(
    tmp_path: Path, ahead_s: float, left_s: float, end: tuple[str, str]
) -> None:
    steps = "event training\ntalk 60" if left_s < 10 else "event training\nresult"
    bench = bench_at(Api(ahead_s=ahead_s), tmp_path, steps, deadline_s=ahead_s + left_s)
    try:
        bench.start(PUSHTRAIN_POD_TICK_S="0.1")
        bench.wait_until_terminated()
        assert (bench.record().last.state, bench.record().last.reason) == end
        assert bench.terminations[0] <= bench.deadline - ahead_s + 60, "by its own clock it would be an hour later"
        assert bench.said("s off the cloud's")
    finally:
        bench.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path, steps=8, step_s=0.1)
    yield made
    made.close()


def test_a_cloud_that_is_away_while_a_pod_ends_itself_finds_it_at_its_return(world: World) -> None:
    world.write_job()
    world.push()
    world.tick()
    world.wait_for_step(2)
    (pod,) = (pod["id"] for pod in world.simulator.state()["pods"])
    log = world.simulator.state_dir / "pods" / pod / "container.log"
    world.simulator.stop(stop_pods=False)
    gives_up = time.monotonic() + 150
    while not any("refused" in entry.line for entry in read_log(log)):
        assert time.monotonic() < gives_up, [entry.line for entry in read_log(log)][-5:]
        time.sleep(0.1)
    world.simulator = start(simulator_config(world.folder / "simulator"))
    while any(it["id"] == pod and it["status"] != "TERMINATED" for it in world.simulator.state()["pods"]):
        assert time.monotonic() < gives_up, [entry.line for entry in read_log(log)][-5:]
        time.sleep(0.1)
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    world.assert_nothing_left()
