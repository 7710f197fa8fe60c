"""Each phase of an attempt that takes too long ends the pod: its own reason, and the right thing after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pod_bench import BUSY, Api, Bench
from whole import end, make_world


@dataclass(frozen=True)
class Case:
    """What the trainer does, which limit it runs into, and how the ledger tells it (state, reason)."""

    steps: str
    env: dict[str, str]
    end: tuple[str, str]


CASES = {
    "environment": Case(
        "talk 60",
        {"PUSHTRAIN_LIMIT_ENVIRONMENT_S": "3"},
        ("failed", "EnvironmentTimeout"),
    ),
    "first-step": Case(
        "event preparing\nevent training\ntalk 60",
        {"PUSHTRAIN_LIMIT_FIRST_STEP_S": "1"},
        ("failed", "FirstStepTimeout"),
    ),
    "step-gap": Case(
        "event training\nmetric 1\ntalk 60",
        {"PUSHTRAIN_LIMIT_STEP_GAP_S": "1"},
        ("failed", "StepGap"),
    ),
    "evaluation": Case(
        "event training\nmetric 1\nevent evaluating\ntalk 60",
        {"PUSHTRAIN_LIMIT_STEP_GAP_S": "1"},
        ("failed", "StepGap"),
    ),
    "upload": Case(
        "event training\nmetric 1\nevent publishing\ntap 60",
        {"PUSHTRAIN_LIMIT_UPLOAD_S": "1"},
        ("failed", "UploadTimeout"),
    ),
    # Steps that come, in the metrics or only in the file `step`, are news; each gap is shorter than the limit.
    "steps-go-on": Case(
        "event training\ntrain 10 0.3\ntap 3\nresult",
        {"PUSHTRAIN_LIMIT_STEP_GAP_S": "2.5", "PUSHTRAIN_LIMIT_FIRST_STEP_S": "2.5"},
        ("finished", ""),
    ),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bench]]:
    """All at once: what they do most is wait."""
    benches = {name: Bench(tmp_path_factory.mktemp(name), case.steps) for name, case in CASES.items()}
    earlier = benches["environment"].attempt_dir  # what an earlier container had come to is no news
    earlier.mkdir(parents=True)
    (earlier / "events.jsonl").write_text('{"time": 1, "state": "publishing"}\n')
    (earlier / "metrics.jsonl").write_text('{"step": 1}\n')
    for name, bench in benches.items():
        bench.start(**CASES[name].env)
    yield benches
    for bench in benches.values():
        bench.close()


@pytest.mark.parametrize("name", CASES)
def test_a_phase_that_takes_too_long_is_told_by_its_name(running: dict[str, Bench], name: str) -> None:
    bench, case = running[name], CASES[name]
    bench.wait_until_terminated()
    last = bench.record().last
    assert (last.state, last.reason) == case.end, bench.log.read_text()
    assert bool(last.message) == (last.state != "finished")
    assert (bench.attempt_dir / "ended.json").exists(), "a restarted container does not try it again"
    assert (bench.attempt_dir.parent / "saved").exists() == (last.state != "finished"), "the trainer was asked to save"


def test_a_boot_that_hangs_is_ended_by_a_watchdog_that_was_there_before_it(tmp_path: Path) -> None:
    bench, git_host = Bench(tmp_path, "result"), Api()
    git_host.is_open.clear()
    try:
        bench.start(PUSHTRAIN_SOURCE_URL=f"{git_host.url}/o/r.git", PUSHTRAIN_LIMIT_BOOT_S="1")
        bench.wait_until_terminated()
        assert bench.said("the end: BootTimeout") and bench.states() == []
    finally:
        bench.close()
        git_host.close()


def test_silence_is_a_stall_unless_bytes_move(tmp_path: Path) -> None:
    bench = Bench(tmp_path, f"event training\nmetric 1\nwrite {9 * BUSY}\nmetric 2\nsleep 300", stall_s=6)
    try:
        bench.start()
        bench.wait_until_terminated()
        assert (bench.record().last.state, bench.record().last.reason) == ("failed", "Stalled")
        assert '"step": 2' in bench.ledger_text("metrics")
    finally:
        bench.close()


def test_a_hang_between_steps_is_another_attempt_from_where_the_first_one_stood(tmp_path: Path) -> None:
    world = make_world(tmp_path, steps=8)
    try:
        world.orders(steps=8, step_s=0.05, hang_at=4)
        world.env["PUSHTRAIN_GRACE_S"] = "15"  # time for the last word; nobody uses up more than he needs
        world.write_job(more="limits: {step_gap_minutes: 0.05}\n")
        world.push()
        record = world.until(lambda record: record.is_over)
        assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 2
        (failed,) = (event for event in record.events if event.state == "failed")
        assert (failed.attempt, failed.writer, failed.reason) == (1, "pod", "StepGap")
        resumed = [event.data["resumed_from_step"] for event in record.events if event.state == "training"]
        assert resumed == [0, 4]
        world.assert_nothing_left()
    finally:
        world.close()
