"""A run as GitHub sees it: one comment, statuses on changes only, a summary; and a GitHub that does not answer."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from climb_world import COMMIT, World

from infra.simulator.github.api import TOKEN, GitHubServer
from infra.simulator.github.state import REPO
from pushtrain.control import Control
from pushtrain.events import EventDraft
from pushtrain.github.client import GitHub
from pushtrain.github.live import COMMENT_EVERY_S, QUIET_S, Live
from pushtrain.github.running import chart, section, status
from pushtrain.policy.file import parse_policy
from pushtrain.progress import Progress
from pushtrain.reconcile import Tick
from pushtrain.spec.file import loads

pytest_plugins = ("whole",)
COMMENT = f"/repos/{REPO}/issues"
RESULT = {
    "adapter": {"repo": "org/job", "revision": "a" * 40, "files": {}},
    "metrics": {"base_eval_loss": 5.0, "eval_loss": 1.25, "peak_gpu_memory_gb": 12.5},
    "samples": [{"prompt": "2 + 2", "expected": "4", "base": "@all ```<b>", "adapter": "</details> [x](http://y)"}],
}


class Scene:
    """One account and ledger, a pull request 7 that was squashed, and a control plane that tells GitHub."""

    def __init__(self, folder: Path) -> None:
        self.server, self.world = GitHubServer(), World(folder=folder)
        self.summary = folder / "summary.md"
        self.server.pull(7, "e" * 40)
        self.server.touched |= {f"jobs/{name}.yaml": COMMIT for name in ("job", "other")}
        self.server.pulls_of[COMMIT] = [7]
        self.env = self.server.env(GITHUB_STEP_SUMMARY=str(self.summary), GITHUB_RUN_ID="42")
        self.open()

    def open(self) -> None:
        """Another process: it knows what ledger, cloud and GitHub say, and nothing else."""
        self.control: Control = self.world.control()
        github = GitHub(REPO, token=TOKEN, api_url=self.server.url, retries=0)
        self.live = Live(github, self.control, self.env)

    def tick(self, seconds: float = 10.0) -> Tick:
        done = self.world.tick(self.control)
        self.live.after(done)
        self.world.sleep(seconds)
        return done

    def start(self, name: str = "job") -> None:
        self.world.running(self.control, name)
        for state in ("booting", "preparing", "training"):
            self.world.say(state, name=name)

    def metrics(self, first: int, last: int, name: str = "job") -> None:
        rows = [
            {"time": 1000.0 + 5 * step, "step": step, "total_steps": 100, "loss": 4.0 / step, "tokens_per_s": 1234.5}
            for step in range(first, last + 1)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        self.control.ledger.append(self.world.record(name).run_id, metrics=text)

    def finish(self, name: str = "job", state: str = "finished", **more: Any) -> None:
        """The pod's last word; the pod itself goes, too."""
        files = {"result.json": json.dumps(RESULT).encode()} if state == "finished" else {}
        draft = EventDraft(state=state, writer="pod", attempt=1, **more)
        self.world.control().ledger.append(self.world.record(name).run_id, events=[draft], files=files)

    def comment(self) -> str:
        (comment,) = self.server.comments[7]
        return str(comment["body"])

    def edits(self) -> int:
        return sum(it.startswith(("POST " + COMMENT, "PATCH " + COMMENT)) for it in self.server.seen)

    def statuses(self) -> list[tuple[str, str]]:
        return [(it["state"], it["description"]) for it in self.server.statuses]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.live.close()
    scene.server.close()


