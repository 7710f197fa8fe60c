"""`init`: an existing repository gets what it needs, keeps what it has, and nothing is half done."""

import subprocess
from pathlib import Path

import pytest
from git_world import git_environ

from pushtrain.check import check
from pushtrain.doctor.tools import train_workflow
from pushtrain.errors import PushtrainError, SpecError
from pushtrain.init import init


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    subprocess.run(["git", "init", "-q", str(made)], env=git_environ(tmp_path), check=True, timeout=20)
    (made / "README.md").write_text("mine\n")
    return made


def everything(root: Path) -> dict[str, bytes]:
    return {
        str(it.relative_to(root)): it.read_bytes() for it in root.rglob("*") if it.is_file() and ".git/" not in str(it)
    }


def test_what_is_written_is_whole_and_a_second_time_nothing_is(repository: Path) -> None:
    done = init(repository)
    assert not done.replaced and "wrote .github/workflows/train.yml" in done.as_text()
    assert (repository / "README.md").read_text() == "mine\n"
    found = check([], repository)
    assert not found.problems and [(it.name, it.suspend) for it in found.specs] == [("gpu-check", True)]
    assert train_workflow(repository) == ("main", "gpu")
    assert (repository / "pushtrain/pod/watchdog.py").is_file() and not list(repository.rglob("*.pyc"))
    before = everything(repository)
    assert init(repository / "jobs").as_text() == "everything is there already"
    assert everything(repository) == before


def test_what_says_something_else_is_kept_and_then_nothing_is_written(repository: Path) -> None:
    (repository / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    before = everything(repository)
    with pytest.raises(PushtrainError, match="different: pyproject") as refused:
        init(repository)
    assert "--force" in str(refused.value.hint) and everything(repository) == before
    assert init(repository, force=True).replaced == ("pyproject.toml",)
    assert 'name = "pushtrain"' in (repository / "pyproject.toml").read_text()


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
