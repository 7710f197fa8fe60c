"""GitHub's REST API (version 2022-11-28), as much of it as pushtrain needs.

Every request has a deadline; lists are read page by page up to a bound; a limit is waited for only as long as the
caller allows. By docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api a secondary limit answers 403 or
429 with Retry-After, the primary one with x-ratelimit-remaining 0 and x-ratelimit-reset in epoch seconds.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from pushtrain import __version__
from pushtrain.errors import GitHubError, GitHubNotFound, GitHubRefused, GitHubUnavailable
from pushtrain.redact import redact

PUBLIC_API = "https://api.github.com"
TIMEOUT = httpx.Timeout(15.0, connect=5.0)
DEADLINE_S = 30.0
LARGEST_BYTES = 16 * 1024 * 1024
MOST_PAGES = 30
RETRIES = 2
# GitHub asks to wait a minute where a secondary limit says no time.
_LIMIT_S = 60.0
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9._-]{1,100}")


class GitHub:
    """One repository. `wait_s` is how long one call may sleep for a limit in all; 0: never. Close it."""

    def __init__(
        self,
        repo: str,
        *,
        token: str,
        api_url: str = PUBLIC_API,
        wait_s: float = 0.0,
        retries: int = RETRIES,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not _REPO.fullmatch(repo) or repo.endswith(("/.", "/..")):
            raise GitHubError(f"{ascii(repo)[:80]} is no repository", hint="GITHUB_REPOSITORY is OWNER/NAME")
        host = urlsplit(api_url)
        if host.scheme != "https" and host.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise GitHubError("GITHUB_API_URL is not https: a token is not sent there")
        self.repo, self._token = repo, token
        self._wait_s, self._retries, self._clock, self._sleep = wait_s, retries, clock, sleep
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "User-Agent": f"pushtrain/{__version__}",
        }
        self._http = httpx.Client(base_url=api_url.rstrip("/"), headers=headers, timeout=TIMEOUT)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, /, **query: str | int) -> Any:
        """`path` counts from the repository. Raises GitHubError."""
        return self._send("GET", self._at(path), query).json()

    def is_private(self) -> bool:
        """Whether strangers cannot read the repository. Raises GitHubError."""
        return self._send("GET", f"/repos/{self.repo}", {}).json().get("private") is True

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._send("POST", self._at(path), {}, body).json()

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._send("PATCH", self._at(path), {}, body).json()

    def pages(self, path: str, /, **query: str | int) -> Iterator[Any]:
        """Every item of a list, read on only as far as the caller looks; at most MOST_PAGES × 100."""
        for page in range(1, MOST_PAGES + 1):
            answer = self._send("GET", self._at(path), {**query, "per_page": 100, "page": page})
            items = answer.json()
            if not isinstance(items, list):
                raise GitHubError(f"{path}: no list came")
            yield from items
            if 'rel="next"' not in answer.headers.get("Link", ""):
                return

    def _at(self, path: str) -> str:
        return f"/repos/{self.repo}/{path}"

    def _send(
        self, method: str, url: str, query: Mapping[str, str | int], body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        """A read is tried again; a write only after a limit, which says that it was not carried out."""
        waited_s, tries = 0.0, 0
        while True:
            tries += 1
            try:
                answer = self._read(self._http.build_request(method, url, params=dict(query), json=body))
                if answer.is_redirect and method == "GET" and answer.headers.get("Location"):
                    answer = self._moved(answer)
                self._check(answer, method, url)
                answer.json()
                return answer
            except GitHubUnavailable as busy:
                is_limit = busy.reason == "GitHubLimit"
                again = is_limit or (method == "GET" and tries <= self._retries)
                if not again or waited_s + busy.retry_s > (self._wait_s if is_limit else 10.0):
                    raise
                self._sleep(busy.retry_s)
                waited_s += busy.retry_s
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if method != "GET" or tries > self._retries:
                    said = self._clean(f"{type(error).__name__}: {error}")
                    raise GitHubUnavailable(f"GitHub cannot be reached: {said}", retry_s=_LIMIT_S) from None
                self._sleep(1.0)
            except ValueError:
                raise GitHubError(f"{method} {url}: the answer is not JSON") from None

    def _moved(self, answer: httpx.Response) -> httpx.Response:
        """A repository that was renamed answers with its new place, on the same host."""
        target = answer.request.url.join(answer.headers["Location"])
        if (target.scheme, target.host) != (self._http.base_url.scheme, self._http.base_url.host):
            raise GitHubError("GitHub sent the request to another host; it was not followed")
        return self._read(self._http.build_request("GET", target))

    def _read(self, request: httpx.Request) -> httpx.Response:
        """The whole answer within DEADLINE_S, whatever drips in meanwhile, and no more than LARGEST_BYTES of it."""
        end_s, raw = time.monotonic() + DEADLINE_S, bytearray()
        answer = self._http.send(request, stream=True)
        try:
            for chunk in answer.iter_bytes():
                raw += chunk
                if time.monotonic() > end_s:
                    raise httpx.ReadTimeout("the answer took too long", request=request)
                if len(raw) > LARGEST_BYTES:
                    raise GitHubError(f"{request.method} {request.url.path}: the answer is larger than 16 MiB")
        finally:
            answer.close()
        kept = {name: value for name, value in answer.headers.items() if not name.startswith(("content-", "transfer-"))}
        return httpx.Response(answer.status_code, headers=kept, content=bytes(raw), request=request)

    def _check(self, answer: httpx.Response, method: str, url: str) -> None:
        if answer.is_success:
            return
        status, what = answer.status_code, f"{method} {url}"
        said = self._clean(f"HTTP {status}: {_message(answer)}")
        if status in (403, 429) and (retry_s := self._limit_s(answer)) is not None:
            busy = GitHubUnavailable(f"{what}: a rate limit of GitHub: {said}", retry_s=retry_s)
            busy.reason = "GitHubLimit"
            raise busy
        if status >= 500 or status in (408, 429):
            raise GitHubUnavailable(f"{what}: {said}", retry_s=2.0)
        if status == 401:
            raise GitHubRefused(f"{what}: {said}", hint="GITHUB_TOKEN is wrong, or its job is over")
        if status == 403:
            hint = "the workflow's `permissions:` lack it; in a pull request from a fork the token only reads"
            raise GitHubRefused(f"{what}: {said}", hint=hint)
        if status in (404, 410):
            raise GitHubNotFound(f"{what}: {said}", hint="it is not there, or the token may not see it")
        raise GitHubError(f"{what}: {said}", reason="GitHubRejected" if status == 422 else None)

    def _limit_s(self, answer: httpx.Response) -> float | None:
        """Seconds until a limit is over; None where the refusal is none."""
        if (after := answer.headers.get("Retry-After", "")).isdigit():
            return float(after)
        if answer.headers.get("x-ratelimit-remaining") == "0":
            reset = answer.headers.get("x-ratelimit-reset", "")
            return max(1.0, float(reset) - self._clock()) if reset.isdigit() else _LIMIT_S
        return _LIMIT_S if answer.status_code == 429 or "rate limit" in _message(answer).lower() else None

    def _clean(self, text: str) -> str:
        return redact(text, extra=[self._token])[:500]


def connect(environ: Mapping[str, str], *, wait_s: float = 0.0, retries: int = RETRIES) -> GitHub | None:
    """The repository that a workflow runs for; None without GITHUB_TOKEN or GITHUB_REPOSITORY. Raises GitHubError."""
    token, repo = environ.get("GITHUB_TOKEN", "").strip(), environ.get("GITHUB_REPOSITORY", "").strip()
    if not token or not repo:
        return None
    api_url = environ.get("GITHUB_API_URL") or PUBLIC_API
    return GitHub(repo, token=token, api_url=api_url, wait_s=wait_s, retries=retries)


def part(text: str) -> str:
    """A name as one part of a URL's path."""
    return quote(text, safe="")


def _message(answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return answer.reason_phrase
    if not isinstance(body, dict):
        return answer.reason_phrase
    errors = body.get("errors")
    more = [str(it.get("message") or it.get("code") or "") for it in errors if isinstance(it, dict)] if errors else []
    return "; ".join([str(body.get("message") or answer.reason_phrase), *filter(None, more)])
