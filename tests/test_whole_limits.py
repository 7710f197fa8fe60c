"""Whole runs whose pod starts in circles, hangs or has no place at all; who keeps the caps when the other is dead."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from whole import TRAINER, World, end

from pushtrain import climb
from pushtrain.control import Control
from pushtrain.follow import PATIENCE_S, follow
from pushtrain.ledger import RunRecord
from pushtrain.limits import SECOND_LINE_S
from pushtrain.reconcile import Tick, tick

pytest_plugins = ("whole",)

A40_USD = 0.40 + (0.07 * 10 + 0.10 * 40) / 730  # an hour in the simulated catalogue, with volume and container disk


def test_a_container_that_starts_in_circles_is_named_with_its_log_and_replaced(world: World) -> None:
    world.write_job()
    world.push()
    world.simulator.fault("crash_loop", times=None, seconds=0.05, pod_name="*-a1")
    world.tick()
    pod_id = world.control().cloud.find("").pods[0].id
    _until(lambda: _log(world, pod_id).count("start container") >= 4)
    control = world.control()
    control.clock = lambda: time.time() + 61.0
    tick(control)
    (lost,) = (event for event in world.record("job").events if event.state == "lost")
    assert lost.reason == "CrashLoop" and "start container" in lost.message, lost
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 2
    world.assert_nothing_left()


def test_a_pod_on_which_nobody_acts_any_more_is_given_up_after_its_limit_and_resumed(world: World) -> None:
    world.orders(steps=20, step_s=0.05, hang_at=10)
    world.write_job(more="limits: {step_gap_minutes: 5, first_step_minutes: 5}\n")
    world.push()
    world.tick()
    world.wait_for_step(3)
    world.until(lambda record: record.last.state == "training", ticks=False)
    with _frozen(world):
        control = world.control()
        skew_s = [300.0 + SECOND_LINE_S - 60.0]
        control.clock = lambda: time.time() + skew_s[0]
        assert tick(control).active and world.record("job").last.state == "training"
        skew_s[0] += 120.0
        tick(control)
    (lost,) = (event for event in world.record("job").events if event.state == "lost")
    assert lost.reason == "StepGap" and "as silent as the ledger" in lost.message, lost
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert record.receipt and record.receipt["history"][1]["resumed_from_step"] >= 3
    world.assert_nothing_left()


def test_a_pod_that_trains_and_only_cannot_reach_the_ledger_is_left_at_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "lifecycle.SECOND_LINE_S": 4.0 - 3600.0,
        "reconcile.LOOK_EVERY_S": 1.0,
        "signs._LOOK_S": 0.5,
    }.items():
        monkeypatch.setattr(f"pushtrain.{name}", value)  # four seconds of silence are too much
    note = 'note("metrics.jsonl", step=step'
    world.write("trainer/__main__.py", TRAINER.replace(note, f'print("step", step, flush=True); {note}'))
    world.orders(steps=120, step_s=0.05, hold_at=100)
    world.write_job()
    world.push()
    cut, hook = world.folder / "cut", world.folder / "remote.git" / "hooks" / "pre-receive"
    hook.write_text(f'#!/bin/sh\n[ -z "$RUNPOD_POD_ID" ] || [ ! -e "{cut}" ] || exit 1\n')
    hook.chmod(0o755)
    control = world.control()
    tick(control)
    world.until(lambda record: record.last.state == "training", ticks=False)
    cut.touch()
    tip = world.record("job").tip
    _until(lambda: tick(control).active and len(control.looked_s) and world.record("job").tip == tip)
    time.sleep(1.0)
    assert tick(control).active and [event.state for event in world.record("job").events].count("lost") == 0
    cut.unlink()
    world.let_go()
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    world.assert_nothing_left()


def test_the_control_plane_alone_keeps_the_cap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climb, "LEAST_USEFUL_S", 1.0)
    world.orders(steps=10_000, step_s=0.05)
    cap_s = 16.0
    world.write_job(max_hours=1, max_usd=round(cap_s / 3600 * A40_USD, 6))
    world.push()
    control = world.control()
    tick(control)
    with _frozen(world):  # watchdog, agent and trainer: nobody on the pod ends it
        record, tick_s = _ticked(world, control)
    assert end(record) == ("failed", "DeadlineReached")
    assert not [event for event in record.events if event.state == "failed"]  # the pod said nothing
    (pod,) = world.pods_made(record)
    (provisioned,) = (event for event in record.events if event.state == "provisioned")
    assert pod["ended_at"] > provisioned.data["deadline_epoch_s"] + provisioned.data["reserve_s"]
    cap_usd, late_usd = record.run["budget"]["max_usd"], tick_s / 3600 * A40_USD
    assert record.receipt and record.receipt["billed_usd"] <= cap_usd + late_usd, "the cap, and a tick that saw it late"
    world.assert_nothing_left()


def test_the_watchdog_alone_keeps_the_cap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climb, "LEAST_USEFUL_S", 1.0)
    world.orders(steps=10_000, step_s=0.05)
    world.write_job(max_hours=1, max_usd=round(30.0 / 3600 * A40_USD, 6))
    world.push()
    world.tick()
    record = world.record("job")
    # No control plane at all.
    _until(lambda: all(pod["status"] == "TERMINATED" for pod in world.pods_made(record)))
    world.tick()
    record = world.record("job")
    assert end(record) == ("failed", "DeadlineReached")
    (failed,) = (event for event in record.events if event.state == "failed")
    (provisioned,) = (event for event in record.events if event.state == "provisioned")
    (pod,) = world.pods_made(record)
    assert failed.writer == "pod" and pod["ended_at"] <= sum(
        provisioned.data[it] for it in ("deadline_epoch_s", "reserve_s")
    )
    assert record.receipt and 0 < record.receipt["billed_usd"] <= record.run["budget"]["max_usd"]
    world.assert_nothing_left()


def test_nobody_pays_for_a_runner_while_every_run_only_waits_and_the_wait_has_an_end(world: World) -> None:
    world.write_job(more="limits: {placement_hours: 2}\n")
    world.push()
    world.simulator.fault("no_stock", times=None)
    control, ticks = world.control(), list[Tick]()
    skew_s = _skippable(control)
    assert follow(control, max_minutes=1000, once=ticks.append) == 0
    assert PATIENCE_S <= skew_s[0] < PATIENCE_S + 120.0 and len(ticks) > 1
    assert "waiting for a place" in world.said[-1] and world.record("job").last.state == "waiting"
    # The next Action asks once more and lets go at once; after the limit the run is over and has cost nothing.
    assert follow(control, max_minutes=1000, once=ticks.append) == 0
    skew_s[0] = 2 * 3600.0 + 10.0
    assert follow(control, max_minutes=1000, once=ticks.append) == 1
    record = world.record("job")
    assert end(record) == ("failed", "PlacementTimeout")
    assert record.receipt and (record.receipt["cost_usd"], record.receipt["billed_is_final"]) == (0.0, True)
    assert record.receipt["billed_source"] == "nothing was rented" and record.run_id not in _open(world)
    destroying = next(event for event in record.events if event.state == "destroying")
    assert "2 h" in destroying.message or "120 min" in destroying.message
    world.assert_nothing_left()


def _skippable(control: Control) -> list[float]:
    """Sleeping costs no time; returns what was slept."""
    skew_s = [0.0]

    def sleep(seconds: float) -> None:
        skew_s[0] += max(seconds, 20.0)

    control.clock, control.sleep = (lambda: time.time() + skew_s[0]), sleep
    return skew_s


def _open(world: World) -> dict[str, str]:
    return world.control().ledger.look().open_runs


@contextmanager
def _frozen(world: World) -> Iterator[None]:
    """Every process of every pod stopped, as on a machine that hangs."""
    end_s = time.monotonic() + 150
    while not (pids := [pid for pod in world.simulator.state()["pods"] for pid in pod["processes"]]):
        assert time.monotonic() < end_s
    for _ in range(3):  # what was being forked meanwhile, too
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        pids = [pid for pod in world.simulator.state()["pods"] for pid in pod["processes"]]
    yield


def _ticked(world: World, control: Control) -> tuple[RunRecord, float]:
    """Ticks until the run is over; with the longest time from one tick's start to the next one's end, in seconds."""
    end_s, begun_s, longest_s = time.monotonic() + 150, time.monotonic(), 0.0
    while time.monotonic() < end_s:
        before_s, begun_s = begun_s, time.monotonic()
        tick(control)
        longest_s = max(longest_s, time.monotonic() - before_s)
        if (record := world.record("job")).is_over:
            return record, longest_s
        time.sleep(0.1)
    raise AssertionError("\n".join(world.said))


def _log(world: World, pod_id: str) -> str:
    log = world.simulator.state_dir / "pods" / pod_id / "container.log"
    return log.read_text() if log.exists() else ""


def _until(happened, within_s: float = 150.0) -> None:  # type: ignore[no-untyped-def]
    end_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end_s
        time.sleep(0.1)
