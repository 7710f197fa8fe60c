"""`init`: an existing repository gets what it needs, keeps what it has, and nothing is half done."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from git_world import git_environ
from ruamel.yaml import YAML

from pushtrain.check import check
from pushtrain.doctor.finding import Check
from pushtrain.doctor.tools import stale_findings, train_workflow
from pushtrain.errors import PushtrainError, SpecError
from pushtrain.init import PROJECT, WORKFLOWS, init, templates
from pushtrain.pod.tool import ASIDE, tool_folder

ZIZMOR = shutil.which("zizmor", path=sysconfig.get_path("scripts"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    subprocess.run(["git", "init", "-q", str(made)], env=git_environ(tmp_path), check=True, timeout=150)
    (made / "README.md").write_text("mine\n")
    return made


def everything(root: Path) -> dict[str, bytes]:
    return {
        str(it.relative_to(root)): it.read_bytes() for it in root.rglob("*") if it.is_file() and ".git/" not in str(it)
    }


def test_what_is_written_is_whole_and_a_second_time_nothing_is(repository: Path) -> None:
    done = init(repository)
    assert not done.replaced and "wrote .github/workflows/train.yml" in done.as_text()
    assert "uv run pushtrain doctor" in done.next_steps()
    assert (repository / "README.md").read_text() == "mine\n"
    found = check([], repository)
    assert not found.problems and [(it.name, it.suspend) for it in found.specs] == [("gpu-check", True)]
    assert train_workflow(repository) == ("main", "gpu")
    assert (repository / "pushtrain/pod/watchdog.py").is_file() and not list(repository.rglob("*.pyc"))
    before = everything(repository)
    assert init(repository / "jobs").as_text() == "everything is there already"
    assert everything(repository) == before


def test_what_says_something_else_is_kept_and_then_nothing_is_written(repository: Path) -> None:
    (repository / "jobs").mkdir()
    (repository / "jobs" / "gpu-check.yaml").write_text("mine\n")
    before = everything(repository)
    with pytest.raises(PushtrainError, match=r"different: jobs/gpu-check\.yaml") as refused:
        init(repository)
    assert "--force" in str(refused.value.hint) and everything(repository) == before
    assert init(repository, force=True).replaced == ("jobs/gpu-check.yaml",)
    assert "SECONDS_TO_RUN" in (repository / "jobs" / "gpu-check.yaml").read_text()


@pytest.mark.parametrize("taken", ["pyproject.toml", "infra/main.tf", "trainer/__init__.py", "Pulumi.yaml"])
def test_a_project_of_its_own_stays_alone_and_the_tool_goes_beside_it(repository: Path, taken: str) -> None:
    (repository / taken).parent.mkdir(exist_ok=True)
    (repository / taken).write_text("[project]\nname = 'mine'\n")
    (repository / ".gitignore").write_text("/.venv\n")
    done = init(repository)
    assert (
        not done.replaced and done.tool == ASIDE and "files of the tool in tools/pushtrain/pushtrain/" in done.as_text()
    )
    assert done.as_text().endswith("add to .gitignore: .pushtrain/")
    assert tool_folder(repository) == repository / ASIDE
    assert "uv run --project tools/pushtrain pushtrain doctor" in done.next_steps()
    at_the_top = {path.split("/")[0] for path in done.made}
    assert at_the_top == {".github", "jobs", "pushtrain-policy.yaml", "tools"}
    assert {"tools/pushtrain/pyproject.toml", "tools/pushtrain/uv.lock", "tools/pushtrain/README.md"} <= set(done.made)
    assert (repository / taken).read_text().startswith("[project]\nname = 'mine'")
    assert not check([], repository).problems
    assert init(repository).as_text().startswith("everything is there already")


def test_workflows_point_to_the_tool_wherever_it_is(repository: Path) -> None:
    top = templates(repository)
    assert all(text == (PROJECT / name).read_bytes() for name, text in top.items())
    (repository / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    moved = {Path(name).stem: YAML(typ="safe").load(text) for name, text in templates(repository).items()}
    assert sorted(moved) == ["prices", "review", "train"]
    runs = [
        step["run"] for it in moved.values() for job in it["jobs"].values() for step in job["steps"] if "run" in step
    ]
    calls = [line for run in runs for line in run.splitlines() if "uv " in line or "bin/pushtrain" in line]
    assert len(calls) > 8 and all(ASIDE in line for line in calls), calls
    review = moved["review"]["jobs"]["plan"]["steps"]
    assert [step["working-directory"] for step in review if "run" in step] == ["tool", "change"]


@pytest.mark.parametrize("aside", [False, True])
def test_doctor_names_what_is_of_another_version_with_the_command(repository: Path, aside: bool) -> None:
    if aside:
        (repository / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    init(repository)
    (found,) = stale_findings(repository, Check("workflows"))
    assert found.verdict == "ok" and "workflows and tool are those of" in found.message
    train, tool = repository / WORKFLOWS[-1], tool_folder(repository) / "pushtrain" / "cli.py"
    train.write_text(train.read_text() + "# older\n")
    tool.write_text("# older\n")
    (repository / WORKFLOWS[0]).unlink()  # nobody has to have prices.yml
    stale, other = stale_findings(repository, Check("workflows"))
    assert (stale.verdict, other.verdict) == ("warning", "warning")
    assert stale.message.startswith(f"{WORKFLOWS[-1]}: not what init") and "init --force" in stale.fix
    assert other.message.startswith("1 of ") and other.message.endswith("pushtrain/cli.py")
    init(repository, force=True)
    assert [it.verdict for it in stale_findings(repository, Check("workflows"))] == ["ok"]
    assert list(stale_findings(PROJECT, Check("workflows"))) == [], "asked by its own copy"


@pytest.mark.skipif(ZIZMOR is None, reason="zizmor is not installed: the workflows were not audited")
def test_the_workflows_beside_a_project_are_clean_too(repository: Path) -> None:
    (repository / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    init(repository)
    command = [str(ZIZMOR), "--offline", "--no-config", "--quiet", "--persona=auditor", ".github/workflows"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_link_out_of_the_repository_is_not_followed(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (repository / ".github").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PushtrainError, match="link"):
        init(repository, force=True)
    assert not list((tmp_path / "elsewhere").iterdir()) and not (repository / "jobs").exists()


def test_outside_a_repository_and_without_templates_it_says_so(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(SpecError, match="not inside a git work tree"):
        init(tmp_path)
    with pytest.raises(PushtrainError, match="without its workflows"):
        init(repository, source=tmp_path)
