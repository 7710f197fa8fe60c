"""The rehearsal as a newcomer runs it: to its end, by Ctrl-C, and with a step that does not hold."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from test_demo import demo_environment, wait_for, wait_until_nothing_lives

from pushtrain.demo.leftovers import Processes
from pushtrain.demo.rehearsal import Rehearsal
from pushtrain.errors import PushtrainError
from pushtrain.gitcmd import git


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where one works, as a person does: the base model is built once, beside it."""
    yield tmp_path_factory.mktemp("place")


def start(place: Path, *options: str) -> "subprocess.Popen[str]":
    """Outside of any repository: the rehearsal needs none."""
    env = {"PATH": os.environ["PATH"], "HOME": str(place), "COLUMNS": "140"}
    command = [sys.executable, "-m", "pushtrain", "rehearse", "--folder", "rehearsal", *options]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=place, env=env, start_new_session=True, **output)


@pytest.mark.timeout(600)
def test_from_init_to_the_receipt_every_step_holds_and_nothing_is_left(place: Path) -> None:
    """Merged by squash: the commit on main is then none of the branch's."""
    rehearsal = start(place, "--merge", "squash")
    out, _ = rehearsal.communicate(timeout=590)
    assert rehearsal.returncode == 0, out
    folder = place / "rehearsal" / "run"
    for words in ("`pushtrain init` wrote", "review.yml starts on pull_request", "reconcile │ first-lora-", "end │"):
        assert words in out, (words, out)
    assert "steps hold" in out and out.rstrip().splitlines()[-1] == "proof: pods 0, volumes 0"
    assert "HTTP 403" not in out and "ghs_" not in out, "each job may what it does"

    plan, run = ((folder / f"comment-{name}.md").read_text("utf-8") for name in ("plan", "run"))
    assert "A merge starts 1 run, for about $" in out and "left running" in out, "the comments are printed"
    for words in ("fits", "at most $0.50", "demo/stdlib-base", "create | Pod pod"):
        assert words in plan, (words, plan)
    for words in ("held-out loss", "first-lora@", "sample outputs", "receipt", "nothing: the cloud was asked twice"):
        assert words in run, (words, run)

    env, ledger = demo_environment(place / "rehearsal"), folder / "train-runs.git"
    tip = git(["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/runs"], env=env, cwd=ledger).stdout
    receipt = json.loads(git(["show", f"{tip.decode().strip()}:receipt.json"], env=env, cwd=ledger).stdout)
    assert receipt["outcome"] == "succeeded" and 0 < receipt["billed_usd"] < receipt["cap_usd"]
    subjects = git(["log", "--format=%s", "main"], env=env, cwd=folder / "train.git").stdout.decode().splitlines()
    assert subjects == ["A first LoRA (#1)", "pushtrain"]
    wait_until_nothing_lives(place)


@pytest.mark.timeout(200)
def test_ctrl_c_while_a_workflow_runs_leaves_nothing(place: Path) -> None:
    rehearsal = start(place)
    wait_for(rehearsal, "attempt 1 on")
    rehearsal.send_signal(signal.SIGINT)
    out, _ = rehearsal.communicate(timeout=150)
    assert rehearsal.returncode == 130, out
    assert "cancelled; pods 0, volumes 0" in out and "Traceback" not in out
    wait_until_nothing_lives(place)


@pytest.mark.timeout(400)
def test_a_run_that_fails_is_a_step_that_does_not_hold(place: Path) -> None:
    """A base model without weights: the plan is content, since it reads sizes only; the training is not."""
    (weights,) = place.glob("base/model-*/*.safetensors")
    weights.write_bytes(b"no weights")
    rehearsal = start(place)
    out, _ = rehearsal.communicate(timeout=380)
    assert rehearsal.returncode == 1, out
    assert "it does not hold that train.yml ran" in out and "Traceback" not in out
    wait_until_nothing_lives(place)


def test_a_step_that_does_not_hold_says_where_to_look(tmp_path: Path) -> None:
    console = Console(file=(tmp_path / "out").open("w"))
    rehearsal = Rehearsal(folder=tmp_path, console=console, processes=Processes(tmp_path / "processes.json"))
    rehearsal.holds("one is one", True)
    with pytest.raises(PushtrainError, match="it does not hold that one is two") as failed:
        rehearsal.holds("one is two", False)
    assert rehearsal.held == ["one is one"] and str(tmp_path / "actions") in str(failed.value.hint)
