"""Whole runs at Lambda Cloud: the same job by one word, and who holds the cap where no machine can end its own bill."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from whole import World, end

from infra.clouds import connect
from infra.clouds.lambda_cloud.pace import LambdaLimits
from pushtrain import climb
from pushtrain.limits import SECOND_LINE_S
from pushtrain.reconcile import tick

pytest_plugins = ("whole",)

PATIENCE_S = 180.0
A6000_USD = 0.80 + 0.20 * 10 / 730  # an hour in the simulated catalogue, with the file system as the plan counts it


@pytest.fixture
def there(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with the keys of both clouds. A second between two requests is Lambda's, and not the simulator's."""
    world.env |= world.simulator.env("lambda")
    quick = LambdaLimits(request_s=0.0, launch_s=0.5)
    monkeypatch.setattr("infra.clouds.lambda_cloud.client.LambdaLimits", lambda: quick)
    return world


def at_lambda(world: World, name: str = "job", *, max_usd: float = 1, more: str = "") -> None:
    """The job of any other whole run, with one word more, and a GPU that Lambda has."""
    world.write_job(name, cloud="lambda", gpus="NVIDIA A40, NVIDIA RTX A6000", max_usd=max_usd, more=more)


def machines(world: World) -> list[dict[str, Any]]:
    return [it for it in world.simulator.state()["pods"] if len(it["id"]) == 32 and it["status"] != "TERMINATED"]


def log_of(world: World, pod_id: str) -> str:
    path = world.simulator.state_dir / "lambda" / "pods" / pod_id / "container.log"
    return path.read_text() if path.exists() else ""


def wait(holds: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.2)
    return True


def test_a_run_by_one_word_at_lambda_leaves_nothing_and_an_orphan_is_swept(there: World) -> None:
    orphan = there.orphan("lambda", gpu="NVIDIA RTX A6000")
    there.orders(steps=3, step_s=0.05)
    at_lambda(there)
    there.push()
    record = there.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    (pod,) = there.pods_made(record)
    assert record.run.get("cloud") == "lambda" and len(pod["id"]) == 32
    (placed,) = (event for event in record.events if event.state == "provisioned")
    assert placed.data["data_center"] in ("us-west-1", "us-east-1") and len(placed.data["volume_id"]) == 32
    (booting,) = (event for event in record.events if event.state == "booting")
    assert booting.data["pod"] == "", "a machine is not told its id"
    receipt = record.receipt or {}
    assert receipt["pods"] == [pod["id"]] and receipt["volumes"] == [placed.data["volume_id"]]
    assert (receipt["billed_source"], receipt["billed_is_final"]) == ("time × price", True)
    assert 0 < receipt["cost_usd"] < receipt["cap_usd"]
    assert connect("lambda", there.env).read_pod(orphan.id) is None
    there.assert_nothing_left()


def test_a_lost_machine_is_followed_by_an_attempt_from_its_checkpoint(there: World) -> None:
    there.orders(steps=20, step_s=0.05, hang_at=10)
    at_lambda(there)
    there.push()
    there.until(lambda record: record.last.state == "training")
    there.simulator.fault("lost_pod", seconds=1, pod_name="*-a1")
    record = there.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    assert [(event.attempt, event.reason) for event in record.events if event.state == "lost"] == [(1, "PodLost")]
    there.assert_nothing_left()


def test_a_machine_that_a_dead_control_plane_left_is_billed_until_the_next_tick_ends_it(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(climb, "LEAST_USEFUL_S", 1.0)
    there.orders(steps=100_000, step_s=0.1)
    at_lambda(there, max_usd=round(30 / 3600 * A6000_USD, 6))
    there.push()
    record = there.until(lambda record: record.last.state == "provisioned")
    (pod,) = there.pods_made(record)
    assert wait(lambda: "machine: powered off" in log_of(there, pod["id"])), log_of(there, pod["id"])
    (machine,) = machines(there)
    before = connect("lambda", there.env).read_pod(pod["id"])
    assert before is not None and before.is_alive, "off, and billed: nobody has terminated it"
    record = there.until(lambda record: record.is_over)
    assert end(record) == ("failed", "DeadlineReached") and not machines(there)
    (ended,) = there.pods_made(record)
    assert ended["billed_usd"] > machine["billed_usd"]
    there.assert_nothing_left()


def test_reconcile_alone_keeps_the_cap_of_a_machine_on_which_nothing_moves(there: World) -> None:
    there.orders(steps=100_000, step_s=0.1)
    at_lambda(there)
    there.push()
    record = there.until(lambda record: record.last.state == "training")
    (machine,) = machines(there)
    freeze(machine)
    control, skew_s = there.control(), [0.0]
    control.clock = lambda: time.time() + skew_s[0]
    assert tick(control).active == [record.run_id]
    skew_s[0] = 3600.0
    assert wait(lambda: not tick(control).active)
    record = there.record("job")
    assert end(record) == ("failed", "DeadlineReached") and not machines(there)
    assert not [event for event in record.events if event.state == "failed"], "the pod said nothing"
    there.assert_nothing_left()


def test_a_machine_that_says_nothing_more_is_replaced_after_its_limit_though_lambda_calls_it_active(
    there: World,
) -> None:
    there.orders(steps=20, step_s=0.05, hang_at=10)
    at_lambda(there, more="limits: {step_gap_minutes: 5, first_step_minutes: 5}\n")
    there.push()
    there.until(lambda record: record.last.state == "training")
    (machine,) = machines(there)
    freeze(machine)
    control, skew_s = there.control(), [300.0 + SECOND_LINE_S - 120.0]
    control.clock = lambda: time.time() + skew_s[0]
    assert tick(control).active and there.record("job").last.state == "training"
    skew_s[0] += 600.0
    tick(control)
    (lost,) = (event for event in there.record("job").events if event.state == "lost")
    assert lost.reason in ("StepGap", "FirstStepTimeout") and "as silent as the ledger" in lost.message, lost
    record = there.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and len(there.pods_made(record)) == 2
    there.assert_nothing_left()


def freeze(machine: dict[str, Any]) -> None:
    """Every process of a machine stopped, as on one that hangs."""
    for pid in machine["processes"]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
