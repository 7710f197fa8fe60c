"""Desired state: the job specs of the commit at HEAD, and nothing of the work tree."""

import subprocess
from pathlib import Path

import pytest
from git_world import git_environ

from pushtrain.desired import desired, lock_digest
from pushtrain.errors import LedgerError, SpecError
from pushtrain.source import GitSource

SPEC = """\
version: 1
name: {name}
model: {{id: demo/base}}
data: {{path: data/x.jsonl}}
compute: {{gpus: [NVIDIA A40]}}
budget: {{max_hours: 1, max_usd: 1}}
publish: {{repo: demo/{name}}}
"""


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = git_environ(root.parent)
        root.mkdir()
        self.git("init", "-q")
        self.write("data/x.jsonl", "{}\n")

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", *args], cwd=self.root, env=self.env, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a commit")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    for name, value in git_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    return Tree(tmp_path / "repo")


def test_every_spec_of_the_commit_is_wanted(tree: Tree) -> None:
    for path in ("jobs/a.yaml", "jobs/b.yml"):
        tree.write(path, SPEC.format(name=Path(path).stem))
    tree.write("jobs/notes.txt", "no spec")
    tree.write("jobs/more/c.yaml", SPEC.format(name="c"))
    commit = tree.commit()
    wanted = desired(tree.root)
    assert (wanted.commit, sorted(wanted.jobs), sorted(wanted.named), wanted.problems) == (
        commit,
        ["a", "b"],
        ["a", "b"],
        (),
    )
    job = wanted.jobs["a"]
    assert (job.spec_path, job.text, job.commit) == ("jobs/a.yaml", SPEC.format(name="a").encode(), commit)
    assert job.run("file:///r").id == f"a-{commit[:8]}-{job.spec.digest[:8]}"
    assert job.claim == f"a-{job.spec.digest[:8]}"


def test_the_work_tree_does_not_count(tree: Tree) -> None:
    file = tree.write("jobs/a.yaml", SPEC.format(name="a"))
    tree.commit()
    file.write_text("broken [")
    tree.write("jobs/b.yaml", SPEC.format(name="b"))
    assert sorted(desired(tree.root).jobs) == ["a"]
    file.unlink()
    tree.git("add", "-A")
    assert sorted(desired(tree.root).jobs) == ["a"]


def test_a_spec_that_cannot_be_read_is_a_problem_and_no_deletion(tree: Tree) -> None:
    tree.write("jobs/good.yaml", SPEC.format(name="good"))
    tree.write("jobs/broken.yaml", "name: [")
    tree.write("jobs/other.yaml", SPEC.format(name="renamed"))
    tree.write("jobs/huge.yaml", "#" * 10_000_000)
    tree.write("jobs/empty.yaml", "")
    (tree.root / "jobs/binary.yaml").write_bytes(b"\x00\xff\xfe")
    tree.commit()
    wanted = desired(tree.root)
    assert sorted(wanted.jobs) == ["good"]
    assert wanted.named == {"good", "broken", "other", "huge", "empty", "binary"}
    assert sorted((problem.where or "").split(":")[0] for problem in wanted.problems) == [
        f"jobs/{name}.yaml" for name in ("binary", "broken", "empty", "huge", "other")
    ]


def test_data_that_is_not_in_the_commit_is_a_problem(tree: Tree) -> None:
    tree.write("jobs/a.yaml", SPEC.format(name="a"))
    tree.write("jobs/later.yaml", SPEC.format(name="later") + "suspend: true\n")
    (tree.root / "data/x.jsonl").rename(tree.root / "data/y.jsonl")
    tree.commit()
    wanted = desired(tree.root)
    assert list(wanted.jobs) == ["later"]  # a suspended job may wait for its data
    assert "data/x.jsonl" in str(wanted.problems[0])
    assert "git add data/x.jsonl" in (wanted.problems[0].hint or "")


def test_one_name_is_one_job(tree: Tree) -> None:
    tree.write("jobs/a.yaml", SPEC.format(name="a"))
    tree.write("jobs/a.yml", SPEC.format(name="a"))
    tree.commit()
    wanted = desired(tree.root)
    assert wanted.jobs["a"].spec_path == "jobs/a.yaml"
    assert [str(problem) for problem in wanted.problems] == ["jobs/a.yml: the name 'a' is taken by jobs/a.yaml"]


