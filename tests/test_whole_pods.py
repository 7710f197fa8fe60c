"""Whole runs whose pod or ledger lets them down: lost, killed, deaf, out of time; they resume or end with a reason."""

import shutil
import time

import pytest
from whole import World, end

from pushtrain.control import Control
from pushtrain.errors import LedgerError
from pushtrain.ledger import RunRecord
from pushtrain.reconcile import tick

pytest_plugins = ("whole",)


def test_a_pod_lost_once_is_followed_by_an_attempt_that_resumes_from_its_volume(world: World) -> None:
    world.orders(steps=20, step_s=0.05, hang_at=5)
    world.write_job()
    world.push()
    world.tick()
    world.wait_for_step(3)
    world.simulator.fault("lost_pod", seconds=0, pod_name="*-a1")
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [(event.attempt, event.reason) for event in record.events if event.state == "lost"] == [(1, "PodLost")]
    resumed = [event.data["resumed_from_step"] for event in record.events if event.state == "training"]
    assert len(resumed) == 2 and resumed[0] == 0 and resumed[1] >= 3
    pods = world.pods_made(record)
    assert len(pods) == 2 and len({pod["volume_id"] for pod in pods}) == 1
    assert record.receipt and record.receipt["attempts"] == 2 and len(record.receipt["pods"]) == 2
    first, second = record.receipt["history"]
    assert (first["ended"], second["resumed_from_step"]) == ("PodLost", resumed[1]) and first["steps_lost"] <= 1
    deadlines = [event.data["deadline_epoch_s"] for event in record.events if event.state == "provisioned"]
    assert 3500 < deadlines[1] - record.events[0].epoch_s < 3600 + 60  # hours used are not given again
    world.assert_nothing_left()


def test_a_run_that_loses_every_pod_ends_with_too_many_attempts(world: World) -> None:
    world.orders(steps=1000, step_s=0.05)
    world.write_job()
    world.push()
    world.simulator.fault("lost_pod", times=3, seconds=0.2)
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 1, done.stderr
    record = world.record("job")
    assert end(record) == ("failed", "TooManyAttempts") and len(world.pods_made(record)) == 3
    world.assert_nothing_left()


@pytest.mark.parametrize(("order", "reason"), [("fail_at", "LossNotFinite"), ("kill_at", "TrainerKilled")])
def test_a_training_that_fails_is_not_retried(world: World, order: str, reason: str) -> None:
    world.orders(steps=5, step_s=0.05, **{order: 3})
    world.write_job()
    world.push()
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 1, done.stderr
    record = world.record("job")
    assert end(record) == ("failed", reason) and len(world.pods_made(record)) == 1
    (failed,) = (event for event in record.events if event.state == "failed")
    assert failed.writer == "pod" and ("SIGKILL" if order == "kill_at" else "step 3") in failed.message
    world.assert_nothing_left()
    assert world.tick().exit_code == 0  # it is over: told once
    assert len(world.pods_made(record)) == 1


def test_a_pod_that_never_starts_is_given_up_after_the_boot_limit(world: World) -> None:
    world.write_job()
    world.push()
    world.simulator.fault("never_starts", times=1)
    world.env["PUSHTRAIN_BOOT_LIMIT_S"] = "1"
    record = world.until(lambda record: record.last.state == "lost" or record.last.attempt == 2)
    world.env["PUSHTRAIN_BOOT_LIMIT_S"] = "60"
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [(event.attempt, event.reason) for event in record.events if event.state == "lost"] == [(1, "BootTimeout")]
    assert len(world.pods_made(record)) == 2
    world.assert_nothing_left()


def test_a_waiting_volume_spends_the_budget_until_the_run_ends(world: World) -> None:
    world.orders(steps=1000, step_s=0.05)
    world.write_job(max_usd=0.1, more="limits: {placement_hours: 720}\n")
    world.push()
    world.tick()
    world.wait_for_step(1)
    world.simulator.fault("no_stock", times=None)
    world.simulator.fault("lost_pod", seconds=0)
    world.until(lambda record: record.last.state == "waiting")
    control = world.control()
    control.clock = lambda: time.time() + 7 * 24 * 3600  # ten gigabytes for a month: 0.70 dollars
    tick(control)
    record = _ticked(world, control)
    assert end(record) == ("failed", "BudgetSpent")
    world.assert_nothing_left()


def test_a_ledger_that_cannot_be_reached_at_the_start_means_nothing_is_created(world: World) -> None:
    world.write_job()
    world.push()
    url = f"file://{world.folder}/nowhere.git"
    done = world.cli("reconcile", "--follow", PUSHTRAIN_LEDGER_URL=url)
    assert done.returncode == 3 and "nowhere.git" in done.stderr and "hint:" in done.stderr, done.stderr
    assert not world.control().cloud.find("")
    world.assert_nothing_left()


def test_a_ledger_that_is_away_for_a_while_loses_nothing(world: World) -> None:
    world.orders(steps=60, step_s=0.05, hold_at=30)
    world.write_job()
    world.push()
    following = world.start_cli("reconcile", "--follow")
    world.until(lambda record: record.last.state == "training", ticks=False)
    remote, away = world.folder / "remote.git", world.folder / "away.git"
    remote.rename(away)
    assert following.stderr is not None
    assert any("trying again" in line for line in following.stderr), "its pipe is at its end when it never says so"
    with pytest.raises(LedgerError):
        world.tick()
    away.rename(remote)
    world.let_go()
    _, said = following.communicate(timeout=150)
    assert following.returncode == 0 and "Traceback" not in said, said
    record = world.record("job")
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    raw, _ = world.control().ledger.text(record, "metrics")
    assert raw.count(b'"step"') == 60
    world.assert_nothing_left()


def test_an_engine_without_its_state_finds_pod_and_volume_by_their_names(world: World) -> None:
    world.orders(steps=20, step_s=0.05, hang_at=5)
    world.write_job()
    world.push()
    world.tick()
    world.wait_for_step(2)
    shutil.rmtree(world.folder / "state")  # the next tick runs on another machine
    world.simulator.fault("lost_pod", seconds=0)
    world.until(lambda record: any((event.attempt, event.state) == (2, "training") for event in record.events))
    shutil.rmtree(world.folder / "state")
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    pods = world.pods_made(record)
    assert len(pods) == 2 and len({pod["volume_id"] for pod in pods}) == 1
    world.assert_nothing_left()


def _ticked(world: World, control: Control, job: str = "job") -> RunRecord:
    gives_up = time.monotonic() + 150
    while time.monotonic() < gives_up:
        tick(control)
        record = world.record(job)
        if record.is_over:
            return record
        time.sleep(0.2)
    raise AssertionError("\n".join(world.said))


def test_a_hub_that_is_away_at_the_upload_costs_another_attempt_and_not_the_adapter(world: World) -> None:
    world.orders(steps=3, step_s=0.02, hub_away_attempts=1)
    world.write_job()
    world.push()
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    failed = next(event for event in record.events if event.state == "failed")
    assert (failed.attempt, failed.reason) == (1, "HubUnreachable")
    assert (record.result or {})["metrics"]["resumed_from_step"] == 3  # the second attempt found everything trained
    world.assert_nothing_left()
