"""Who approved a job spec, by every way a pull request can be merged."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from climb_world import COMMIT, World

from infra.simulator.github.api import TOKEN, GitHubServer
from infra.simulator.github.state import REPO
from pushtrain.errors import SpecError
from pushtrain.github.approval import Approvals
from pushtrain.github.client import GitHub
from pushtrain.github.pulls import pull_of
from pushtrain.policy.file import parse_policy
from pushtrain.policy.outside import Outside

HEAD, PATH = "e" * 40, "jobs/job.yaml"
SQUASHED, REBASED = "5" * 40, "6" * 40


class Scene:
    """A job of $10 under a policy that wants an approval above $5, brought by pull request 7 of ann."""

    def __init__(self, folder: Path) -> None:
        self.server = GitHubServer()
        self.world = World(folder=folder)
        self.world.job(max_usd=10.0)
        self.policy("{above_usd: 5}")
        self.server.pull(7, HEAD, author="ann")
        self.merge(SQUASHED)
        self.server.blobs |= {(COMMIT, PATH): "blob", (HEAD, PATH): "blob"}
        self.server.permissions |= {"bob": "write", "eve": "read", "ann": "admin"}
        self.github = GitHub(REPO, token=TOKEN, api_url=self.server.url, sleep=lambda seconds: None)

    def policy(self, approval: str) -> None:
        self.world.checkout.policy = parse_policy(f"version: 1\napproval: {approval}\n".encode())

    def merge(self, commit: str, pulls: tuple[int, ...] = (7,)) -> None:
        self.server.touched[PATH] = commit
        self.server.pulls_of[commit] = list(pulls)

    def approved(self, workflow_run: str = "") -> dict[str, object]:
        wanted = self.world.checkout.desired()
        return dict(Approvals(github=self.github, workflow_run=workflow_run)(wanted, wanted.jobs["job"]))

    def refused(self, words: str, workflow_run: str = "") -> None:
        with pytest.raises(SpecError, match=words) as failure:
            self.approved(workflow_run)
        assert failure.value.reason == "ApprovalMissing"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.github.close()
    scene.server.close()


@pytest.mark.parametrize("way", [SQUASHED, REBASED, HEAD], ids=["squash", "rebase", "merge"])
def test_the_pull_request_is_found_by_whichever_way_it_was_merged(scene: Scene, way: str) -> None:
    scene.server.pulls_of.clear()
    scene.merge(way)
    scene.server.review(7, "bob", "APPROVED", HEAD)
    assert scene.approved() == {"approved_by": ["bob"], "pull": 7, "approved_commit": HEAD}


def test_of_several_pull_requests_the_one_that_was_merged_last_counts_and_an_open_one_never(scene: Scene) -> None:
    scene.server.pull(8, "8" * 40)["merged_at"] = "2026-11-22T10:00:00Z"
    scene.server.pull(9, "9" * 40)["merged_at"] = None
    scene.merge(SQUASHED, (7, 8, 9))
    found = pull_of(scene.github, COMMIT, PATH)
    assert found is not None and found["number"] == 8
    scene.merge(SQUASHED, (9,))
    assert pull_of(scene.github, COMMIT, PATH) is None


def test_a_direct_push_has_no_approval(scene: Scene) -> None:
    scene.merge(SQUASHED, ())
    scene.refused("direct push")


@pytest.mark.parametrize(
    ("who", "state", "commit", "kind"),
    [
        ("ann", "APPROVED", HEAD, "User"),
        ("eve", "APPROVED", HEAD, "User"),
        ("stranger", "APPROVED", HEAD, "User"),
        ("bob", "APPROVED", "0" * 40, "User"),
        ("bob", "COMMENTED", HEAD, "User"),
        ("bob", "APPROVED", HEAD, "Bot"),
    ],
    ids=["the author", "reads only", "nobody here", "an older commit", "a comment", "a bot"],
)
def test_what_is_no_approval(scene: Scene, who: str, state: str, commit: str, kind: str) -> None:
    scene.server.review(7, who, state, commit, kind)
    scene.refused("pull request 7 at eeeeeeee has 0 of 1 approving review")


def test_who_wrote_the_last_commit_cannot_approve_it(scene: Scene) -> None:
    scene.server.commits[HEAD]["author"] = {"login": "bob"}
    scene.server.review(7, "bob", "APPROVED", HEAD)
    scene.refused("has 0 of 1")


def test_the_last_word_counts_and_a_comment_after_it_changes_nothing(scene: Scene) -> None:
    scene.server.review(7, "bob", "APPROVED", HEAD)
    scene.server.review(7, "bob", "COMMENTED", HEAD)
    assert scene.approved()["approved_by"] == ["bob"]
    scene.server.review(7, "bob", "CHANGES_REQUESTED", HEAD)
    scene.refused("has 0 of 1")
    scene.server.review(7, "bob", "APPROVED", HEAD)
    scene.policy("{above_usd: 5, reviews: 2}")
    scene.refused("has 1 of 2 approving reviews")
    scene.server.permissions["zoe"] = "admin"
    for _ in range(120):
        scene.server.review(7, "eve", "COMMENTED", HEAD)
    scene.server.review(7, "zoe", "APPROVED", HEAD)
    assert scene.approved()["approved_by"] == ["bob", "zoe"]


def test_a_spec_that_was_changed_in_the_merge_is_not_what_was_approved(scene: Scene) -> None:
    scene.server.review(7, "bob", "APPROVED", HEAD)
    scene.server.blobs[COMMIT, PATH] = "another"
    scene.refused("not what pull request 7 had at its end")
    del scene.server.blobs[HEAD, PATH]
    scene.refused("not what pull request 7 had at its end")


def test_a_github_that_does_not_answer_approves_nothing(scene: Scene) -> None:
    scene.server.review(7, "bob", "APPROVED", HEAD)
    scene.server.refuse("GET", 403, times=99)
    scene.refused("GitHub cannot be asked: GitHubRefused")


def test_an_environment_approves_its_own_commit_and_not_by_the_hand_that_started_it(scene: Scene) -> None:
    scene.policy("{above_usd: 5, environment: gpu}")
    scene.server.runs[42] = {"head_sha": COMMIT, "actor": {"login": "ann"}, "triggering_actor": {"login": "ann"}}
    given = {"state": "approved", "user": {"login": "zoe"}, "environments": [{"name": "gpu"}]}
    scene.server.approvals[42] = [given]
    assert scene.approved("42") == {"approved_by": ["zoe"], "environment": "gpu"}
    for change in ({"state": "rejected"}, {"environments": [{"name": "docs"}]}, {"user": {"login": "ann"}}):
        scene.server.approvals[42] = [{**given, **change}]
        scene.refused("has 0 of 1", "42")
    scene.server.approvals[42] = [given]
    scene.server.runs[42]["head_sha"] = "0" * 40
    scene.refused("has 0 of 1", "42")
    scene.refused("has 0 of 1", "../../x")


def test_a_run_starts_when_the_review_is_there_and_says_who_gave_it(scene: Scene) -> None:
    control = scene.world.control()
    control.outside = Outside(approved=Approvals(github=scene.github))
    done = scene.world.tick(control)
    assert (done.active, done.failures) == ([], [])
    assert "job: not started: ApprovalMissing" in scene.world.said[-1]
    asked = len(scene.server.seen)
    scene.server.review(7, "bob", "APPROVED", HEAD)
    scene.world.tick(control)
    assert len(scene.server.seen) == asked  # not asked again in the same breath
    scene.world.sleep(301)
    assert scene.world.tick(control).active
    claimed = scene.world.events("claimed")[0].data
    assert claimed["approved_by"] == ["bob"] and claimed["pull"] == 7
