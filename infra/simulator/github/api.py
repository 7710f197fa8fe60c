"""GitHub's REST API on loopback: the parts that pushtrain calls, with its pages, limits and refusals.

Lists come in pages of at most 100 with a Link header, 403 "Resource not accessible by integration" for a token that may
not write, 429 and 403 with Retry-After for limits (docs.github.com/rest).
"""

import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from infra.simulator.github.rights import may
from infra.simulator.github.state import REPO, GitHubState
from infra.simulator.loopback import Listener, Reply, Request

TOKEN = "ghs_canarySecretOfTheWorkflow0123456789"


@dataclass(kw_only=True)
class Refusal:
    """Answers the next `times` requests whose method and path fit with `status`."""

    fits: re.Pattern[str]
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: object = None


@dataclass(kw_only=True)
class GitHubServer(GitHubState):
    """Listens from the moment it is made. Whoever makes one calls `close`.

    `reads_only`: the token of a pull request from a fork. `grants` are the rights of tokens that have not all; who
    asks with one of them is a workflow. `seen` are method and path of every request.
    """

    reads_only: bool = False
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    grants: dict[str, dict[str, str]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lock = threading.Lock()
        self._listener = Listener(self._serve)
        self.url = self._listener.url

    def close(self) -> None:
        self._listener.close()

    def env(self, **more: str) -> dict[str, str]:
        """What a workflow's step has."""
        named = {"GITHUB_API_URL": self.url, "GITHUB_REPOSITORY": REPO, "GITHUB_TOKEN": TOKEN, "GITHUB_ACTIONS": "true"}
        return {**named, "GITHUB_SERVER_URL": "https://github.com", **more}

    def refuse(self, fits: str, status: int, *, times: int = 1, body: object = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.refusals.append(Refusal(fits=re.compile(fits), status=status, times=times, headers=named, body=body))

    def _serve(self, request: Request) -> Reply:
        name = f"{request.method} {unquote(request.path)}"
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        with self._lock:
            self.seen.append(name)
            self._is_workflow = token in self.grants
            headers: dict[str, str] = {}
            refusal = next((it for it in self.refusals if it.times > 0 and it.fits.search(name)), None)
            if refusal is not None:
                refusal.times -= 1
                status, body, headers = refusal.status, refusal.body or {"message": "refused"}, refusal.headers
            elif token not in self.tokens:
                status, body = 401, {"message": "Bad credentials"}
            elif (self.reads_only and request.method != "GET") or not may(self.grants.get(token), name, REPO):
                status, body = 403, {"message": "Resource not accessible by integration"}
            else:
                query = {key: values[-1] for key, values in parse_qs(request.query).items()}
                status, body = self.answer(name, query, json.loads(request.body) if request.body else {})
        if isinstance(body, list):
            body, headers = self._page(body, request.path, parse_qs(request.query))
        return Reply(status=204, headers=headers) if status == 204 else Reply.of(body, status, headers)

    def _page(self, items: list[Any], path: str, query: dict[str, list[str]]) -> tuple[list[Any], dict[str, str]]:
        size, page = min(100, int(query.get("per_page", ["30"])[0])), int(query.get("page", ["1"])[0])
        more = page * size < len(items)
        link = {"Link": f'<{self.url}{path}?per_page={size}&page={page + 1}>; rel="next"'} if more else {}
        return items[(page - 1) * size : page * size], link