def test_the_comment_follows_a_run_every_few_minutes_and_ends_with_its_receipt(scene: Scene) -> None:
    scene.start()
    scene.metrics(1, 20)
    scene.tick()
    said = scene.comment()
    for words in ("training", "20 of 100, 20 %", "1,234", "about 7 min", "of at most $10.00", "0.2 `█", "NVIDIA A40"):
        assert words in said, (words, said)
    scene.metrics(21, 30)
    for _ in range(5):
        scene.tick()
    assert scene.edits() == 1
    scene.world.sleep(COMMENT_EVERY_S)
    scene.tick()
    assert scene.edits() == 2 and "30 of 100" in scene.comment()
    scene.finish()
    scene.tick()
    said = scene.comment()
    assert scene.edits() == 3 and "✅ `job` succeeded" in said
    assert (scene.world.record("job").receipt or {})["peak_gpu_memory_gb"] == 12.5, "the next plan goes by it"
    for words in (
        "5 → **1.25**",
        "mermaid",
        "xychart-beta",
        "1 sample output<",
        "receipt",
        "the cloud was asked twice",
    ):
        assert words in said, (words, said)
    assert f"[`org/job@aaaaaaaa`](https://huggingface.co/org/job/tree/{'a' * 40})" in said
    scene.tick()
    assert scene.edits() == 3


def test_text_of_data_and_model_stays_text(scene: Scene) -> None:
    scene.start()
    scene.finish()
    scene.tick()
    said = scene.comment()
    at = said.index("@all")
    fence = said[:at].rpartition("````")
    assert fence[1] and "````" in said[at:]  # a fence longer than the one in the answer
    assert said.index("</details> [x]") > said.rindex("```\n", 0, said.index("</details> [x]"))


@pytest.mark.parametrize("is_private", [True, False])
def test_samples_of_private_data_stand_in_a_private_repository_only(scene: Scene, is_private: bool) -> None:
    scene.server.private = is_private
    scene.world.job()
    job = scene.world.checkout.jobs["job"]
    text = job.text.replace(b"{path: data/rows.jsonl}", b"{source: hf://datasets/me/secret}")
    scene.world.checkout.jobs["job"] = replace(job, text=text, spec=loads(text, job.spec_path))
    scene.tick(70)
    assert scene.world.record().last.state == "provisioned"
    scene.finish()
    scene.tick()
    assert ("2 + 2" in scene.comment()) is is_private
    assert ("stand in the ledger alone" in scene.comment()) is not is_private


def test_another_process_goes_on_with_the_same_comment_and_tells_no_status_twice(scene: Scene) -> None:
    scene.start()
    scene.tick()
    told = scene.statuses()
    scene.live.close()
    scene.open()
    scene.tick()
    assert len(scene.server.comments[7]) == 1 and scene.edits() == 2
    assert scene.statuses() == told == [("pending", "training")]


def test_statuses_tell_changes_of_state_and_no_steps(scene: Scene) -> None:
    scene.start()
    for step in range(1, 6):
        scene.metrics(step, step)
        scene.tick()
    scene.finish(state="failed", reason="LossNotFinite", message="loss is NaN at step 5")
    scene.tick()
    assert [it[0] for it in scene.statuses()] == ["pending", "failure"]
    assert scene.statuses()[1][1].startswith("failed (LossNotFinite), $")
    assert scene.server.statuses[0]["context"] == "pushtrain/job"
    assert scene.server.statuses[0]["target_url"] == f"https://github.com/{REPO}/actions/runs/42"
    assert "LossNotFinite" in scene.comment() and "loss is NaN at step 5" in scene.comment()


def test_two_runs_of_one_commit_share_a_comment_also_after_one_is_long_over(scene: Scene) -> None:
    scene.start()
    scene.finish()
    scene.tick(2 * 3600)
    scene.tick()
    assert scene.control.ledger.look().open_runs == {}
    scene.live.close()
    scene.open()
    scene.start("other")
    scene.tick()
    assert "### `other` · training" in scene.comment() and "✅ `job` succeeded" in scene.comment()


