"""Whole runs that go well: from `git push` to the receipt, over the simulator with real git and real processes."""

import json
import signal
import subprocess
import time

import pytest
from whole import World, end

from pushtrain.events import broken_links, decode
from pushtrain.gitcmd import git
from pushtrain.wiring import open_control

pytest_plugins = ("whole",)


def test_a_push_becomes_a_receipt_and_a_second_reconcile_changes_nothing(world: World) -> None:
    world.write_job()
    commit = world.push()
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 0, done.stderr
    record = world.record("job")
    states = [event.state for event in record.events]
    assert states == [
        *("claimed", "provisioning", "provisioned", "booting", "environment"),
        *("preparing", "training", "publishing", "finished", "destroying", "closed"),
    ]
    assert record.run["commit"] == commit and record.result and record.receipt
    assert record.receipt["outcome"] == "succeeded" and record.receipt["proof"]["pods"] == 0
    assert 0 < record.receipt["billed_usd"] <= record.receipt["cap_usd"]
    world.assert_nothing_left()
    checked = world.cli("verify", "--all")
    assert (checked.returncode, checked.stdout.count(": ok, ")) == (0, 1), checked.stdout
    again = world.tick()
    assert again.exit_code == 0 and world.record("job").tip == record.tip
    assert len(world.pods_made(record)) == 1


