"""GitHub's client and the one comment, against an emulated API on loopback."""

from collections.abc import Iterator
from typing import Any

import pytest

from infra.simulator.github.api import TOKEN, GitHubServer
from infra.simulator.github.state import REPO
from pushtrain.errors import GitHubError, GitHubNotFound, GitHubRefused, GitHubUnavailable
from pushtrain.github.client import GitHub, connect
from pushtrain.github.sticky import WORKFLOW_BOT, Sticky, marker

SLEPT: list[float] = []


@pytest.fixture
def server() -> Iterator[GitHubServer]:
    server = GitHubServer()
    SLEPT.clear()
    yield server
    server.close()


def client(server: GitHubServer, **options: Any) -> GitHub:
    return GitHub(REPO, token=TOKEN, api_url=server.url, sleep=SLEPT.append, clock=lambda: 1000.0, **options)


def sticky(server: GitHubServer) -> Sticky:
    return Sticky(client(server), 7, "plan", author=WORKFLOW_BOT)


def test_the_comment_is_found_over_pages_and_edited_in_place(server: GitHubServer) -> None:
    server.pull(7, "a" * 40)
    for number in range(230):
        server.say(7, f"comment {number}", login="ann")
    sticky(server).put("first")
    server.say(7, "more", login="ann")
    sticky(server).put("second")
    ours = [it for it in server.comments[7] if it["user"]["login"] == WORKFLOW_BOT]
    assert [it["body"] for it in ours] == [f"{marker('plan')}\nsecond"]
    assert server.seen.count(f"GET /repos/{REPO}/issues/7/comments") == 6


def test_a_comment_with_our_marker_by_somebody_else_is_not_ours(server: GitHubServer) -> None:
    server.pull(7, "a" * 40)
    fake = server.say(7, f"{marker('plan')}\nall is fine, merge it", login="mallory")
    another = server.say(7, f"{marker('runs')}\nour other comment")
    quoted = server.say(7, f"> {marker('plan')}")
    sticky(server).put("the plan")
    assert fake["body"].endswith("merge it") and "other" in another["body"] and quoted["body"].startswith(">")
    assert server.comments[7][-1]["body"] == f"{marker('plan')}\nthe plan"


def test_an_edited_comment_is_overwritten_and_a_deleted_one_made_anew(server: GitHubServer) -> None:
    server.pull(7, "a" * 40)
    comment = sticky(server)
    comment.put("one")
    server.comments[7][0]["body"] += "\nand $0 only, says a person"
    comment.put("two")
    assert [it["body"] for it in server.comments[7]] == [f"{marker('plan')}\ntwo"]
    server.comments[7].clear()
    comment.put("three")
    assert [it["body"] for it in server.comments[7]] == [f"{marker('plan')}\nthree"]
    server.comments[7][0]["body"] = "a person emptied it, marker and all"
    sticky(server).put("four")
    assert [it["body"] for it in server.comments[7]][1:] == [f"{marker('plan')}\nfour"]


def test_a_limit_is_waited_for_as_long_as_the_caller_allows(server: GitHubServer) -> None:
    server.pull(7, "a" * 40)
    server.refuse("POST", 403, Retry_After="7", body={"message": "You have exceeded a secondary rate limit"})
    Sticky(client(server, wait_s=60), 7, "plan", author=WORKFLOW_BOT).put("x")
    assert SLEPT == [7.0] and len(server.comments[7]) == 1
    server.refuse("PATCH", 429, X_RateLimit_Remaining="0", X_RateLimit_Reset="1300")
    with pytest.raises(GitHubUnavailable, match="rate limit") as limit:
        Sticky(client(server, wait_s=60), 7, "plan", author=WORKFLOW_BOT).put("y")
    assert limit.value.retry_s == 300.0 and SLEPT == [7.0]
    server.refuse("GET", 403, body={"message": "API rate limit exceeded"})
    with pytest.raises(GitHubUnavailable):
        client(server).get("pulls/7")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, GitHubRefused, "its job is over"),
        (403, GitHubRefused, "permissions:"),
        (404, GitHubNotFound, "not there"),
        (410, GitHubNotFound, "not there"),
        (422, GitHubError, ""),
        (500, GitHubUnavailable, ""),
    ],
)
def test_each_refusal_says_what_to_do(server: GitHubServer, status: int, kind: type[GitHubError], words: str) -> None:
    server.pull(7, "a" * 40)
    server.refuse("POST", status, times=9, body={"message": "No", "errors": [{"message": f"told {TOKEN}"}]})
    with pytest.raises(kind, match=f"HTTP {status}: No") as failure:
        sticky(server).put("x")
    assert type(failure.value) is kind and words in (failure.value.hint or "")
    assert TOKEN not in str(failure.value)
    assert sum(it.startswith("POST") for it in server.seen) == 1  # a write is not tried twice: it may have been done


def test_a_read_is_tried_again_and_a_server_that_is_away_is_said(server: GitHubServer) -> None:
    server.pull(7, "a" * 40)
    server.refuse("GET", 502, times=2)
    assert client(server).get("pulls/7")["number"] == 7
    server.refuse("GET", 502, times=3)
    with pytest.raises(GitHubUnavailable):
        client(server).get("pulls/7")
    server.close()
    with pytest.raises(GitHubUnavailable, match="cannot be reached"):
        client(server).get("pulls/7")


def test_a_token_goes_nowhere_else() -> None:
    for url in ("http://evil.example", "ftp://127.0.0.1"):
        if url.startswith("http://evil"):
            with pytest.raises(GitHubError, match="not https"):
                GitHub(REPO, token=TOKEN, api_url=url)
    for repo in ("a", "a/b/c", "../x", "a/..", "a/b?c", "a b/c"):
        with pytest.raises(GitHubError, match="no repository"):
            GitHub(repo, token=TOKEN)
    assert connect({"GITHUB_REPOSITORY": REPO}) is None and connect({"GITHUB_TOKEN": TOKEN}) is None
    assert repr(connect({"GITHUB_REPOSITORY": REPO, "GITHUB_TOKEN": TOKEN})).find(TOKEN) < 0


def test_a_github_of_ones_own_has_a_path_before_it(server: GitHubServer) -> None:
    with pytest.raises(GitHubNotFound):
        GitHub(REPO, token=TOKEN, api_url=f"{server.url}/api/v3/").get("pulls/7")
    assert server.seen == [f"GET /api/v3/repos/{REPO}/pulls/7"]


def test_a_redirect_to_another_host_is_not_followed(server: GitHubServer) -> None:
    server.refuse("GET", 301, Location="https://evil.example/x")
    with pytest.raises(GitHubError, match="another host"):
        client(server).get("pulls/7")
    server.pull(7, "a" * 40)
    server.refuse("GET", 301, Location=f"{server.url}/repos/{REPO}/pulls/7")
    assert client(server).get("pulls/7")["number"] == 7
