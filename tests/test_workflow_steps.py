"""Each `run:` of review.yml and train.yml really run: pull request → comment → merge → run → receipt, and by hand."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi
from whole import CANARY, PROJECT, World, end

from infra.simulator.github.actions import Actions
from infra.simulator.github.api import TOKEN, GitHubServer
from infra.simulator.github.hosted import Hosted
from infra.simulator.github.state import REPO
from infra.simulator.github.workflow import WorkflowRun
from pushtrain.init import templates
from pushtrain.pod.tool import ASIDE

pytest_plugins = ("whole",)
KEYS = ("RUNPOD_API_KEY", "HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN")
# What the workflows bring by themselves, or a hosted machine does not have.
ABSENT = (*KEYS, "PUSHTRAIN_ENGINE", "PUSHTRAIN_SOURCE_URL", "PUSHTRAIN_STATE_DIR", "PYTHONPATH")


class Scene:
    """A repository that GitHub hosts, its API and Actions, and an account."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.github = GitHubServer(hosted=Hosted(path=world.folder / "remote.git", env=world.env))
        env = {name: value for name, value in world.env.items() if name not in ABSENT} | {"HF_HUB_OFFLINE": "1"}
        self.actions = Actions(
            folder=world.folder / "actions",
            github=self.github,
            env=env,
            secrets={"gpu": {name: world.env[name] for name in KEYS}},
            variables={"PUSHTRAIN_ENABLED": "true"},
        )
        self.actions.looked()

    def open(self, branch: str, base: str = "main") -> int:
        return int(self.ask("POST", "pulls", {"head": branch, "base": base, "title": f"{branch} it"})["number"])

    def merge(self, number: int, how: str = "merge") -> str:
        merged = str(self.ask("PUT", f"pulls/{number}/merge", {"merge_method": how})["sha"])
        self.world.git("checkout", "-q", "main")
        self.world.git("pull", "-q", "origin", "main")
        return merged

    def ask(self, method: str, path: str, body: dict[str, str]) -> dict[str, object]:
        """As a person, at a browser."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.request(
            method, f"{self.github.url}/repos/{REPO}/{path}", json=body, headers=headers, timeout=150
        )
        return dict(answer.raise_for_status().json())

    def push_branch(self, name: str) -> str:
        """Everything in the work tree as one commit of a new or the same branch; main is left as it was."""
        self.world.git("checkout", "-q", "-B", name)
        self.world.git("add", "--all")
        self.world.git("commit", "-q", "-m", f"{name} it")
        self.world.git("push", "-q", "--force", "origin", name)
        return self.world.git("rev-parse", "HEAD")

    def settled(self) -> dict[str, dict[str, str]]:
        """Workflow → job → result of what has happened; no step said a secret."""
        runs = self.actions.settle()
        return {run.name: self.clean(run).results for run in runs}

    def clean(self, run: WorkflowRun) -> WorkflowRun:
        said = "\n".join(it.output for it in run.steps)
        assert CANARY not in said and TOKEN not in said and "ghs_" not in said and "Traceback" not in said, said
        return run


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    HfApi(endpoint=world.simulator.url, token=world.env["HF_TOKEN"]).create_repo("demo/job", exist_ok=True)
    world.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 5\n")
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(PROJECT / name, world.repository / name)
    for name in ("review", "train"):
        world.write(f".github/workflows/{name}.yml", (PROJECT / f".github/workflows/{name}.yml").read_text("utf-8"))
    world.push("first")
    made = Scene(world)
    yield made
    made.github.close()


RECONCILED = {"reconcile": "success", "by-hand": "skipped", "end": "success", "again": "skipped"}
BY_HAND = {"reconcile": "skipped", "by-hand": "success", "end": "success", "again": "success"}


def test_from_the_pull_request_to_the_receipt_every_step_of_the_workflows_runs(scene: Scene) -> None:
    world, github = scene.world, scene.github
    world.write_job(max_usd=2)
    world.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 1\n")  # not what this one is judged by
    world.write("pushtrain/cli.py", "raise SystemExit(9)\n")  # nor the tool
    head = scene.push_branch("change")
    number = scene.open("change")
    assert scene.settled() == {"review.yml": {"plan": "success"}}, scene.actions.runs[-1].steps
    assert "this changes the policy" in github.comments[number][0]["body"]
    world.git("checkout", "-q", "main", "--", "pushtrain-policy.yaml", "pushtrain/cli.py")
    scene.push_branch("change")
    assert scene.settled() == {"review.yml": {"plan": "success"}}, scene.actions.runs[-1].steps
    (comment,) = github.comments[number]
    assert "job" in comment["body"] and "at most $2.00" in comment["body"], comment["body"]
    assert {it.name for it in scene.actions.runs[-1].steps} == {"Install what the base's lock file says", "Review"}
    assert head != github.pulls[number]["head"]["sha"]

    scene.merge(number)
    found = scene.settled()
    assert found == {"train.yml": RECONCILED}, scene.actions.runs[-1].steps
    assert end(world.record("job")) == ("succeeded", "")
    assert len(github.comments[number]) == 2 and "succeeded" in github.comments[number][1]["body"]
    assert {(it["context"], it["state"]) for it in github.statuses} >= {("pushtrain/job", "success")}
    assert "succeeded" in scene.actions.runs[-1].summary
    world.assert_nothing_left()


def test_by_hand_is_recorded_with_its_actor_and_the_next_reconcile_is_dispatched(scene: Scene) -> None:
    world = scene.world
    world.orders(steps=4000, step_s=0.05)
    world.write_job()
    world.push()
    world.tick()
    scene.actions.looked()
    given = {"hours": "0.5", "usd": "1", "why": "--usd=99 `touch x`", "run": "job"}
    (run,) = scene.actions.by_hand("train.yml", action="extend", **given)
    assert scene.clean(run).results == BY_HAND, run.steps
    assert run.title == "extend job by hours 0.5 by US dollars 1", "what an approver of the environment sees"
    (note,) = (it for it in world.record("job").events if it.state == "extended")
    assert (note.data["by"], note.data["usd"], note.message) == ("ann", 1.0, given["why"])
    asked = {"workflow": "train.yml", "ref": "main", "inputs": {"action": "reconcile"}}
    assert scene.github.dispatches == [asked]
    assert len(world.record("job").events) > 3 and world.record("job").receipt is None, "`end` ends nothing that runs"

    (run,) = scene.actions.by_hand("train.yml", action="cancel", run="--help")
    assert run.results["by-hand"] == "failure", "a run's name is no option"
    (run,) = scene.actions.by_hand("train.yml", action="cancel", run="job", why="enough")
    assert run.results == BY_HAND, run.steps
    assert scene.github.dispatches == [asked], "one waits already"
    (cancelled,) = (it for it in world.record("job").events if it.state == "cancelled")
    assert (cancelled.data["by"], cancelled.message) == ("ann", "enough")
    assert end(world.record("job")) == ("cancelled", "CancelledByHand")
    assert scene.settled() == {"train.yml": RECONCILED}, "what was dispatched"
    assert not world.control().cloud.find("")  # the machine that began it keeps its own memory of the stack
    world.assert_no_secret()


@pytest.mark.timeout(600)
def test_a_retry_by_hand_is_claimed_for_whoever_asked_and_the_dispatched_reconcile_brings_it_home(scene: Scene) -> None:
    world = scene.world
    world.orders(steps=4, step_s=0.02, fail_at=2)
    world.write_job()
    world.push()
    assert scene.settled() == {"train.yml": RECONCILED | {"reconcile": "failure"}}
    first = world.record("job")
    assert end(first)[0] == "failed"
    world.orders(steps=4, step_s=0.02)
    world.push("mended")
    scene.actions.looked()
    given = {"run": first.run_id, "why": "--once `touch x`"}
    (run,) = scene.actions.by_hand("train.yml", action="retry", cloud="runpod", **given)
    assert scene.clean(run).results == BY_HAND, run.steps
    assert run.title == f"retry {first.run_id}"
    (again,) = (it for it in world.records() if it.run_id != first.run_id)
    claimed = again.events[0]
    assert again.run_id.endswith("-r2") and claimed.state == "claimed"
    assert (claimed.data["of"], claimed.data["by"], claimed.data["why"]) == (first.run_id, "ann", given["why"])
    assert scene.settled() == {"train.yml": RECONCILED}, scene.actions.runs[-1].steps
    (again,) = (it for it in world.records() if it.run_id != first.run_id)
    assert end(again) == ("succeeded", "")
    assert not world.control().cloud.find("")
    world.assert_no_secret()


def test_a_state_backend_set_as_a_variable_reaches_every_step_that_has_keys(scene: Scene) -> None:
    """And the engine with it; Pulumi's program is not here, so a stand-in for `uv` notes what its step was given."""
    world, noted = scene.world, scene.world.folder / "noted"
    scene.actions.secrets["gpu"]["PULUMI_CONFIG_PASSPHRASE"] = phrase = CANARY + "phrase"  # type: ignore[index]
    wanted = ["PULUMI_BACKEND_URL", "PUSHTRAIN_ENGINE", "PULUMI_CONFIG_PASSPHRASE"]
    values = " ".join(f'"${name}"' for name in wanted)
    note = f"printf '%s|' \"$*\" {values} >> {noted}; echo >> {noted}"
    (scene.actions.folder / "tools" / "uv").write_text(f'#!/bin/sh\n[ "$1" = run ] || exit 0\n{note}\n')
    backend = f"file://{world.folder}/pulumi-state"
    for url, engine in ((backend, "pulumi"), ("", "embedded")):
        noted.write_text("")
        scene.actions.variables["PULUMI_BACKEND_URL"] = url
        scene.actions.scheduled("train.yml")
        scene.actions.by_hand("train.yml", action="cancel", run="job")
        rows = [line.split("|")[:4] for line in noted.read_text().splitlines()]
        assert [row[0].split()[3] for row in rows] == ["reconcile", "reconcile", "cancel", "reconcile"], rows
        assert {tuple(row[1:]) for row in rows} == {(url, engine, phrase)}
        scene.github.dispatches.clear()


