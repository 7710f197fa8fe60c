"""The workflows: least permission, pinned actions, no text of others in a shell, secrets in one step of one job."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from git_world import git_environ
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
PATHS = sorted(FOLDER.glob("*.yml"))
# YAML 1.2: there "on" is a word, not true.
WORKFLOWS: dict[str, dict[str, Any]] = {path.stem: YAML(typ="safe").load(path.read_text("utf-8")) for path in PATHS}
ZIZMOR = shutil.which("zizmor", path=sysconfig.get_path("scripts"))
# Go brings actionlint from its module proxy; PyPI has it only as a download at install.
ACTIONLINT = ["actionlint"] if shutil.which("actionlint") else None
if ACTIONLINT is None and shutil.which("go"):
    ACTIONLINT = ["go", "run", "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"]

every_workflow = pytest.mark.parametrize("name", sorted(WORKFLOWS))


def jobs(name: str) -> Iterator[dict[str, Any]]:
    yield from WORKFLOWS[name]["jobs"].values()


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in jobs(name):
        yield from job["steps"]


# Beside reading: the one job that proposes new prices, which sees no secret.
WRITES = {
    "propose": {"contents": "write", "pull-requests": "write"},
    "plan": {"contents": "read", "pull-requests": "write"},
    "reconcile": {"actions": "read", "contents": "read", "pull-requests": "write", "statuses": "write"},
    "by-hand": {"actions": "read", "contents": "read", "pull-requests": "read"},
    "end": {"contents": "read", "pull-requests": "write", "statuses": "write"},
    "again": {"actions": "write"},
}
# The jobs of train.yml that have secrets, each in one step.
KEYS = {"reconcile": "Reconcile", "by-hand": "Do it", "end": "End what is at its end"}


def test_there_are_four() -> None:
    assert sorted(WORKFLOWS) == ["ci", "prices", "review", "train"]


@every_workflow
def test_nothing_is_permitted_that_a_job_did_not_ask_for(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}
    for key, job in WORKFLOWS[name]["jobs"].items():
        assert job["permissions"] == WRITES.get(key, {"contents": "read"}), key


@every_workflow
def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it(name: str) -> None:
    text = (FOLDER / f"{name}.yml").read_text(encoding="utf-8")
    used = re.findall(r"\buses: (.+)", text)
    assert used
    assert len(used) == len([step for step in steps(name) if "uses" in step])
    for action in used:
        assert re.match(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\b", action), action


def test_one_action_is_one_commit_everywhere() -> None:
    used = {step["uses"] for name in WORKFLOWS for step in steps(name) if "uses" in step}
    assert len(used) == len({action.partition("@")[0] for action in used})


@every_workflow
def test_no_expression_reaches_a_shell(name: str) -> None:
    runs = [step["run"] for step in steps(name) if "run" in step]
    assert runs
    assert not [run for run in runs if "${{" in run]


@every_workflow
def test_a_checkout_leaves_no_credentials_behind(name: str) -> None:
    checkouts = [step for step in steps(name) if step.get("uses", "").startswith("actions/checkout@")]
    assert {step["with"]["persist-credentials"] for step in checkouts} == {False}
    assert checkouts


@every_workflow
def test_every_job_has_an_end(name: str) -> None:
    assert all(0 < job["timeout-minutes"] < 360 for job in jobs(name))


def test_secrets_are_seen_by_one_step_of_two_workflows_only() -> None:
    seeing = [(name, step.get("name")) for name in WORKFLOWS for step in steps(name) if "secrets." in str(step)]
    assert seeing == [("prices", "Ask the catalogues"), *(("train", step) for step in KEYS.values())]
    assert not [name for name in ("ci", "review") if "secrets." in (FOLDER / f"{name}.yml").read_text()]
    assert "secrets." not in str(WORKFLOWS["prices"]["jobs"]["propose"]), "who writes sees no key"
    for job, named in KEYS.items():
        (step,) = (step for step in WORKFLOWS["train"]["jobs"][job]["steps"] if step.get("name") == named)
        assert "secrets." not in str({key: value for key, value in step.items() if key != "env"})
        assert WORKFLOWS["train"]["jobs"][job]["environment"] == "gpu"
    assert not {"environment", "env"} & set(WORKFLOWS["train"]["jobs"]["again"]), "who dispatches sees no key"


def test_the_review_is_the_base_s_tool_over_the_change_as_data() -> None:
    assert list(WORKFLOWS["review"]["on"]) == ["pull_request"]
    job = WORKFLOWS["review"]["jobs"]["plan"]
    assert "environment" not in job
    tool, change = (step["with"] for step in job["steps"][:2])
    base = "${{ github.event.pull_request.base.sha }}"
    assert (tool["ref"], tool["path"], change["path"], "ref" in change) == (base, "tool", "change", False)
    install, review = job["steps"][-2:]
    assert (install["working-directory"], review["working-directory"]) == ("tool", "change")
    assert review["run"].startswith("exec ../tool/.venv/bin/pushtrain review --base ")


def test_prices_are_asked_on_main_in_the_environment_that_only_main_may_use() -> None:
    prices = WORKFLOWS["prices"]
    assert set(prices["on"]) == {"schedule", "workflow_dispatch"}
    ask, propose = (prices["jobs"][name] for name in ("ask", "propose"))
    assert (ask["environment"], ask["if"]) == ("gpu", "${{ vars.PUSHTRAIN_ENABLED == 'true' }}")
    assert "environment" not in propose and propose["needs"] == "ask"
    assert {job["steps"][0]["with"]["ref"] for job in (ask, propose)} == {"main"}


def test_new_prices_become_one_branch_and_one_pull_request(tmp_path: Path) -> None:
    """The two `run:` of prices.yml in a real clone, with a `gh` that notes what it is asked."""
    remote, clone, tools = tmp_path / "remote.git", tmp_path / "clone", tmp_path / "bin"
    tools.mkdir()
    log, open_file = tmp_path / "gh.log", tmp_path / "open"
    (tools / "gh").write_text(
        f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in\n'
        f'  "pr view"*) if [ -e {open_file} ]; then echo OPEN; else echo "none" >&2; exit 1; fi ;;\n'
        f'  "pr create"*) touch {open_file} ;;\nesac\n'
    )
    (tools / "gh").chmod(0o755)
    env = {**git_environ(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output"), "GH_TOKEN": "x"}
    env["PATH"] = f"{tools}:{os.environ['PATH']}"

    def sh(command: str, cwd: Path, **more: str) -> str:
        shell = ["bash", "-e", "-o", "pipefail", "-c", command]
        done = subprocess.run(shell, cwd=cwd, env={**env, **more}, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run = {step["name"]: step["run"] for step in steps("prices") if "run" in step}
    sh(f"git init -q --bare -b main {remote} && git clone -q {remote} {clone} && cd {clone} && git checkout -q -b main "
       "&& git commit -q --allow-empty -m first && git push -q origin main", tmp_path)  # fmt: skip
    (clone / "prices.json").write_text("{}\n")
    for turn, pulls in ((1, 1), (2, 1)):
        (clone / "prices.json").write_text(f'{{"turn": {turn}}}\n')
        (clone / "prices-vast.json").write_text('{"open": 1}\n')
        (tmp_path / "output").write_text("")
        sh(run["Hand it on"], clone)
        handed = (tmp_path / "output").read_text().removeprefix("prices=").strip()
        for name in ("prices.json", "prices-vast.json"):
            (clone / name).unlink()
        sh(run["Open or renew the pull request"], clone, PRICES=handed)
        assert sh("git show origin/prices:prices.json", clone) == f'{{"turn": {turn}}}\n'
        assert sh("git show origin/prices:prices-vast.json", clone) == '{"open": 1}\n'
        assert log.read_text().count("pr create") == pulls
        sh("git checkout -q main && git branch -q -D prices", clone)
    sh("git merge -q origin/prices && git push -q origin main", clone)
    assert "the prices are the same" in sh(run["Open or renew the pull request"], clone, PRICES=handed)


def test_train_reconciles_main_one_at_a_time_and_nothing_that_waits_is_cancelled() -> None:
    train = WORKFLOWS["train"]
    assert train["on"]["push"] == {"branches": ["main"], "paths": ["jobs/**", "pushtrain-policy.yaml"]}
    assert set(train["on"]) == {"push", "schedule", "workflow_dispatch"} and "concurrency" not in train
    groups = [job["concurrency"] for job in train["jobs"].values()]
    assert all(it["queue"] == "max" and not it.get("cancel-in-progress") for it in groups)
    assert len({it["group"] for it in groups}) == len(groups), "what is asked for by hand does not wait for a follower"
    enabled = "vars.PUSHTRAIN_ENABLED == 'true' && "
    for name in KEYS:
        job = train["jobs"][name]
        assert job["environment"] == "gpu" and job["steps"][0]["with"]["ref"] == "main"
        assert enabled.rstrip("& ") in job["if"]
    assert train["jobs"]["end"]["if"].startswith("${{ always() && ") and train["jobs"]["end"]["needs"]


def test_the_time_box_of_the_reconcile_ends_before_its_job_does() -> None:
    job = WORKFLOWS["train"]["jobs"]["reconcile"]
    run = job["steps"][-1]["run"]
    assert int(run.rsplit("--max-minutes ", 1)[1]) + 15 <= job["timeout-minutes"]


def test_what_has_keys_is_the_step_s_own_process_so_that_a_cancel_reaches_it() -> None:
    for job, named in KEYS.items():
        (run,) = (it["run"] for it in WORKFLOWS["train"]["jobs"][job]["steps"] if it.get("name") == named)
        calls = [line for line in run.splitlines() if "pushtrain" in line]
        assert calls and all("exec uv run --no-sync pushtrain" in line for line in calls), run


def test_the_hourly_tick_is_off_the_full_hour() -> None:
    (tick,) = WORKFLOWS["train"]["on"]["schedule"]
    minute, *rest = tick["cron"].split()
    assert rest == ["*"] * 4
    assert 5 < int(minute) < 55
    assert int(minute) % 15


def test_a_run_of_the_ledger_starts_no_workflow() -> None:
    """Its branches are pushed with a token whose pushes do start workflows."""
    assert all(it["on"]["push"]["branches"] == ["main"] for it in WORKFLOWS.values() if "push" in it["on"])


def test_uv_is_the_same_everywhere() -> None:
    versions = {step["with"]["version"] for name in WORKFLOWS for step in steps(name) if "setup-uv" in str(step)}
    assert versions == set(re.findall(r"uv==([\d.]+)", (ROOT / "Makefile").read_text(encoding="utf-8")))


@pytest.mark.skipif(ZIZMOR is None, reason="zizmor is not installed: the workflows were not audited")
def test_zizmor_finds_nothing() -> None:
    done = _lint(str(ZIZMOR), "--offline", "--no-config", "--quiet", "--persona=auditor")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(ACTIONLINT is None, reason="neither actionlint nor go is on PATH")
@pytest.mark.timeout(1000)  # Go compiles it where that was never done before
def test_actionlint_finds_nothing() -> None:
    assert ACTIONLINT is not None
    done = _lint(*ACTIONLINT)
    assert done.returncode == 0, done.stdout + done.stderr


def _lint(*command: str) -> subprocess.CompletedProcess[str]:
    paths = [str(path) for path in PATHS]
    return subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