def test_a_link_is_no_spec(tree: Tree) -> None:
    tree.write("elsewhere.yaml", SPEC.format(name="a"))
    (tree.root / "jobs").mkdir()
    (tree.root / "jobs/a.yaml").symlink_to("../elsewhere.yaml")
    tree.commit()
    wanted = desired(tree.root)
    assert (wanted.jobs, wanted.problems) == ({}, ())


@pytest.mark.parametrize("is_file", [False, True])
def test_a_repository_without_a_jobs_folder_wants_nothing(tree: Tree, is_file: bool) -> None:
    if is_file:
        tree.write("jobs", "a file")
    tree.commit()
    assert desired(tree.root).jobs == {}


def test_specs_are_read_once_for_each_commit(tree: Tree) -> None:
    tree.write("jobs/a.yaml", SPEC.format(name="a"))
    tree.git("add", ".")
    tree.git("commit", "-qm", "a")
    source = GitSource(tree.root, "", token=None)
    first = source.desired()
    tree.write("jobs/b.yaml", SPEC.format(name="b"))
    tree.git("add", ".")
    assert source.desired() is first
    tree.git("commit", "-qm", "b")
    assert list(source.desired().jobs) == ["a", "b"]


def test_a_remote_lacks_what_was_not_pushed_and_nobody_guesses_where_it_does_not_answer(
    tree: Tree, tmp_path: Path
) -> None:
    first, url = tree.commit(), f"file://{tmp_path / 'origin.git'}"
    tree.git("clone", "-q", "--bare", ".", str(tmp_path / "origin.git"))
    tree.write("jobs/a.yaml", SPEC.format(name="a"))
    second = tree.commit()
    source = GitSource(tree.root, url, token=None)
    assert (source.lacks(first), source.lacks(second)) == (False, True)
    tree.git("push", "-q", url, f"{second}:refs/heads/topic")
    assert not source.lacks(second)
    assert not GitSource(tree.root, f"{url}-away", token=None).lacks(second)


def test_a_shallow_clone_asks_for_a_commit_that_lies_behind_the_tip(tree: Tree, tmp_path: Path) -> None:
    first, url = tree.commit(), f"file://{tmp_path / 'origin.git'}"
    tree.git("clone", "-q", "--bare", ".", str(tmp_path / "origin.git"))
    tree.git("clone", "-q", url, str(tmp_path / "shallow"), "--depth=1")
    tree.write("jobs/a.yaml", SPEC.format(name="a"))
    tree.git("push", "-q", url, f"{tree.commit()}:refs/heads/{tree.git('branch', '--show-current')}")
    assert not GitSource(tmp_path / "shallow", url, token=None).lacks(first)


def test_without_a_commit_it_says_what_to_do(tree: Tree) -> None:
    with pytest.raises(SpecError, match="no commit yet") as caught:
        desired(tree.root)
    assert "git commit" in (caught.value.hint or "")


def test_a_repository_that_git_refuses_to_read_is_named(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.commit()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container that runs as another user
    with pytest.raises(LedgerError, match="git cannot read") as caught:
        desired(tree.root)
    assert "git -C" in (caught.value.hint or "")


def test_a_detached_head_counts(tree: Tree) -> None:
    tree.write("jobs/a.yaml", SPEC.format(name="a"))
    first = tree.commit()
    tree.write("jobs/b.yaml", SPEC.format(name="b"))
    tree.commit()
    tree.git("checkout", "-q", "--detach", first)
    assert (desired(tree.root).commit, list(desired(tree.root).jobs)) == (first, ["a"])


def test_the_lock_is_named_by_its_content_at_head(tree: Tree) -> None:
    tree.commit()
    assert lock_digest(tree.root) is None
    tree.write("uv.lock", "version = 1\n")
    tree.commit()
    assert lock_digest(tree.root) == tree.git("hash-object", "uv.lock")


def test_the_script_of_a_command_has_to_be_executable_in_the_commit(tree: Tree) -> None:
    spec = "version: 1\nname: run\ntask: command\ncommand: {run: tools/run.sh}\n"
    tree.write("jobs/run.yaml", spec + "compute: {gpus: [NVIDIA A40]}\nbudget: {max_hours: 1, max_usd: 1}\n")
    tree.commit()
    (problem,) = desired(tree.root).problems
    assert "command.run: 'tools/run.sh' is not in commit" in str(problem)
    script = tree.write("tools/run.sh", "#!/bin/sh\n")
    tree.commit()
    (problem,) = desired(tree.root).problems
    assert "is not executable in commit" in str(problem) and "chmod=+x tools/run.sh" in (problem.hint or "")
    script.chmod(0o755)
    tree.commit()
    assert set(desired(tree.root).jobs) == {"run"}
