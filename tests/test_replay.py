"""`pushtrain replay`: the same spec, commit and revisions once more, and a verdict anybody can read from the ledger."""

import json
from typing import Any

import pytest
from whole import World, end

from pushtrain.errors import PushtrainError
from pushtrain.replay.start import verdict
from pushtrain.replay.verdict import Told, compare

pytest_plugins = ("whole",)

LOCK = {"commit": "c" * 40, "machine": {"gpus": ["NVIDIA A40"], "driver": "580.1"}, "libraries": {"torch": "2.15.0"}}

# Says what a trainer says of its run: a lock, losses, the digests of what it published. A replay comes out otherwise by
# `drift`, with another torch, where the orders say so.
TRAINER = """\
import hashlib, json, os, pathlib, sys, time
run_dir = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
here = run_dir / ("attempt-" + sys.argv[sys.argv.index("--attempt") + 1])
here.mkdir(parents=True, exist_ok=True)
orders = json.loads(pathlib.Path("data/orders.json").read_text())
replay = json.loads(os.environ.get("PUSHTRAIN_REPLAY") or "{}")
drift = orders.get("drift", 0.0) if replay else 0.0
pins = replay.get("pins") or {"models/demo/base@main": "a" * 40}
lock = {"pins": pins, "libraries": {"torch": "2.16" if drift else "2.15"}, "determinism": {"asked": "seeded"}}
def note(file, **row):
    with (here / file).open("a") as out:
        out.write(json.dumps({"time": time.time(), **row}) + "\\n")
note("events.jsonl", state="preparing", message="", data={})
note("events.jsonl", state="training", message="", data={"lock": lock})
losses = [5.0 / step * (1 + drift * step) for step in range(1, orders["steps"] + 1)]
for step, loss in enumerate(losses, 1):
    note("metrics.jsonl", step=step, total_steps=len(losses), loss=loss)
note("events.jsonl", state="publishing", message="", data={})
files = {"adapter_model.safetensors": hashlib.sha256(repr(losses).encode()).hexdigest(),
         "README.md": hashlib.sha256(os.environ["PUSHTRAIN_RUN_ID"].encode()).hexdigest()}
adapter = {"repo": "demo/x", "revision": "0" * 40, "files": files}
(here / "result.json").write_text(json.dumps(
    {"adapter": adapter, "metrics": {"eval_loss": losses[-1]}, "samples": [], "lock": lock}))
"""


def run(**changes: Any) -> Told:
    base: dict[str, Any] = {
        "run_id": "job-1",
        "outcome": "succeeded",
        "reason": "",
        "lock": LOCK,
        "locks": (LOCK,),
        "losses": {1: 5.0, 2: 4.0, 3: 3.0},
        "eval_loss": 2.5,
        "weights": {"adapter_model.safetensors": "1" * 64},
    }
    return Told(**{**base, **changes})


OTHER = {"adapter_model.safetensors": "2" * 64}


def test_the_same_bytes_are_equal_also_where_the_card_was_another() -> None:
    other = {**LOCK, "machine": {"gpus": ["NVIDIA L40"], "driver": "580.1"}}
    said = compare(run(), run(run_id="job-2", lock=other))
    assert (said.verdict, said.exit_code) == ("equal", 0)
    assert "lock: machine.gpus: ['NVIDIA A40'] → ['NVIDIA L40']" in said.why


def test_other_bytes_with_losses_close_by_are_within_tolerance() -> None:
    said = compare(run(), run(run_id="job-2", weights=OTHER, losses={1: 5.0, 2: 4.0, 3: 3.003}))
    assert (said.verdict, said.exit_code, said.at_step) == ("within tolerance", 0, 3)
    assert said.loss_difference == pytest.approx(0.001)
    assert any("train.determinism: strict" in why for why in said.why), "nothing in the locks explains it"
    assert compare(run(), run(weights=OTHER, losses={3: 3.003}), tolerance=0.0001).verdict == "drifted"


def test_a_loss_that_went_elsewhere_has_drifted_and_the_lock_says_why() -> None:
    other = {**LOCK, "libraries": {"torch": "2.16.0"}}
    said = compare(run(), run(run_id="job-2", lock=other, weights=OTHER, eval_loss=2.9))
    assert (said.verdict, said.exit_code, said.at_step) == ("drifted", 1, None)
    assert "of the evaluation" in said.as_text() and "libraries.torch: 2.15.0 → 2.16.0" in said.as_text()
    assert not any("determinism" in why for why in said.why)
    assert json.loads(json.dumps(said.as_json()))["lock"] == [
        {"key": "libraries.torch", "before": "2.15.0", "after": "2.16.0"}
    ]


