"""The Actions of the simulator: expressions, which event starts which file, rights of a token, merges by real git."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from git_world import git_environ
from ruamel.yaml import YAML

from infra.simulator.github.actions import Actions, Event
from infra.simulator.github.api import GitHubServer
from infra.simulator.github.expressions import evaluate, filled, holds
from infra.simulator.github.hosted import Hosted
from infra.simulator.github.rights import may
from infra.simulator.github.state import REPO
from infra.simulator.github.workflow import INSTALLERS
from pushtrain.errors import PushtrainError

FOLDER = Path(__file__).parents[1] / ".github" / "workflows"
CONTEXTS: dict[str, Any] = {
    "vars": {"ON": "true", "EMPTY": ""},
    "github": {"event": {"pull_request": {"number": 7}}},
    "inputs": {"hours": "0"},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("vars.ON == 'TRUE'", True),
        ("vars.NONE == ''", True),
        ("vars.EMPTY != '' && 'pulumi' || 'embedded'", "embedded"),
        ("vars.ON != '' && 'pulumi' || 'embedded'", "pulumi"),
        ("!(vars.ON == 'x') && github.event.pull_request.number == 7", True),
        ("github.event.issue.number", None),
        ("'it''s'", "it's"),
        ("inputs.hours == 0", True),
        ("true == 1", True),
        ("vars.ON == 1", False),
    ],
)
def test_expressions_mean_what_they_mean_on_github(text: str, value: object) -> None:
    assert evaluate(text, CONTEXTS) == value
    assert filled(f"a ${{{{ {text} }}}} b", CONTEXTS).startswith("a ")


@pytest.mark.parametrize("text", ["secrets.X", "fromJSON('1')", "vars.ON ==", "(vars.ON", "a b", "${{", "vars['ON']"])
def test_what_is_not_understood_is_an_error_and_no_empty_text(text: str) -> None:
    with pytest.raises(PushtrainError, match="not understood"):
        evaluate(text, CONTEXTS)


@pytest.mark.parametrize(
    ("condition", "status", "runs"),
    [
        ("vars.ON == 'true'", "success", True),
        ("vars.ON == 'true'", "failure", False),
        ("vars.ON == 'true'", "skipped", False),
        ("${{ always() && vars.ON == 'true' }}", "failure", True),
        ("failure()", "failure", True),
        ("failure()", "success", False),
        ("success()", "skipped", False),
    ],
)
def test_a_condition_without_a_word_about_the_status_asks_for_success(condition: str, status: Any, runs: bool) -> None:
    assert holds(condition, CONTEXTS, status) is runs


def test_a_token_may_what_its_job_names_and_nothing_else() -> None:
    review = {"contents": "read", "pull-requests": "write"}
    for request, allowed in {
        "GET /issues/7/comments": True,
        "POST /issues/7/comments": True,
        "GET /contents/jobs/a.yaml": True,
        "GET /commits/abc/pulls": True,
        "POST /statuses/abc": False,
        "PUT /pulls/7/merge": False,
        "POST /actions/workflows/train.yml/dispatches": False,
        "GET ": True,
        "PUT /topics": False,
    }.items():
        method, _, path = request.partition(" ")
        assert may(review, f"{method} /repos/{REPO}{path}", REPO) is allowed, request
    assert may(None, f"PUT /repos/{REPO}/topics", REPO)


def expressions(value: Any) -> Iterator[str]:
    """Every text below that has an expression, and every condition."""
    if isinstance(value, dict):
        for key, it in value.items():
            yield from [f"${{{{ {it} }}}}"] if key == "if" and "${{" not in str(it) else expressions(it)
    elif isinstance(value, list):
        for it in value:
            yield from expressions(it)
    elif isinstance(value, str) and "${{" in value:
        yield value


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.yml"))])
def test_every_expression_and_action_of_our_workflows_is_understood(name: str) -> None:
    """Fast, beside the tests that run them: tests/test_workflow_steps.py and tests/test_workflow_ci.py."""
    workflow = YAML(typ="safe").load((FOLDER / f"{name}.yml").read_text("utf-8"))
    known = ("github", "vars", "secrets", "inputs", "needs", "steps", "matrix")
    contexts: dict[str, Any] = {name: {} for name in known}
    found = list(expressions(workflow))
    assert found
    for text in found:
        filled(text, contexts)
    for job in workflow["jobs"].values():
        used = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}
        assert used <= {*INSTALLERS, "actions/checkout"}
        scripts = [step["run"] for step in job["steps"] if "run" in step]
        for script in scripts:
            subprocess.run(["bash", "-n", "-c", script], check=True, timeout=150)
        assert scripts


WORKFLOW = """\
on: {on}
permissions: {{}}
jobs:
  one:
    runs-on: ubuntu-24.04
    steps: [{{run: 'echo "seen=$GITHUB_SHA" >> "$GITHUB_OUTPUT"; echo said'}}]