def test_a_run_can_be_read_with_plain_git(world: World) -> None:
    world.write_job()
    world.push()
    record = world.until(lambda record: record.is_over)
    clone = world.folder / "clone"
    git(["clone", "-q", "-b", f"runs/{record.run_id}", f"file://{world.folder}/remote.git", str(clone)], env=world.env)
    names = {path.relative_to(clone).parts[0] for path in clone.rglob("*") if ".git" not in path.parts}
    records = {"spec.yaml", "run.json", "result.json", "receipt.json", "deployment.json"}
    assert names == records | {"events", "logs", "metrics"}
    events = [decode(path.read_bytes()) for path in sorted((clone / "events").iterdir())]
    assert broken_links(events) == [] and events[-1].state == "closed"
    assert "attempt 1 from step 0" in "".join(path.read_text() for path in sorted((clone / "logs").iterdir()))
    rows = [json.loads(line) for path in sorted((clone / "metrics").iterdir()) for line in path.open()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert json.loads((clone / "receipt.json").read_text())["outcome"] == "succeeded"
    subjects = git(["log", "--format=%s"], env=world.env, cwd=clone).stdout.decode()
    assert subjects.splitlines()[0] == f"{record.run_id}: closed"
    world.assert_nothing_left()


def test_no_secret_is_kept_anywhere_even_when_the_trainer_prints_its_environment(world: World) -> None:
    world.orders(steps=1000, step_s=0.05)
    world.write_job()
    world.push()
    world.until(lambda record: record.last.state == "training")
    world.wait_for_step(1)
    world.assert_no_secret()  # while the volume and the processes are there
    cancelled = world.cli("cancel", "job")
    assert cancelled.returncode == 0, cancelled.stderr
    assert end(world.record("job")) == ("cancelled", "CancelledByHand")
    assert "HF_TOKEN" in _log(world)
    world.assert_nothing_left()


def test_two_specs_in_one_push_run_and_a_broken_one_beside_them_gives_exit_code_2(world: World) -> None:
    world.write_job("one")
    world.write_job("two", seed=2)
    world.write_job("bad", more="learning_rat: 1\n")
    world.write_job("strange", gpus="NVIDIA A4")
    world.push()
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 2
    assert "jobs/bad.yaml:" in done.stderr and "learning_rat" in done.stderr
    assert "jobs/strange.yaml" in done.stderr and "NVIDIA A40" in done.stderr
    for job in ("one", "two"):
        receipt = world.record(job).receipt
        assert receipt and receipt["outcome"] == "succeeded"
    assert {record.run["job"] for record in world.records()} == {"one", "two"}
    world.assert_nothing_left()


def test_two_reconciles_on_two_machines_make_one_claim_one_pod_and_one_receipt(world: World) -> None:
    world.write_job()
    world.push()
    other = world.folder / "other"
    git(["clone", "-q", f"file://{world.folder}/remote.git", str(other)], env=world.env)
    first = world.start_cli("reconcile", "--follow")
    second = world.start_cli("reconcile", "--follow", cwd=other, PUSHTRAIN_STATE_DIR=str(world.folder / "state-2"))
    said = [process.communicate(timeout=150)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert "Traceback" not in "".join(said)
    (record,) = world.records()
    states = [event.state for event in record.events]
    assert states.count("claimed") == 1 and states.count("finished") == 1
    assert states.count("closed") == 1, states
    assert len(world.pods_made(record)) == 1
    assert end(record) == ("succeeded", "")
    world.assert_nothing_left()


def test_a_run_that_another_machine_closed_leaves_no_stack_here(world: World) -> None:
    world.write_job()
    world.push()
    state = world.folder / "state-2"
    here = open_control(world.repository, world.said.append, world.env | {"PUSHTRAIN_STATE_DIR": str(state)})
    world.tick(here)
    assert list(state.glob("stacks/*.json"))
    world.until(lambda record: record.is_over)
    assert list(state.glob("stacks/*.json"))
    world.tick(here)
    world.assert_nothing_left()


@pytest.mark.parametrize(("change", "reason"), [("edit", "SpecChanged"), ("delete", "SpecDeleted")])
def test_a_changed_or_deleted_spec_ends_its_run(world: World, change: str, reason: str) -> None:
    world.orders(steps=1000, step_s=0.05)
    world.write_job()
    world.push()
    first = world.until(lambda record: record.last.state == "training")
    world.orders(steps=2, step_s=0.05)
    if change == "edit":
        world.write_job(seed=2)
    else:
        (world.repository / "jobs" / "job.yaml").unlink()
    world.push()
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 0, done.stderr
    assert end(world.control().ledger.read(first.run_id)) == ("cancelled", reason)
    outcomes = sorted((record.receipt or {}).get("outcome", "") for record in world.records())
    assert outcomes == (["cancelled", "succeeded"] if change == "edit" else ["cancelled"])
    world.assert_nothing_left()


def test_a_checkout_older_than_a_run_does_not_cancel_it(world: World) -> None:
    world.orders(steps=1000, step_s=0.05)
    world.push("no job yet")
    late = world.folder / "late"
    git(["clone", "-q", f"file://{world.folder}/remote.git", str(late)], env=world.env)
    shallow = world.folder / "shallow"
    git(["clone", "-q", "--depth=1", f"file://{world.folder}/remote.git", str(shallow)], env=world.env)
    time.sleep(1.0)  # commits carry whole seconds
    world.write_job()
    world.push()
    world.until(lambda record: record.last.state == "training")
    for checkout in (late, shallow):
        process = world.start_cli("reconcile", cwd=checkout)
        _, said = process.communicate(timeout=150)
        assert process.returncode == 0 and "older than the run" in said, said
        assert world.record("job").last.state == "training"
    world.write_job(more="suspend: true\n")
    world.push()
    assert world.cli("reconcile").returncode == 0
    assert end(world.record("job")) == ("cancelled", "Suspended")
    world.assert_nothing_left()


def test_interrupting_a_run_by_hand_cancels_it_and_destroys_its_stack(world: World) -> None:
    world.orders(steps=1000, step_s=0.05)
    world.write_job()
    world.push()
    process = world.start_cli("run", "job")
    _wait_for_training(world, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=150)
    assert process.returncode in (1, 130) and "Traceback" not in said, said
    record = world.record("job")
    assert record.run["trigger"] == "hand" and end(record) == ("cancelled", "Interrupted")
    world.assert_nothing_left()


def test_a_stopped_reconcile_leaves_the_pod_at_work_and_the_next_one_closes(world: World) -> None:
    world.orders(steps=80, step_s=0.05, hold_at=60)
    world.write_job()
    world.push()
    for number in (signal.SIGTERM, signal.SIGINT):
        process = world.start_cli("reconcile", "--follow")
        _wait_for_training(world, process)
        if number == signal.SIGINT:
            assert process.stderr is not None and process.stderr.readline().startswith("engine:")  # it is at work
        process.send_signal(number)
        _, said = process.communicate(timeout=150)
        assert process.returncode == 130 and f"{number.name}: stopped" in said and "Traceback" not in said, said
        assert not world.record("job").is_over
    world.let_go()
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 0, done.stderr
    record = world.record("job")
    assert end(record) == ("succeeded", "") and len(world.pods_made(record)) == 1
    world.assert_nothing_left()


def _wait_for_training(world: World, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 150
    while not any(record.last.state == "training" for record in world.records()):
        assert process.poll() is None and time.monotonic() < end, world.said
        time.sleep(0.1)


def _log(world: World) -> str:
    record = world.record("job")
    raw, _ = world.control().ledger.text(record, "logs")
    return raw.decode()
