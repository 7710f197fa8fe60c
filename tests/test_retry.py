"""`pushtrain retry`: a closed run gets another one of the same spec, a failed one that still has its volume goes on."""

import json

import pytest
from whole import World, end

from pushtrain.errors import SpecError
from pushtrain.events import EventDraft
from pushtrain.reconcile import tick
from pushtrain.refs import claim_of
from pushtrain.retry import retry

pytest_plugins = ("whole",)


def test_a_closed_run_is_run_again_with_a_budget_of_its_own_and_only_once(world: World) -> None:
    world.orders(steps=4, step_s=0.02, fail_at=2)
    world.write_job()
    world.push()
    assert world.cli("reconcile", "--follow").returncode == 1
    first = world.record("job")
    assert end(first) == ("failed", "LossNotFinite")

    world.orders(steps=400, step_s=0.05)  # the code is mended, the spec is the same
    world.push("mended")
    done = world.cli("retry", "job", "--why", "loss fixed", GITHUB_ACTOR="somebody")
    assert done.returncode == 0, done.stderr
    assert (
        "run 2 of this spec" in done.stderr and "at most $1 and 1 h" in done.stderr and "before cost $0." in done.stderr
    )
    control = world.control()
    again = retry(control, first.run_id, by="", why="")  # also by the name of the first
    assert again.exit_code == 0 and "nothing to retry" in world.said[-1]
    second = world.record("job")
    assert {record.run_id for record in world.records()} == {first.run_id, second.run_id}
    assert second.run_id.endswith("-r2") and second.run["commit"] != first.run["commit"]
    said = second.events[0].data
    assert (said["trigger"], said["of"], said["by"], said["why"]) == ("retry", first.run_id, "somebody", "loss fixed")
    assert not second.run["resource_prefix"].startswith(first.run["resource_prefix"] + "-")
    look = world.control().ledger.look()
    assert set(look.claims) == {claim_of(first.run_id), claim_of(first.run_id) + "-r2"}

    world.wait_for_step(2)
    assert world.tick().active == [second.run_id]  # HEAD asks for the spec: a tick leaves the retry alone
    world.write_job(more="suspend: true\n")
    world.push("stop")
    assert world.cli("reconcile").returncode == 0
    assert end(world.record("job")) == ("cancelled", "Suspended")
    (earlier,) = (record for record in world.records() if record.run_id == first.run_id)
    assert earlier.receipt == first.receipt
    with pytest.raises(SpecError, match="HEAD no longer asks") as refused:
        retry(world.control(), "job", by="", why="")
    assert refused.value.reason == "Suspended" and "take `suspend: true` out" in str(refused.value.hint)
    world.write_job(seed=2, more="suspend: true\n")
    world.push("another spec")
    with pytest.raises(SpecError, match="HEAD no longer asks"):
        retry(world.control(), first.run_id, by="", why="")
    world.assert_nothing_left()


@pytest.mark.long
def test_a_failed_run_whose_teardown_has_not_begun_goes_on_with_its_volume(world: World) -> None:
    world.orders(steps=6, step_s=0.02, fail_at=4, fails=1)
    world.write_job()
    world.push()
    world.tick()
    failed = world.until(lambda record: record.last.state == "failed", ticks=False)
    done = world.cli("retry", failed.run_id, "--why", "once more")
    assert done.returncode == 0 and "goes on with its volume" in done.stderr, done.stderr
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "") and record.run_id == failed.run_id
    (retried,) = (event for event in record.events if event.state == "retried")
    assert (retried.reason, retried.message, retried.data["by"]) == ("RetriedByHand", "once more", "t")
    pods = world.pods_made(record)
    assert len(pods) == 2 and len({pod["volume_id"] for pod in pods}) == 1
    assert record.receipt and [row["resumed_from_step"] for row in record.receipt["history"]] == [0, 4]
    done = world.cli("retry", "job")
    assert done.returncode == 0 and "succeeded already" in done.stderr, done.stderr
    assert len(world.records()) == 1

    # 75 minutes later the bill is final; it is the run's last file, and the run's branch is not read again.
    control = world.control()
    assert record.bill is None and record.receipt["billed_is_final"] is False
    assert record.run_id in control.ledger.look().open_runs
    late_s = control.clock() + 4600.0
    control.clock = lambda: late_s
    tick(control)
    settled = world.record("job")
    assert settled.bill is not None and settled.bill["is_final"] is True
    assert settled.bill["total_usd"] >= record.receipt["billed_usd"] > 0
    assert control.ledger.look().open_runs == {}
    (row,) = json.loads(world.cli("runs", "--json").stdout)
    assert (row["spent_source"], row["spent_usd"]) == ("billed", settled.bill["total_usd"])
    world.assert_nothing_left()


@pytest.mark.long
def test_a_retry_of_what_is_being_taken_down_is_a_run_of_its_own(world: World) -> None:
    world.orders(steps=400, step_s=0.05)
    world.write_job()
    world.push()
    world.tick()
    record = world.record("job")
    draft = EventDraft(state="cancelled", writer="control", attempt=1, reason="CancelledByHand")
    world.control().ledger.append(record.run_id, events=[draft])  # and then the command was killed
    done = world.cli("retry", "job")
    assert done.returncode == 0, done.stderr
    first, second = sorted(world.records(), key=lambda record: record.run_id)
    assert end(first) == ("cancelled", "CancelledByHand") and second.run_id == f"{first.run_id}-r2"
    assert world.cli("cancel", second.run_id).returncode == 0
    again = world.cli("cancel", second.run_id)
    assert again.returncode == 0 and "over already: cancelled" in again.stderr, again.stderr
    assert world.cli("reconcile").returncode == 0  # a cancelled run stays cancelled
    assert len(world.records()) == 2
    world.assert_nothing_left()