"""


class Scene:
    def __init__(self, folder: Path) -> None:
        self.clone, env = folder / "clone", git_environ(folder)
        self.env = env
        remote = folder / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(remote)], env=env, check=True, timeout=150)
        subprocess.run(["git", "clone", "-q", str(remote), str(self.clone)], env=env, check=True, timeout=150)
        self.git("checkout", "-q", "-b", "main")
        events = {"push": "{push: {branches: [main], paths: ['jobs/**']}}", "pull": "{pull_request: }"}
        for name, on in {**events, "hand": "{workflow_dispatch: {inputs: {a: {default: x}}}, schedule: }"}.items():
            (self.clone / ".github/workflows").mkdir(parents=True, exist_ok=True)
            (self.clone / f".github/workflows/{name}.yml").write_text(WORKFLOW.format(on=on))
        self.commit("first", "README.md")
        self.github = GitHubServer(hosted=Hosted(path=remote, env=env))
        self.actions = Actions(folder=folder / "actions", github=self.github, env=env, secrets={})
        self.actions.looked()

    def git(self, *args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=self.clone, env=self.env, capture_output=True, check=True, timeout=150
        )
        return done.stdout.decode().strip()

    def commit(self, message: str, path: str, branch: str = "main") -> str:
        (self.clone / path).parent.mkdir(exist_ok=True)
        (self.clone / path).write_text(f"{message}\n")
        self.git("add", "--all")
        self.git("commit", "-q", "-m", message)
        self.git("push", "-q", "--force", "origin", branch)
        return self.git("rev-parse", "HEAD")

    def settled(self) -> list[str]:
        return [run.name for run in self.actions.settle()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.github.close()


def test_a_push_starts_what_names_its_branch_and_paths_and_skip_ci_starts_nothing(scene: Scene) -> None:
    scene.commit("a page", "README.md")
    assert scene.settled() == []
    scene.commit("a job", "jobs/a.yaml")
    assert scene.settled() == ["push.yml"]
    assert scene.actions.runs[0].steps[0].output == "said\n"
    scene.commit("a job\n\n[skip ci]", "jobs/b.yaml")
    assert scene.settled() == []
    assert [run.name for run in scene.actions.scheduled("hand.yml")] == ["hand.yml"]
    (run,) = scene.actions.by_hand("hand.yml", b="y")
    assert run.contexts["inputs"] == {"a": "x", "b": "y"}


@pytest.mark.parametrize("how", ["merge", "squash", "rebase"])
def test_a_pull_request_starts_its_own_files_and_can_be_merged_in_three_ways(scene: Scene, how: str) -> None:
    scene.git("checkout", "-q", "-b", "change")
    tips = [scene.commit(it, f"jobs/{it}.yaml", "change") for it in ("one", "two")]
    status, pull = scene.github.open_pull({"head": "change", "base": "main", "title": "Change"})
    assert status == 201 and scene.settled() == ["pull.yml"]
    assert scene.github.open_pull({"head": "change", "base": "main", "title": "Again"})[0] == 422
    sha = scene.actions.runs[-1].contexts["github"]["sha"]
    assert sha not in tips and scene.github.hosted is not None
    assert set(scene.github.hosted.files(sha, "jobs")) == {"jobs/one.yaml", "jobs/two.yaml"}, "of the merge"
    tips.append(scene.commit("three", "jobs/three.yaml", "change"))
    assert scene.settled() == ["pull.yml"] and pull["head"]["sha"] == tips[-1]

    assert scene.github.merge_pull(int(pull["number"]), {"merge_method": how})[0] == 200
    assert scene.settled() == ["push.yml"]
    base = {"squash": "main~1", "rebase": "main~3", "merge": "main^1"}[how]
    made = set(scene.github.hosted.commits(base, "main"))
    assert len(made) == {"squash": 1, "rebase": 3, "merge": 4}[how]
    assert made & set(tips) == (set(tips) if how == "merge" else set())
    assert all(scene.github.pulls_of[it] == [pull["number"]] for it in made)
    assert scene.github.merge_pull(int(pull["number"]), {})[0] == 405


def test_a_pull_request_that_cannot_be_merged_starts_nothing(scene: Scene) -> None:
    scene.git("checkout", "-q", "-b", "change")
    scene.commit("theirs", "README.md", "change")
    scene.git("checkout", "-q", "main")
    scene.commit("ours", "README.md")
    status, pull = scene.github.open_pull({"head": "change", "base": "main", "title": "Change"})
    assert status == 201 and pull["merge_commit_sha"] is None and scene.settled() == []
    assert scene.github.merge_pull(int(pull["number"]), {})[0] == 405
    assert scene.github.open_pull({"head": "nowhere", "base": "main"})[0] == 422


def test_a_step_that_fails_ends_its_job_and_one_that_hangs_is_ended(scene: Scene) -> None:
    text = WORKFLOW.format(on="{push: {branches: [main]}}").replace("echo said", "echo said; exit 3")
    (scene.clone / ".github/workflows/bad.yml").write_text(text)
    hangs = WORKFLOW.format(on="{schedule: }").replace("echo said", "echo before; sleep 60")
    (scene.clone / ".github/workflows/hangs.yml").write_text(hangs)
    scene.commit("x", "README.md")
    assert scene.settled() == ["bad.yml"]
    assert scene.actions.runs[-1].results == {"one": "failure"} and scene.actions.runs[-1].steps[0].exit_code == 3
    scene.actions.step_limit_s = 0.5
    (run,) = scene.actions.scheduled("hangs.yml")
    assert run.results == {"one": "failure"} and run.steps[0].output == "before\n"
    tip = str(scene.github.hosted and scene.github.hosted.tip("main"))
    assert scene.actions.happened(Event(name="release", ref="refs/heads/main", sha=tip)) == []
