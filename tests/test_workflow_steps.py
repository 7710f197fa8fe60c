"""Each `run:` of review.yml and train.yml really run: pull request → comment → merge → run → receipt, and by hand."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from github_server import REPO, TOKEN, GitHubServer
from huggingface_hub import HfApi
from whole import CANARY, World, end
from workflow_runner import Runner, base_environ

pytest_plugins = ("whole",)


class Scene:
    """A repository at a bare remote, GitHub's API, an account; each event is a runner of its own."""

    def __init__(self, world: World) -> None:
        self.world, self.github, self.runners = world, GitHubServer(), 0

    def runner(self, event: str, change: str = "main", **inputs: str) -> Runner:
        self.runners += 1
        secrets = {name: self.world.env[name] for name in ("RUNPOD_API_KEY", "HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN")}
        contexts: dict[str, Any] = {
            "github": {"event_name": event, "token": TOKEN, "repository": REPO},
            "vars": {"PUSHTRAIN_ENABLED": "true"},
            "secrets": secrets if event != "pull_request" else {},
            "inputs": inputs,
        }
        env = base_environ(self.world.env) | self.github.env(GITHUB_ACTOR="ann", GITHUB_RUN_ID=str(self.runners))
        env.pop("GITHUB_TOKEN")
        env["PUSHTRAIN_STATE_DIR"] = str(self.world.folder / f"state-{self.runners}")
        folder = self.world.folder / f"runner-{self.runners}"
        remote = self.world.folder / "remote.git"
        return Runner(folder=folder, env=env, remote=remote, contexts=contexts, change=change)

    def ran(self, runner: Runner) -> dict[str, str]:
        """Job → result of train.yml; nothing of it has a secret in its words."""
        results = runner.run("train")
        said = "\n".join(it[3] for it in runner.steps)
        assert CANARY not in said and TOKEN not in said, said
        return dict(results)


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    HfApi(endpoint=world.simulator.url, token=world.env["HF_TOKEN"]).create_repo("demo/job", exist_ok=True)
    world.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 5\n")
    world.push("first")
    made = Scene(world)
    yield made
    made.github.close()


def test_from_the_pull_request_to_the_receipt_every_step_of_the_workflows_runs(scene: Scene) -> None:
    world, github = scene.world, scene.github
    base = world.git("rev-parse", "HEAD")
    world.git("checkout", "-q", "-b", "change")
    world.write_job(max_usd=2)
    world.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 1\n")  # not what this one is judged by
    world.git("add", "--all")
    world.git("commit", "-q", "-m", "a job")
    world.git("push", "-q", "origin", "change")
    head = world.git("rev-parse", "HEAD")
    pull = github.pull(7, head)
    runner = scene.runner("pull_request", "change")
    event = {"number": 7, "pull_request": {**pull, "base": {**pull["base"], "sha": base}}, "repository": {}}
    runner.contexts["github"]["event"] = event
    (runner.folder / "event.json").write_text(json.dumps(event))
    runner.env |= {"GITHUB_EVENT_PATH": str(runner.folder / "event.json"), "GITHUB_EVENT_NAME": "pull_request"}
    runner.env["HF_HUB_OFFLINE"] = "1"
    assert runner.run("review") == {"plan": "success"}, runner.steps
    (comment,) = github.comments[7]
    assert "job" in comment["body"] and "at most $2.00" in comment["body"], comment["body"]
    assert "max_usd_per_run" not in runner.steps[-1][3]
    assert {it[1] for it in runner.steps} == {"Install what the base's lock file says", "Review"}

    world.git("checkout", "-q", "main")
    world.git("merge", "-q", "--no-ff", "-m", "merge", "change")
    world.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 5\n")
    merged = world.push("merged")
    spec_commit = world.git("log", "-1", "--format=%H", "--", "jobs/job.yaml")
    github.touched["jobs/job.yaml"] = spec_commit
    github.pulls_of |= {merged: [7], spec_commit: [7], head: [7]}
    runner = scene.runner("push")
    assert scene.ran(runner) == {"reconcile": "success", "by-hand": "skipped", "end": "success", "again": "skipped"}, (
        runner.steps
    )
    assert end(world.record("job")) == ("succeeded", "")
    assert len(github.comments[7]) == 2 and "succeeded" in github.comments[7][1]["body"]
    assert {(it["context"], it["state"]) for it in github.statuses} >= {("pushtrain/job", "success")}
    assert "succeeded" in runner.summary.read_text()
    world.assert_nothing_left()


def test_by_hand_is_recorded_with_its_actor_and_the_next_reconcile_is_dispatched(scene: Scene) -> None:
    world = scene.world
    world.orders(steps=4000, step_s=0.05)
    world.write_job()
    world.push()
    world.tick()
    given = {"hours": "0.5", "usd": "1", "why": "--usd=99 `touch x`", "run": "job"}
    runner = scene.runner("workflow_dispatch", action="extend", **given)
    expected = {"reconcile": "skipped", "by-hand": "success", "end": "success", "again": "success"}
    assert scene.ran(runner) == expected, runner.steps
    (note,) = (it for it in world.record("job").events if it.state == "extended")
    assert (note.data["by"], note.data["usd"], note.message) == ("ann", 1.0, given["why"])
    assert "dispatches -f ref=main -f inputs[action]=reconcile" in runner.asked.read_text()
    assert len(world.record("job").events) > 3 and world.record("job").receipt is None, "`end` ends nothing that runs"

    runner = scene.runner("workflow_dispatch", action="cancel", run="--help", hours="0", usd="0", why="")
    assert scene.ran(runner)["by-hand"] == "failure", "a run's name is no option"
    runner = scene.runner("workflow_dispatch", action="cancel", run="job", hours="0", usd="0", why="enough")
    assert scene.ran(runner) == expected, runner.steps
    (cancelled,) = (it for it in world.record("job").events if it.state == "cancelled")
    assert (cancelled.data["by"], cancelled.message) == ("ann", "enough")
    assert end(world.record("job")) == ("cancelled", "CancelledByHand")
    assert not world.control().cloud.find("")  # the machine that began it keeps its own memory of the stack
    world.assert_no_secret()


def test_end_only_rents_nothing_and_takes_down_what_is_at_its_end(scene: Scene) -> None:
    world = scene.world
    world.write_job()
    world.push()
    assert world.cli("reconcile", "--end-only").returncode == 0
    assert not world.records() and not world.simulator.state()["processes_alive"]
    world.tick()
    world.until(lambda record: record.last.state == "finished", ticks=False)
    assert world.cli("reconcile", "--end-only").returncode == 0
    assert end(world.record("job")) == ("succeeded", "")
    world.assert_nothing_left()


def test_what_is_left_active_is_said_to_the_workflow(scene: Scene, tmp_path: Path) -> None:
    world, output = scene.world, tmp_path / "output"
    world.orders(steps=4000, step_s=0.05)
    world.write_job()
    world.push()
    done = world.cli("reconcile", "--follow", "--max-minutes", "0.02", GITHUB_OUTPUT=str(output))
    assert isinstance(done, subprocess.CompletedProcess) and output.read_text() == "active=true\n"
    world.cli("cancel", "job")
    world.cli("reconcile", GITHUB_OUTPUT=str(output))
    assert output.read_text().splitlines()[-1] == "active=false"
    world.assert_nothing_left()
