"""GitHub's REST API on loopback: the parts that pushtrain calls, with its pages, limits and refusals.

Shapes and status codes follow docs.github.com/rest, API version 2022-11-28: comments 422 above 65,536 characters, lists
in pages of at most 100 with a Link header, 403 "Resource not accessible by integration" for a token that may not write,
429 and 403 with Retry-After for limits, 404 for what a token may not see.
"""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "ghs_canarySecretOfTheWorkflow0123456789"
REPO = "acme/train"
LONGEST_COMMENT = 65_536
Json = dict[str, Any]


@dataclass(kw_only=True)
class Refusal:
    """Answers the next `times` requests whose method and path fit with `status`."""

    fits: re.Pattern[str]
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: object = None


@dataclass(kw_only=True)
class GitHubServer:
    """The repository's state is in plain fields: tests write and read them. Whoever makes one calls `close`.

    `reads_only`: the token of a pull request from a fork. `seen` are method and path of every request.
    """

    bot: str = "github-actions[bot]"
    reads_only: bool = False
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
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    refusals: list[Refusal] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next_id = 1000
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._serve(self)

            do_POST = do_PATCH = do_DELETE = do_GET

            def log_message(self, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def env(self, **more: str) -> dict[str, str]:
        """What a workflow's step has."""
        named = {"GITHUB_API_URL": self.url, "GITHUB_REPOSITORY": REPO, "GITHUB_TOKEN": TOKEN, "GITHUB_ACTIONS": "true"}
        return {**named, "GITHUB_SERVER_URL": "https://github.com", **more}

    def refuse(self, fits: str, status: int, *, times: int = 1, body: object = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.refusals.append(Refusal(fits=re.compile(fits), status=status, times=times, headers=named, body=body))

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
            "merged_at": "2026-11-21T10:00:00Z",
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

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        parts = urlsplit(request.path)
        name = f"{request.command} {unquote(parts.path)}"
        with self._lock:
            self.seen.append(name)
            headers: dict[str, str] = {}
            refusal = next((it for it in self.refusals if it.times > 0 and it.fits.search(name)), None)
            if refusal is not None:
                refusal.times -= 1
                status, body, headers = refusal.status, refusal.body or {"message": "refused"}, refusal.headers
            elif (request.headers.get("Authorization") or "").removeprefix("Bearer ") not in self.tokens:
                status, body = 401, {"message": "Bad credentials"}
            elif self.reads_only and request.command != "GET":
                status, body = 403, {"message": "Resource not accessible by integration"}
            else:
                query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
                status, body = self._answer(name, query, json.loads(raw) if raw else {})
        if isinstance(body, list):
            body, headers = self._page(body, parts.path, parse_qs(parts.query))
        text = b"" if status == 204 else json.dumps(body).encode()
        request.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(text)

    def _page(self, items: list[Any], path: str, query: dict[str, list[str]]) -> tuple[list[Any], dict[str, str]]:
        size, page = min(100, int(query.get("per_page", ["30"])[0])), int(query.get("page", ["1"])[0])
        more = page * size < len(items)
        link = {"Link": f'<{self.url}{path}?per_page={size}&page={page + 1}>; rel="next"'} if more else {}
        return items[(page - 1) * size : page * size], link

    def _answer(self, name: str, query: dict[str, str], sent: Json) -> tuple[int, Any]:
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
            rf"GET {at}/pulls/(\d+)": lambda q, s, n: self._known(self.pulls, int(n)),
            rf"GET {at}/pulls/(\d+)/reviews": lambda q, s, n: (200, list(self.reviews.get(int(n), []))),
            rf"GET {at}/commits": lambda q, s: self._last_commits(q),
            rf"GET {at}/commits/([^/]+)": lambda q, s, sha: self._known(self.commits, sha),
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
        sha = self.touched.get(query.get("path", ""))
        return 200, [self.commits.get(sha, {"sha": sha})] if sha else []

    def _contents(self, path: str, ref: str) -> tuple[int, Any]:
        blob = self.blobs.get((ref, path))
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
