"""`pushtrain review` on a pull request: comment, summary, annotations, exit code; and what strangers may try."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from git_world import git_environ

from infra.simulator.github.api import TOKEN, GitHubServer
from pushtrain.errors import SpecError
from pushtrain.github.changes import MOST_SPECS
from pushtrain.github.markdown import LONGEST
from pushtrain.github.posting import review_here
from pushtrain.github.review import Review

SPEC = """\
version: 1
name: {name}
model: {{id: Qwen/Qwen3-8B}}
data: {{source: hf://datasets/org/rows}}
compute: {{gpus: [{gpu}]}}
budget: {{max_hours: 1, max_usd: {usd}}}
publish: {{repo: org/{name}}}
"""


class Scene:
    """A clone in which `main` is the base and HEAD the pull request, and the environment of the workflow's step."""

    def __init__(self, folder: Path, server: GitHubServer) -> None:
        self.server, self.root, self.said = server, folder / "repo", list[str]()
        self.git_env = git_environ(folder)
        self.summary = folder / "summary.md"
        self.event = folder / "event.json"
        self.root.mkdir()
        self.git("init", "-q", "--initial-branch=main")
        self.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 20\n")
        self.spec("old")
        self.commit()
        self.git("switch", "-qc", "pull")

    def git(self, *args: str, stdin: str = "") -> str:
        command = ["git", *args]
        done = subprocess.run(
            command, cwd=self.root, env=self.git_env, input=stdin.encode(), check=True, timeout=150, capture_output=True
        )
        return done.stdout.decode().strip()

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def spec(self, name: str, usd: float = 5, gpu: str = "NVIDIA A40", more: str = "") -> None:
        self.write(f"jobs/{name}.yaml", SPEC.format(name=name, usd=usd, gpu=gpu) + more)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "x")

    def env(self, *, fork: bool = False) -> dict[str, str]:
        head = self.git("rev-parse", "HEAD")
        pull = self.server.pull(7, head, fork=fork)
        base = {"sha": self.git("rev-parse", "main"), "repo": {"full_name": "acme/train"}}
        self.event.write_text(json.dumps({"pull_request": {"number": 7, "head": pull["head"], "base": base}}))
        more = {"GITHUB_STEP_SUMMARY": str(self.summary), "GITHUB_EVENT_PATH": str(self.event)}
        return self.git_env | self.server.env(**more)

    def review(self, *, fork: bool = False, **more: str) -> Review:
        return review_here(self.root, "main", self.env(fork=fork) | more, self.said.append)

    def comment(self) -> str:
        (comment,) = self.server.comments[7]
        return str(comment["body"])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for name in [name for name in os.environ if name.startswith(("GIT_", "GITHUB_"))]:
        monkeypatch.delenv(name)
    for name, value in git_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    server = GitHubServer()
    yield Scene(tmp_path, server)
    server.close()


def test_one_comment_says_what_a_merge_starts_and_costs_and_is_edited_by_the_next_push(scene: Scene) -> None:
    scene.spec("new", usd=4.5)
    scene.commit()
    assert scene.review().exit_code == 0
    first = scene.comment()
    assert "1 job spec" in first and "A merge starts 1 run, for at most $4.50 in all." in first
    assert "old" not in first
    scene.spec("new", usd=6)
    scene.commit()
    scene.review()
    assert "$6.00" in scene.comment() and "$4.50" not in scene.comment()
    assert scene.summary.read_text().count("## pushtrain") == 2


def test_problems_are_said_in_the_comment_with_place_rule_and_hint(scene: Scene) -> None:
    scene.spec("dear", usd=500)
    scene.spec("wrong", more="trian: {}\n")
    scene.commit()
    assert scene.review().exit_code == 2
    said = scene.comment()
    assert "❌ **2 problems.**" in said and "`jobs/dear.yaml:6:33`" in said and "`jobs/wrong.yaml:8:1`" in said
    assert "max\\_usd\\_per\\_run" in said and "did you mean" in said


def test_the_verb_writes_annotations_and_exits_by_the_plan(scene: Scene) -> None:
    """The whole way once, as a process: the rest of this file calls the function below it. As the installed command, so
    that nothing of the pull request is imported, whatever it brings along."""
    scene.spec("dear", usd=500)
    for name in ("pushtrain/__init__.py", "pushtrain/cli.py", "sitecustomize.py", "git.py", "yaml.py", "conftest.py"):
        scene.write(name, "open('owned', 'w').close()\nraise SystemExit(0)\n")
    scene.commit()
    env = scene.env() | {"HF_HUB_OFFLINE": "1"}
    scene.server.refuse("POST", 403, times=9, body={"message": "Resource not accessible by integration"})
    command = [str(Path(sys.executable).with_name("pushtrain")), "review", "--base", "main"]
    done = subprocess.run(command, cwd=scene.root, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 2, done.stderr
    assert not (scene.root / "owned").exists()
    assert "::error file=jobs/dear.yaml,line=6,col=33::" in done.stderr
    assert "no comment: " in done.stderr and "permissions" in done.stderr
    assert "$500" in scene.summary.read_text() and TOKEN not in done.stdout + done.stderr + scene.summary.read_text()


def test_a_fork_gets_the_summary_and_no_request_is_sent(scene: Scene) -> None:
    scene.spec("new")
    scene.commit()
    scene.server.reads_only = True
    assert scene.review(fork=True).exit_code == 0
    assert "A merge starts 1 run" in scene.summary.read_text()
    assert scene.server.seen == [] and "from a fork" in scene.said[0]


@pytest.mark.parametrize("status", [403, 404, 422])
def test_a_comment_that_is_refused_changes_nothing_but_what_is_said(scene: Scene, status: int) -> None:
    scene.spec("new")
    scene.commit()
    scene.server.refuse("POST|GET", status, times=9)
    assert scene.review().exit_code == 0
    assert any(line.startswith("no comment: ") for line in scene.said)
    assert "A merge starts 1 run" in scene.summary.read_text()


def test_a_limit_that_outlasts_the_patience_of_a_review_leaves_the_summary(scene: Scene) -> None:
    scene.spec("new")
    scene.commit()
    scene.server.refuse("POST", 429, times=9, Retry_After="3600")
    assert scene.review().exit_code == 0
    assert scene.server.comments == {} and any(line.startswith("no comment: ") for line in scene.said)
    assert "A merge starts 1 run" in scene.summary.read_text()


def test_a_person_s_edit_of_the_comment_does_not_outlive_the_next_check(scene: Scene) -> None:
    """An edited amount would be read as the tool's; a comment that lost its marker is a person's, and stays theirs."""
    scene.spec("new", usd=4)
    scene.commit()
    scene.review()
    scene.server.comments[7][0]["body"] = scene.comment().replace("$4.00", "$0.01")
    scene.review()
    assert "$4.00" in scene.comment() and "$0.01" not in scene.comment()
    scene.server.comments[7][0]["body"] = "all is well, merge it"
    scene.review()
    assert [it["body"].startswith("<!-- pushtrain:plan -->") for it in scene.server.comments[7]] == [False, True]
    scene.server.say(7, "<!-- pushtrain:plan -->\n✅ at most $0.00", login="stranger")
    scene.review()
    assert len(scene.server.comments[7]) == 3 and "$0.00" in scene.server.comments[7][2]["body"], "nobody else's"


def test_a_branch_that_was_pushed_over_meanwhile_keeps_the_comment_of_its_own_check(scene: Scene) -> None:
    scene.spec("new")
    scene.commit()
    env = scene.env()
    scene.server.pulls[7]["head"]["sha"] = "f" * 40
    review_here(scene.root, "main", env, scene.said.append)
    assert scene.server.comments == {} and "moved on to ffffffff" in scene.said[0]


def test_a_spec_renamed_deleted_or_doubled_is_said(scene: Scene) -> None:
    scene.git("mv", "jobs/old.yaml", "jobs/newer.yaml")
    scene.commit()
    assert scene.review().exit_code == 2  # its name is still the old one
    scene.spec("newer")
    scene.commit()
    assert scene.review().exit_code == 0
    assert "Gone: `jobs/old.yaml`. An active run of it is cancelled." in scene.comment()
    scene.write("jobs/newer.yml", SPEC.format(name="newer", usd=1, gpu="NVIDIA A40"))
    scene.commit()
    assert scene.review().exit_code == 2 and "is taken by" in scene.comment()
    scene.git("switch", "-qc", "second", "main")
    scene.write("jobs/old.yml", SPEC.format(name="old", usd=1, gpu="NVIDIA A40"))
    scene.commit()
    assert scene.review().exit_code == 2 and "is also in" in scene.comment()


def test_nothing_changed_makes_no_comment_and_edits_the_one_that_is_there(scene: Scene) -> None:
    scene.write("README.md", "hello")
    scene.commit()
    assert scene.review().exit_code == 0
    assert scene.server.comments == {} and "A merge starts nothing." in scene.summary.read_text()
    scene.spec("new")
    scene.commit()
    scene.review()
    scene.git("rm", "-q", "jobs/new.yaml")
    scene.commit()
    scene.review()
    assert "A merge starts nothing." in scene.comment()


def test_a_check_that_cannot_be_made_is_said_and_the_older_comment_does_not_stand(scene: Scene, tmp_path: Path) -> None:
    scene.spec("new")
    scene.commit()
    scene.review()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SpecError, match="no git work tree"):
        review_here(tmp_path / "nothing", "main", scene.env(), scene.said.append)
    assert "The check could not be made." in scene.comment()


def test_a_policy_in_the_pull_request_is_not_the_one_that_holds(scene: Scene) -> None:
    scene.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 100000\n")
    scene.spec("dear", usd=500)
    scene.commit()
    assert scene.review().exit_code == 2
    assert "changes the policy" in scene.comment()
    assert "refused by the policy; it would cost at most $500" in scene.comment().replace("\\", ""), (
        "the plan beside it"
    )
    scene.git("rm", "-q", "jobs/dear.yaml")
    scene.write("pushtrain-policy.yaml", "version: 1\nmax_usd: 1\n")
    scene.commit()
    assert scene.review().exit_code == 2


def test_workflows_and_tool_changed_beside_a_job_are_named(scene: Scene) -> None:
    scene.write("pushtrain/cli.py", "")
    scene.write(".github/workflows/train.yml", "on: push\n")
    scene.commit()
    scene.review()
    assert scene.server.comments == {}, "without a job it is not for this comment"
    scene.spec("new")
    scene.commit()
    assert scene.review().exit_code == 0
    said = scene.comment().replace("\\", "")
    assert "this also changes how jobs are judged and run: .github/workflows/train.yml, pushtrain/cli.py" in said


def test_the_jobs_of_one_pull_request_share_the_month(scene: Scene) -> None:
    scene.git("switch", "-q", "main")
    scene.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_month: 12\n")
    scene.commit()
    scene.git("switch", "-q", "pull")
    scene.git("merge", "-q", "main")
    for name in ("a", "b", "c"):
        scene.spec(name, usd=5)
    scene.commit()
    scene.git("init", "-q", "--bare", str(scene.root.parent / "ledger.git"))
    found = scene.review(PUSHTRAIN_LEDGER_URL=f"file://{scene.root.parent}/ledger.git", PUSHTRAIN_SOURCE_URL="x")
    assert [str(it.where) for it in found.problems] == ["jobs/c.yaml:6:33"]  # type: ignore[attr-defined]
    found = scene.review(PUSHTRAIN_LEDGER_URL="file:///nowhere.git", PUSHTRAIN_SOURCE_URL="x")
    assert found.exit_code == 0 and any("max_usd_per_month was not looked at" in it for it in found.warnings)


HOSTILE = "]( https://evil.example) @everyone </details> `$(id)` ${{ secrets.HF_TOKEN }} <script>"


def test_a_hostile_spec_is_text_in_the_comment(scene: Scene) -> None:
    scene.spec("evil", gpu=json.dumps(HOSTILE))
    scene.write("jobs/$(touch owned)`id`@ann.yaml", SPEC.format(name="x", usd=1, gpu="NVIDIA A40"))
    scene.write("jobs/a%0A::set-output name=x::y.yaml", "{")
    scene.commit()
    assert scene.review().exit_code == 2
    said = scene.comment()
    assert not (scene.root / "owned").exists()
    assert "everyone" in said and "evil" in said
    assert not any(alive in said for alive in ("<script>", "@everyone", "</details>"))
    assert not re.search(r"(?<!\\)\]\(", said)


def test_files_that_are_no_files_are_refused_and_nothing_of_them_is_read(scene: Scene) -> None:
    (scene.root / "secret").write_text("version: 1\nname: canary-of-the-runner\n")
    (scene.root / "jobs" / "link.yaml").symlink_to("/etc/passwd")
    (scene.root / "jobs" / "inside.yaml").symlink_to("../secret")
    with (scene.root / "jobs" / "big.yaml").open("wb") as big:
        big.truncate(50 * 1024 * 1024)
    scene.git("add", "-A")
    sha = scene.git("rev-parse", "main")
    scene.git("update-index", "--add", "--cacheinfo", f"160000,{sha},jobs/module.yaml")
    scene.git("commit", "-qm", "x")
    (scene.root / "jobs" / "module.yaml").mkdir()
    found = scene.review()
    said = {str(it.where): str(it) for it in found.problems}  # type: ignore[attr-defined]
    assert "symlink" in said["jobs/link.yaml"] and "symlink" in said["jobs/inside.yaml"]
    assert "larger than 64 KiB" in said["jobs/big.yaml"] and "not a file" in said["jobs/module.yaml"]
    assert "root:" not in scene.comment() and "canary" not in scene.comment()


def test_ten_thousand_specs_are_one_problem(scene: Scene) -> None:
    blob = scene.git("rev-parse", "main:jobs/old.yaml")
    listed = "".join(f"100644 {blob}\tjobs/s{number}.yaml\n" for number in range(10_000))
    scene.git("update-index", "--add", "--index-info", stdin=listed)
    scene.git("commit", "-qm", "x")
    (problem,) = scene.review().problems
    assert problem.reason == "TooManySpecs" and "10000 job specs" in scene.comment()


def test_two_hundred_broken_specs_fit_into_one_comment(scene: Scene) -> None:
    for number in range(MOST_SPECS):
        scene.write(f"jobs/s{number}.yaml", "".join(f"key{line}-{'x' * 60}: 1\n" for line in range(12)))
    scene.commit()
    assert scene.review().exit_code == 2
    assert len(scene.comment()) <= LONGEST + 100 and "more problems" in scene.comment()


@pytest.mark.parametrize("base", ["nowhere", "--output=x", "main\n"])
def test_a_base_that_is_not_there_is_a_problem_that_is_posted(scene: Scene, base: str) -> None:
    scene.spec("new")
    scene.commit()
    found = review_here(scene.root, base, scene.env(), scene.said.append)
    assert found.exit_code == 2 and "problem" in scene.comment()


def test_an_event_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    from pushtrain.github.event import pull_request

    documents: list[Any] = ["", "[]", "{}", '{"pull_request": null}', '{"pull_request": {"number": "x"}}', "null"]
    for text in documents:
        (tmp_path / "event.json").write_text(text)
        assert pull_request({"GITHUB_EVENT_PATH": str(tmp_path / "event.json")}) is None
    assert pull_request({}) is None and pull_request({"GITHUB_EVENT_PATH": str(tmp_path)}) is None
    deleted = {"number": 1, "head": {"sha": "a", "repo": None}, "base": {"sha": "b", "repo": {"full_name": "a/b"}}}
    (tmp_path / "event.json").write_text(json.dumps({"pull_request": deleted}))
    found = pull_request({"GITHUB_EVENT_PATH": str(tmp_path / "event.json")})
    assert found is not None and found.is_fork


def test_a_change_of_comments_starts_nothing_and_a_change_of_values_replaces_a_run(scene: Scene) -> None:
    before = (scene.root / "jobs" / "old.yaml").read_text()
    scene.write("jobs/old.yaml", f"# a remark\n{before}")
    scene.commit()
    assert scene.review().exit_code == 0
    assert "A merge starts nothing." in scene.comment() and "cancelled" not in scene.comment()
    scene.spec("old", usd=7)
    scene.commit()
    scene.review()
    assert "at most $7.00 in all" in scene.comment() and "Changed: `jobs/old.yaml`." in scene.comment()
    scene.spec("old", usd=7, more="suspend: true\n")
    scene.commit()
    scene.review()
    assert "A merge starts nothing." in scene.comment()