def test_a_commit_of_many_jobs_is_asked_for_all_its_statuses(scene: Scene) -> None:
    for number in range(230):
        scene.server.statuses.append({"sha": COMMIT, "context": f"ci/{number}", "state": "success"})
    scene.server.statuses.append(
        {"sha": COMMIT, "context": "pushtrain/job", "state": "pending", "description": "training"}
    )
    scene.start()
    scene.tick()
    assert len(scene.server.statuses) == 231
    assert scene.server.seen.count(f"GET /repos/{REPO}/commits/{COMMIT}/status") == 3


def test_what_the_policy_refuses_has_a_status_and_no_comment(scene: Scene) -> None:
    scene.world.job(max_usd=10.0)
    scene.world.checkout.policy = parse_policy(b"version: 1\nmax_usd_per_run: 5\n")
    scene.tick()
    scene.tick()
    ((state, text),) = scene.statuses()
    assert state == "failure" and text.startswith("PolicyViolation: jobs/job.yaml:6:36") and len(text) <= 140
    scene.world.checkout.policy = parse_policy(b"version: 1\napproval: {above_usd: 5}\n")
    scene.tick()
    assert scene.statuses()[1][0] == "pending" and "ApprovalMissing" in scene.statuses()[1][1]
    assert scene.server.comments == {}


def test_a_direct_push_has_statuses_and_a_summary(scene: Scene) -> None:
    scene.server.pulls_of.clear()
    scene.start()
    scene.metrics(1, 20)
    scene.tick()
    assert scene.server.comments == {} and scene.statuses() == [("pending", "training")]
    scene.finish()
    scene.tick()
    scene.live.finish()
    assert "✅ `job` succeeded" in scene.summary.read_text() and "xychart-beta" in scene.summary.read_text()


@pytest.mark.parametrize("status", [403, 404, 422, 429, 500])
def test_a_github_that_refuses_is_said_once_and_left_alone_for_a_while(scene: Scene, status: int) -> None:
    scene.server.refuse(".", status, times=10_000)
    scene.start()
    for _ in range(10):
        done = scene.tick()
        assert done.active and not done.failures
    assert len(scene.server.seen) == 2
    said = [line for line in scene.world.said if "on GitHub for now" in line]
    assert len(said) == 2 and TOKEN not in " ".join(scene.world.said)
    scene.server.refusals.clear()
    scene.world.sleep(QUIET_S)
    scene.tick()
    assert scene.statuses() == [("pending", "training")] and scene.edits() == 1


def test_a_token_that_may_not_set_statuses_still_comments(scene: Scene) -> None:
    scene.server.refuse("POST .*/statuses/", 403, times=10_000)
    scene.start()
    scene.tick()
    assert "training" in scene.comment() and scene.statuses() == []


def test_a_limit_is_kept_for_as_long_as_it_says(scene: Scene) -> None:
    scene.server.refuse("GET", 429, times=2, Retry_After="1000")
    scene.start()
    scene.tick(900)
    scene.tick(200)
    assert len(scene.server.seen) == 2
    scene.tick()
    assert scene.edits() == 1


def test_a_comment_that_somebody_deleted_or_edited_is_made_anew(scene: Scene) -> None:
    scene.start()
    scene.tick(COMMENT_EVERY_S)
    scene.server.comments[7].clear()
    scene.tick(COMMENT_EVERY_S)
    assert "training" in scene.comment()
    scene.server.comments[7][0]["body"] += "\nedited by a person"
    scene.tick()
    assert "edited by a person" not in scene.comment()


def test_a_chart_has_sixty_points_at_most_and_none_of_one_point() -> None:
    progress = Progress(losses=[(step, 3.0) for step in range(1, 1001)])
    drawn = chart(progress)
    assert drawn.count(",") <= 60 and "2.85 --> 3.15" in drawn and '"step" 1 -->' in drawn
    assert chart(Progress(losses=[(1, 3.0)])) == chart(Progress()) == ""