def test_a_repository_with_a_project_of_its_own_has_the_tool_aside(scene: Scene) -> None:
    """Its top has a project, and folders with the names of our packages that are not ours."""
    world = scene.world
    (world.repository / ASIDE).mkdir(parents=True)
    for name in ("pushtrain", "infra", "trainer", "pyproject.toml", "uv.lock"):
        world.git("mv", name, f"{ASIDE}/{name}")
    world.write("pyproject.toml", "[project]\nname = 'mine'\n")
    for name in ("infra", "trainer"):
        world.write(f"{name}/__init__.py", "raise SystemExit('this is not pushtrain')\n")
    for name, text in templates(world.repository, PROJECT).items():
        world.write(name, text.decode())
    world.push("moved")
    scene.actions.looked()
    world.write_job(max_usd=2)
    scene.push_branch("change")
    number = scene.open("change")
    assert scene.settled() == {"review.yml": {"plan": "success"}}, scene.actions.runs[-1].steps
    scene.merge(number, "rebase")
    assert scene.settled() == {"train.yml": RECONCILED}, scene.actions.runs[-1].steps
    assert end(world.record("job")) == ("succeeded", "")
    assert world.record("job").run["lock"] == world.git("rev-parse", f"HEAD:{ASIDE}/uv.lock")
    assert len(scene.github.comments[number]) == 2, "rebased, and found again"
    world.assert_nothing_left()


