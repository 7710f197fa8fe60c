"""ci.yml and prices.yml run whole, in the simulator's Actions, on a repository with every file of this project.

Of ci.yml every job of the matrix runs `make`. Inside the suite the suite cannot run, so that `make test` and `make
test-long` get one file and one test by PYTEST_ADDOPTS, which pytest reads under any Makefile, and `make faults` three
schedules by N. `make lint` is whole. Installing is the stand-in of `infra/simulator/github/tools.py`.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_world import git_environ

from infra.simulator.github.actions import Actions
from infra.simulator.github.api import GitHubServer
from infra.simulator.github.hosted import Hosted
from infra.simulator.github.workflow import WorkflowRun
from infra.simulator.server import RunningSimulator, SimulatorConfig, start
from pushtrain.demo.world import project_files

PROJECT = Path(__file__).parents[1]
KEY = "canary-secret-runpod"
ONE_OF_EACH = "tests/test_redact.py tests/test_rehearsal.py::test_a_step_that_does_not_hold_says_where_to_look"


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    """This project as a repository at GitHub, in one commit."""
    folder = tmp_path_factory.mktemp("hosted")
    env, remote, clone = git_environ(folder), folder / "train.git", folder / "clone"
    for name in project_files():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, clone / name)
    for command in (
        ["init", "-q", "--bare", "-b", "main", str(remote)],
        ["init", "-q", "-b", "main", str(clone)],
        ["-C", str(clone), "add", "--all"],
        ["-C", str(clone), "commit", "-q", "-m", "all of it"],
        ["-C", str(clone), "push", "-q", str(remote), "main"],
    ):
        subprocess.run(["git", *command], env=env, check=True, timeout=150)
    return Hosted(path=remote, env=env)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    running = start(SimulatorConfig(state_dir=tmp_path_factory.mktemp("cloud"), api_key=KEY, max_hours=0.5))
    yield running
    running.stop()


@pytest.fixture
def actions(hosted: Hosted, cloud: RunningSimulator, tmp_path: Path) -> Iterator[Actions]:
    github = GitHubServer(hosted=hosted)
    caches = {"MYPY_CACHE_DIR": str(PROJECT / ".mypy_cache"), **_go_caches()}
    urls = {"RUNPOD_API_BASE_URL": cloud.url, "VAST_URL": cloud.url}
    env = {**hosted.env, **caches, **urls, "PYTEST_ADDOPTS": ONE_OF_EACH, "N": "3"}
    made = Actions(
        folder=tmp_path / "actions",
        github=github,
        env=env,
        secrets={"gpu": {"RUNPOD_API_KEY": KEY}},
        variables={"PUSHTRAIN_ENABLED": "true"},
        step_limit_s=800.0,
    )
    yield made
    github.close()


def said(run: WorkflowRun) -> dict[str, str]:
    """Job and step → what it said; no key, no token."""
    found = {f"{it.job}: {it.name}": it.output for it in run.steps}
    assert KEY not in str(found) and "ghs_" not in str(found)
    return found


@pytest.mark.timeout(1200)
def test_ci_runs_make_for_each_target_of_its_matrix(actions: Actions) -> None:
    main = str(actions.hosted.tip("refs/heads/main"))
    actions.variables.clear()  # train.yml, which this first push starts as well, has nothing to do
    (run,) = (it for it in actions.settle() if it.name == "ci.yml")
    found = said(run)
    assert run.results == {"make": "success"}, found
    assert run.ran == ["make test", "make test-long", "make lint", "make faults"]
    assert run.contexts["github"]["sha"] == main
    assert " passed" in found["make test: Make"] and "test_redact" not in found["make test-long: Make"]
    assert "1 passed" in found["make test-long: Make"]
    assert "Success: no issues found" in found["make lint: Make"] and "actionlint was not run" not in _with_go(found)
    assert re.search(r"schedules +3\n", found["make faults: Make"]) and "broken promises" in found["make faults: Make"]


def test_prices_are_asked_with_the_key_and_proposed_without_it(actions: Actions) -> None:
    actions.looked()
    (run,) = actions.scheduled("prices.yml")
    assert run.results == {"ask": "success", "propose": "success"}, said(run)
    assert KEY not in str(said(run)) and list(actions.github.pulls) == [1]
    pull = actions.github.pulls[1]
    assert (pull["head"]["ref"], pull["user"]["type"], pull["state"]) == ("prices", "Bot", "open")
    text = actions.hosted.file("refs/heads/prices", "prices.json")
    assert json.loads(text)["offers"] and KEY not in text
    assert json.loads(actions.hosted.file("refs/heads/prices", "prices-vast.json"))["offers"], "asked without a key"
    assert actions.hosted.changed("main", "refs/heads/prices") == ["prices-vast.json", "prices.json"]
    assert [it.name for it in actions.settle()] == [], "what the workflow's own token does starts nothing"

    (run,) = actions.scheduled("prices.yml")
    assert run.results == {"ask": "success", "propose": "success"} and list(actions.github.pulls) == [1]
    assert actions.github.merge_pull(1, {})[0] == 200
    (run,) = actions.by_hand("prices.yml")
    assert run.results == {"ask": "success", "propose": "success"} and list(actions.github.pulls) == [1, 2]


def test_without_the_variable_nothing_is_asked(actions: Actions) -> None:
    actions.variables.clear()
    (run,) = actions.scheduled("prices.yml")
    assert run.results == {"ask": "skipped", "propose": "skipped"} and run.steps == []


def _go_caches() -> dict[str, str]:
    """What this machine's Go keeps, so that actionlint is not built anew in every new home."""
    if shutil.which("go") is None:
        return {}
    names = ("GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS")
    done = subprocess.run(["go", "env", *names], capture_output=True, text=True, timeout=150, check=True)
    return {name: value for name, value in zip(names, done.stdout.splitlines(), strict=True) if value}


def _with_go(found: dict[str, str]) -> str:
    """What lint said, where this machine can run actionlint."""
    can = shutil.which("go", path=os.environ["PATH"]) or shutil.which("actionlint", path=os.environ["PATH"])
    return found["make lint: Make"] if can else ""