def test_what_a_pod_wrote_into_its_branch_has_no_power_here(scene: Scene) -> None:
    """A pod holds a token that writes its ledger: what stands there is a stranger's, too."""
    scene.start()
    bad = "x](http://evil) @all <img> | `"
    draft = EventDraft(state="evaluating", writer="pod", attempt=1, reason=bad, message=bad)
    scene.control.ledger.append(scene.world.record().run_id, events=[draft])
    result = {"adapter": {"repo": "a/b](http://evil)", "revision": "main"}, "metrics": [], "samples": {"a": 1}}
    record = scene.world.record()
    text = section(record, Progress(), 0.0, "https://huggingface.co")
    assert not re.search(r"(?<!\\)\]\(|@all|<img>", text)
    assert len(status(record)[1]) <= 140
    run_id = record.run_id
    scene.control.ledger.append(run_id, files={"result.json": json.dumps(result).encode()})
    scene.finish(state="failed", reason="Bad", message="@all <b>")
    scene.tick()
    said = scene.comment().replace("`a/b](http://evil)@main`", "code, which is no link")
    assert "code, which is no link" in said and not re.search(r"(?<!\\)\]\(|@all|<b>", said)


def test_from_the_pull_request_over_its_approval_to_the_receipt(world: Any, tmp_path: Path) -> None:
    """As workflows run it: the verbs as processes, the simulator, real git, one emulated GitHub for all of it."""
    server, summary, event = GitHubServer(), tmp_path / "summary.md", tmp_path / "event.json"
    server.permissions["bob"] = "write"
    try:
        world.orders(steps=6, step_s=0.1)
        world.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 5\napproval: {above_usd: 0.5}\n")
        base = world.push()
        world.git("switch", "-qc", "pull")
        world.write_job()
        world.git("add", "-A")
        world.git("commit", "-qm", "a job")
        head = world.git("rev-parse", "HEAD")
        pull = server.pull(7, head)
        about = {"number": 7, "head": pull["head"], "base": {"sha": base, "repo": pull["base"]["repo"]}}
        event.write_text(json.dumps({"pull_request": about}))
        env = server.env(GITHUB_STEP_SUMMARY=str(summary), GITHUB_EVENT_PATH=str(event), HF_HUB_OFFLINE="1")
        done = world.cli("review", "--base", "main", **env)
        assert done.returncode == 0, done.stderr
        (comment,) = server.comments[7]
        assert "A merge starts 1 run, for at most $1.00" in comment["body"] and "an approving review" in comment["body"]

        world.git("switch", "-q", "main")
        world.git("merge", "-q", "--squash", "pull")
        commit = world.push("a job, squashed")
        blob = world.git("rev-parse", "HEAD:jobs/job.yaml")
        server.touched["jobs/job.yaml"], server.pulls_of[commit] = commit, [7]
        server.blobs |= {(commit, "jobs/job.yaml"): blob, (head, "jobs/job.yaml"): blob}
        env = server.env(GITHUB_STEP_SUMMARY=str(summary))
        waits = world.cli("reconcile", "--follow", **env)
        assert waits.returncode == 0 and "ApprovalMissing" in waits.stderr, waits.stderr
        assert world.newest() is None and server.statuses[-1]["state"] == "pending"

        server.review(7, "bob", "APPROVED", head)
        done = world.cli("reconcile", "--follow", **env)
    finally:
        server.close()
    assert done.returncode == 0, done.stderr
    assert world.newest().events[0].data["approved_by"] == ["bob"]
    plan, run = [it["body"] for it in server.comments[7]]
    assert "A merge starts 1 run" in plan and "✅ `job` succeeded" in run and "of at most $1.00" in run
    states = [it["state"] for it in server.statuses]
    assert set(states[:-1]) == {"pending"} and states[-1] == "success" and len(states) <= 14
    assert "xychart-beta" in summary.read_text()
    assert TOKEN not in done.stderr + done.stdout + plan + run + summary.read_text()
    world.assert_nothing_left()