def test_without_a_loss_to_compare_nothing_is_claimed() -> None:
    said = compare(run(), run(weights=OTHER, losses={}, eval_loss=None))
    assert said.verdict == "drifted" and "no loss of theirs can be compared" in said.why


def test_an_attempt_on_another_machine_is_told_and_a_failed_replay_is_no_drift() -> None:
    moved = {**LOCK, "machine": {"gpus": ["NVIDIA L40"], "driver": "580.1"}}
    said = compare(run(), run(run_id="job-2", weights=OTHER, locks=(LOCK, moved)))
    assert "job-2 went on elsewhere: machine.gpus: ['NVIDIA A40'] → ['NVIDIA L40']" in said.why
    said = compare(run(), run(run_id="job-2", outcome="failed", reason="OutOfMemory", weights={}, losses={}, lock={}))
    assert (said.verdict, said.exit_code, said.why) == ("failed", 1, ("it ended failed, OutOfMemory",))


def test_a_run_is_repeated_at_its_commit_on_its_revisions_and_the_verdict_stays_in_the_ledger(world: World) -> None:
    world.write("trainer/__main__.py", TRAINER)
    world.orders(steps=4, step_s=0.0)
    world.write_job()
    first_commit = world.push()
    assert world.cli("replay", "job").returncode == 2  # no run at all
    assert world.cli("reconcile", "--follow").returncode == 0
    first = world.record("job")
    no_verdict = world.cli("replay", "job", "--verdict")
    assert no_verdict.returncode == 1 and "was never replayed" in no_verdict.stderr

    world.write_job(seed=2, more="suspend: true\n")  # HEAD asks for something else by now
    world.push("another spec")
    done = world.cli("replay", first.run_id, "--why", "is it true")
    assert done.returncode == 0 and "budget of its own: at most $1 and 1 h" in done.stderr, done.stderr
    assert world.cli("reconcile", "--follow").returncode == 0
    second = world.record("job")
    assert second.run_id == f"{first.run_id}-r2" and end(second) == ("succeeded", "")
    assert second.run["commit"] == first_commit and second.run["lock"] == first.run["lock"]
    assert second.run["replay"] == {"of": first.run_id, "pins": {"models/demo/base@main": "a" * 40}}
    said = second.events[0].data
    assert (said["trigger"], said["of"], said["why"]) == ("replay", first.run_id, "is it true")
    assert second.result and second.result["lock"] == (first.result or {})["lock"]
    for name in (first.run_id, second.run_id):  # either name means the two
        told = world.cli("replay", name, "--verdict", "--json")
        assert told.returncode == 0, told.stderr
        verdict_json = json.loads(told.stdout)
        assert (verdict_json["verdict"], verdict_json["run_id"]) == ("equal", first.run_id)
    again = world.cli("replay", first.run_id)  # starts nothing, since one is over
    assert again.returncode == 0 and "equal" in again.stdout and len(world.records()) == 2
    world.assert_nothing_left()


def test_a_replay_that_came_out_otherwise_is_exit_1_and_says_why(world: World) -> None:
    world.write("trainer/__main__.py", TRAINER)
    world.orders(steps=4, step_s=0.0, drift=0.1)
    world.write_job()
    world.push()
    assert world.cli("reconcile", "--follow").returncode == 0
    assert world.cli("replay", "job").returncode == 0
    with pytest.raises(PushtrainError, match="no verdict yet"):
        verdict(world.control().ledger, "job")
    assert world.cli("reconcile", "--follow").returncode == 0
    told = world.cli("replay", "job", "--verdict")
    assert told.returncode == 1 and "drifted" in told.stdout
    assert "libraries.torch: 2.15 → 2.16" in told.stdout and "at step 4" in told.stdout
    assert world.cli("replay", "job", "--verdict", "--tolerance", "0.5").returncode == 0
    retried = world.cli("retry", "job")  # the spec has its result: a replay is no new try
    assert retried.returncode == 0 and "succeeded already" in retried.stderr, retried.stderr
    world.assert_nothing_left()


def test_what_never_succeeded_cannot_be_replayed(world: World) -> None:
    world.orders(steps=4, step_s=0.0, fail_at=2)
    world.write_job()
    world.push()
    assert world.cli("reconcile", "--follow").returncode == 1
    done = world.cli("replay", "job")
    assert done.returncode == 1 and "no result with a lock" in done.stderr and "pushtrain retry" in done.stderr
    assert len(world.records()) == 1