def test_a_branch_that_was_forced_over_and_a_squash_that_skips_ci(scene: Scene) -> None:
    world, github = scene.world, scene.github
    world.write_job(max_usd=2)
    first = scene.push_branch("change")
    number = scene.open("change")
    assert scene.settled() == {"review.yml": {"plan": "success"}}
    world.git("reset", "-q", "--hard", "main")
    world.write_job(max_usd=3)
    assert scene.push_branch("change") != first
    assert scene.settled() == {"review.yml": {"plan": "success"}}
    (comment,) = github.comments[number]
    assert "at most $3.00" in comment["body"] and "$2.00" not in comment["body"]

    github.pulls[number]["title"] = "change it [skip ci]"
    merged = scene.merge(number, "squash")
    assert scene.settled() == {}, "GitHub starts nothing for it"
    assert not world.records()
    (run,) = scene.actions.scheduled("train.yml")
    assert scene.clean(run).results == RECONCILED, run.steps
    record = world.record("job")
    assert end(record) == ("succeeded", "") and record.run["commit"] == merged
    assert len(github.comments[number]) == 2, "its pull request is found, though no commit of the branch is on main"
    world.assert_nothing_left()


def test_a_fork_with_a_hostile_spec_gets_a_summary_and_annotations_and_can_write_nothing(scene: Scene) -> None:
    """Its workflow file is its own, as on GitHub; what holds is that its token only reads and no secret is there."""
    world, github = scene.world, scene.github
    world.write_job(max_usd=99, more="# </details> @everyone $(touch owned) ${{ secrets.RUNPOD_API_KEY }}\n")
    review = world.repository / ".github/workflows/review.yml"
    dump = "env > seen; cat seen; exec ../tool/"
    review.write_text(review.read_text().replace("exec ../tool/", dump))
    scene.push_branch("change")
    number = scene.open("change")
    github.pulls[number]["head"]["repo"]["full_name"] = "stranger/train"
    assert scene.actions.settle()[-1].results == {"plan": "failure"}
    (run,) = scene.actions.runs
    said = run.steps[-1].output
    assert "::error file=jobs/job.yaml,line=" in said and "$99" in run.summary and "from a fork" in said
    assert CANARY not in said and "RUNPOD_API_KEY" not in said.replace("${{ secrets.RUNPOD_API_KEY }}", "")
    assert github.comments == {} and not github.statuses
    token = re.findall(r"^GITHUB_TOKEN=(\S+)", said, re.MULTILINE)[0]
    for path, body in ((f"issues/{number}/comments", {"body": "x"}), ("statuses/" + "a" * 40, {"state": "success"})):
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.post(f"{github.url}/repos/{REPO}/{path}", json=body, headers=headers, timeout=150)
        assert answer.status_code == 403, path
    assert not world.records() and not list(world.folder.rglob("owned"))


def test_a_direct_push_is_run_with_a_status_and_without_a_comment(scene: Scene) -> None:
    world = scene.world
    world.write_job(max_usd=2)
    pushed = world.push("directly")
    assert scene.settled() == {"train.yml": RECONCILED}, scene.actions.runs[-1].steps
    assert end(world.record("job")) == ("succeeded", "") and not scene.github.comments
    last = scene.github.statuses[-1]
    assert (last["context"], last["state"], last["sha"]) == ("pushtrain/job", "success", pushed)
    world.assert_nothing_left()


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
