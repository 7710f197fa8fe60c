"""What the emulated GitHub knows of its one repository, and what it answers to which request.

Shapes and status codes follow docs.github.com/rest, API version 2022-11-28: comments 422 above 65,536 characters, 404
for what a token may not see, 405 for a pull request that cannot be merged.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.simulator.github.hosted import Hosted

REPO = "acme/train"
LONGEST_COMMENT = 65_536
MERGED = "2026-11-21T10:00:00Z"
Json = dict[str, Any]


@dataclass(kw_only=True)
class GitHubState:
    """The repository's state is in plain fields, which may be written and read.

    With `hosted` history and files are those of that repository, and pull requests can be opened and merged there.
    """

    bot: str = "github-actions[bot]"
    hosted: Hosted | None = None
    private: bool = False
    comments: dict[int, list[Json]] = field(default_factory=dict)
    pulls: dict[int, Json] = field(default_factory=dict)
    commits: dict[str, Json] = field(default_factory=dict)
    touched: dict[str, str] = field(default_factory=dict)
    """Path → the last commit on the default branch that changed it."""
    pulls_of: dict[str, list[int]] = field(default_factory=dict)
    reviews: dict[int, list[Json]] = field(default_factory=dict)
    permissions: dict[str, str] = field(default_factory=dict)
    blobs: dict[tuple[str, str], str] = field(default_factory=dict)
    """(ref, path) → blob id."""
    statuses: list[Json] = field(default_factory=list)
    runs: dict[int, Json] = field(default_factory=dict)
    approvals: dict[int, list[Json]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    """`METHOD path below the repository` → what is answered, for what only few ask about."""
    dispatches: list[Json] = field(default_factory=list)
    """What workflows were asked to start by hand, and have not yet."""

    def __post_init__(self) -> None:
        self._next_id = 1000
        self._is_workflow = False

    def say(self, pull: int, body: str, login: str | None = None, kind: str = "User") -> Json:
        """A comment by somebody; without `login` by the bot."""
        self._next_id += 1
        user = {"login": login, "type": kind} if login else {"login": self.bot, "type": "Bot"}
        comment = {"id": self._next_id, "body": body, "user": user}
        self.comments.setdefault(pull, []).append(comment)
        return comment

    def pull(self, number: int, head: str, *, author: str = "ann", fork: bool = False) -> Json:
        owner = "stranger/train" if fork else REPO
        self.pulls[number] = {
            "number": number,
            "state": "closed",
            "merged_at": MERGED,
            "user": {"login": author, "type": "User"},
            "head": {"sha": head, "repo": {"full_name": owner}},
            "base": {"ref": "main", "repo": {"full_name": REPO}},
        }
        self.commits.setdefault(head, {"sha": head, "author": {"login": author}, "committer": {"login": author}})
        return self.pulls[number]

    def review(self, pull: int, login: str, state: str, commit: str, kind: str = "User") -> None:
        self._next_id += 1
        user = {"login": login, "type": kind}
        self.reviews.setdefault(pull, []).append(
            {"id": self._next_id, "user": user, "state": state, "commit_id": commit}
        )

    def answer(self, name: str, query: dict[str, str], sent: Json) -> tuple[int, Any]:
        method, _, path = name.partition(f" /repos/{REPO}/")
        if f"{method} {path}" in self.answers:
            return 200, self.answers[f"{method} {path}"]
        for pattern, handler in self._routes().items():
            if match := re.fullmatch(pattern, name):
                return handler(query, sent, *match.groups())
        return 404, {"message": "Not Found"}

    def _routes(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        at = f"/repos/{REPO}"
        return {
            rf"GET {at}": lambda q, s: (200, {"full_name": REPO, "private": self.private}),
            rf"GET {at}/issues/(\d+)/comments": lambda q, s, n: (200, list(self.comments.get(int(n), []))),
            rf"POST {at}/issues/(\d+)/comments": lambda q, s, n: self._comment(int(n), s),
            rf"PATCH {at}/issues/comments/(\d+)": lambda q, s, n: self._edit(int(n), s),
            rf"GET {at}/pulls": lambda q, s: (200, [it for it in self.pulls.values() if self._asked_for(it, q)]),
            rf"POST {at}/pulls": lambda q, s: self.open_pull(s),
            rf"PUT {at}/pulls/(\d+)/merge": lambda q, s, n: self.merge_pull(int(n), s),
            rf"GET {at}/pulls/(\d+)": lambda q, s, n: self._known(self.pulls, int(n)),
            rf"GET {at}/pulls/(\d+)/reviews": lambda q, s, n: (200, list(self.reviews.get(int(n), []))),
            rf"GET {at}/commits": lambda q, s: self._last_commits(q),
            rf"GET {at}/commits/([^/]+)": lambda q, s, sha: self._known(self.commits, self._seen_commit(sha)),
            rf"GET {at}/commits/([^/]+)/pulls": lambda q, s, sha: (
                200,
                [self.pulls[number] for number in self.pulls_of.get(sha, [])],
            ),
            rf"GET {at}/collaborators/([^/]+)/permission": lambda q, s, who: (
                200,
                {"permission": self.permissions.get(who, "none"), "user": {"login": who}},
            ),
            rf"GET {at}/contents/(.+)": lambda q, s, path: self._contents(path, q.get("ref", "main")),
            rf"POST {at}/statuses/([^/]+)": lambda q, s, sha: self._status(sha, s),
            rf"GET {at}/commits/([^/]+)/status": lambda q, s, sha: self._combined(sha, q),
            rf"POST {at}/actions/workflows/([^/]+)/dispatches": lambda q, s, file: self._dispatch(file, s),
            rf"GET {at}/actions/workflows/([^/]+)/runs": lambda q, s, file: self._waiting(file, q),
            rf"GET {at}/actions/runs/(\d+)": lambda q, s, n: self._known(self.runs, int(n)),
            rf"GET {at}/actions/runs/(\d+)/approvals": lambda q, s, n: (200, list(self.approvals.get(int(n), []))),
        }

    def _comment(self, pull: int, sent: Json) -> tuple[int, Any]:
        if pull not in self.pulls:
            return 404, {"message": "Not Found"}
        if len(sent.get("body", "")) > LONGEST_COMMENT or not sent.get("body"):
            return 422, {"message": "Validation Failed", "errors": [{"message": "body is too long"}]}
        return 201, self.say(pull, sent["body"])

    def _edit(self, number: int, sent: Json) -> tuple[int, Any]:
        comment = next((it for them in self.comments.values() for it in them if it["id"] == number), None)
        if comment is None:
            return 404, {"message": "Not Found"}
        if len(sent["body"]) > LONGEST_COMMENT:
            return 422, {"message": "Validation Failed", "errors": [{"message": "body is too long"}]}
        comment["body"] = sent["body"]
        return 200, comment

    def _known(self, there: dict[Any, Json], key: Any) -> tuple[int, Any]:
        return (200, there[key]) if key in there else (404, {"message": "Not Found"})

    def _last_commits(self, query: dict[str, str]) -> tuple[int, Any]:
        path = query.get("path", "")
        sha = self.hosted.last_commit(query.get("sha", "main"), path) if self.hosted else self.touched.get(path)
        return 200, [self.commits.get(sha, {"sha": sha})] if sha else []

    def _contents(self, path: str, ref: str) -> tuple[int, Any]:
        blob = self.hosted.blob(ref, path) if self.hosted else self.blobs.get((ref, path))
        return (200, {"type": "file", "path": path, "sha": blob}) if blob else (404, {"message": "Not Found"})

    def _combined(self, sha: str, query: dict[str, str]) -> tuple[int, Any]:
        newest = {it["context"]: it for it in self.statuses if it["sha"] == sha}
        size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
        shown = list(newest.values())[(page - 1) * size : page * size]
        return 200, {"sha": sha, "total_count": len(newest), "statuses": shown}

    def _status(self, sha: str, sent: Json) -> tuple[int, Any]:
        if len(sent.get("description", "")) > 140 or sent.get("state") not in (
            "error",
            "failure",
            "pending",
            "success",
        ):
            return 422, {"message": "Validation Failed"}
        self.statuses.append({"sha": sha, **sent})
        return 201, sent

    def _seen_commit(self, sha: str) -> str:
        """Makes a commit of the hosted repository known; its author's name is taken for the login."""
        if self.hosted and sha not in self.commits and self.hosted.tip(sha):
            who = {"login": self.hosted.author(sha)}
            self.commits[sha] = {"sha": sha, "author": who, "committer": who}
        return sha

    def _asked_for(self, pull: Json, query: dict[str, str]) -> bool:
        owner, _, branch = query.get("head", "").rpartition(":")
        state = query.get("state", "open")
        fits = not branch or (pull["head"].get("ref") == branch and owner in ("", REPO.partition("/")[0]))
        return fits and state in ("all", pull["state"])

    def open_pull(self, sent: Json) -> tuple[int, Any]:
        """As POST pulls: status and body."""
        head, base = str(sent.get("head", "")), str(sent.get("base", ""))
        tip = self.hosted.tip(f"refs/heads/{head}") if self.hosted else None
        at = self.hosted.tip(f"refs/heads/{base}") if self.hosted else None
        if self.hosted is None or tip is None or at is None:
            return 422, {"message": "Validation Failed", "errors": [{"field": "head", "code": "invalid"}]}
        if [it for it in self.pulls.values() if self._asked_for(it, {"head": head})]:
            return 422, {"message": f"A pull request already exists for {head}."}
        number = max([0, *self.pulls]) + 1
        pull = self.pull(number, tip, author=self.hosted.author(tip))
        if self._is_workflow:
            pull["user"] = {"login": self.bot, "type": "Bot"}
        pull |= {"state": "open", "merged_at": None, "title": str(sent.get("title", "")), "body": sent.get("body")}
        pull["head"] |= {"ref": head}
        pull["base"] |= {"ref": base, "sha": at}
        pull["merge_commit_sha"] = self.hosted.propose(number, tip, at)
        return 201, pull

    def merge_pull(self, number: int, sent: Json) -> tuple[int, Any]:
        """As PUT pulls/N/merge: status and body."""
        pull = self.pulls.get(number)
        if self.hosted is None or pull is None or pull["state"] != "open":
            return 405, {"message": "Pull Request is not mergeable"}
        head, base, how = pull["head"]["sha"], pull["base"]["ref"], sent.get("merge_method", "merge")
        before = str(self.hosted.tip(f"refs/heads/{base}"))
        made = self.hosted.merge(number, head, base, how, pull["title"])
        if made is None:
            return 405, {"message": "Pull Request is not mergeable"}
        pull |= {"state": "closed", "merged_at": MERGED, "merge_commit_sha": made}
        for commit in {*self.hosted.commits(before, made), *self.hosted.commits(before, head)}:
            self.pulls_of.setdefault(commit, []).append(number)
        return 200, {"sha": made, "merged": True, "message": "Pull Request successfully merged"}

    def _dispatch(self, file: str, sent: Json) -> tuple[int, Any]:
        if not sent.get("ref"):
            return 422, {"message": "Invalid request"}
        self.dispatches.append({"workflow": file, "ref": sent["ref"], "inputs": dict(sent.get("inputs") or {})})
        return 204, None

    def _waiting(self, file: str, query: dict[str, str]) -> tuple[int, Any]:
        waits = [it for it in self.dispatches if it["workflow"] == file and query.get("status") == "queued"]
        return 200, {"total_count": len(waits), "workflow_runs": waits}
