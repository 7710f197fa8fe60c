"""The Hub's token: whose it is, how much it may, and whether each adapter can be pushed with it."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from pushtrain.doctor.finding import Check, Finding, Place
from pushtrain.errors import HubError
from pushtrain.redact import redact
from pushtrain.spec import CommandSpec, JobSpec, TrainingSpec

TOKENS = "https://huggingface.co/settings/tokens"
_TIMEOUT_S = 10.0


def hub_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Raises HubError where the Hub does not answer, or not as it should."""
    token = place.environ.get("HF_TOKEN", "").strip()
    repos = sorted(filter(None, {published(spec) for spec in place.specs}))
    trains = any(isinstance(spec, TrainingSpec) for spec in place.specs)
    if not token:
        if repos or trains:
            message = f"HF_TOKEN is not set, and {', '.join(repos) or 'a training'} needs it"
            yield check.wrong(message, f"a fine-grained token that may write there: {TOKENS}")
        else:
            yield check.ok("HF_TOKEN is not set, and no job needs it")
        return
    with _client(place.environ, token) as client:
        status, said = _get(client, "/api/whoami-v2")
        if status != 200:
            yield check.wrong(f"the Hub does not take HF_TOKEN: HTTP {status}", f"make another one: {TOKENS}")
            return
        yield _scope(check, said, repos)
        for repo in repos:
            yield _writes(client, check, repo)


def published(spec: JobSpec) -> str | None:
    """The repository a job publishes to; a command may publish nothing."""
    found = spec.publish if isinstance(spec, TrainingSpec | CommandSpec) else None
    return found.repo if found is not None else None


def _scope(check: Check, said: Mapping[str, Any], repos: list[str]) -> Finding:
    access = ((said.get("auth") or {}).get("accessToken") or {}) if isinstance(said.get("auth"), Mapping) else {}
    who, role = str(said.get("name", "?")), str(access.get("role", "?"))
    if role == "fineGrained":
        scoped = (access.get("fineGrained") or {}).get("scoped") or []
        names = [str((it.get("entity") or {}).get("name", "?")) for it in scoped if _may_write(it.get("permissions"))]
        more = sorted(set(names) - set(repos))
        if more:
            message = f"HF_TOKEN of {who} writes to {', '.join(more)}, which no job publishes to; a pod has this token"
            return check.warning(message, f"take what is not needed out: {TOKENS}")
        return check.ok(f"HF_TOKEN of {who}, fine-grained, writes to {', '.join(sorted(names)) or 'nothing'}")
    if role == "write":
        message = f"HF_TOKEN of {who} may write to all of its repositories, and a pod has this token"
        return check.warning(message, f"a fine-grained one for {', '.join(repos) or 'one repository'}: {TOKENS}")
    return check.ok(f"HF_TOKEN of {who}, role {role}")


def _may_write(permissions: object) -> bool:
    return isinstance(permissions, list) and any("write" in str(it) for it in permissions)


def _writes(client: httpx.Client, check: Check, repo: str) -> Finding:
    status, _ = _get(client, f"/api/models/{repo}/auth-check/write")
    if status == 200:
        return check.ok(f"{repo} can be written to")
    if status in (401, 404):
        fix = f"hf repo create {repo} --private, and let the token write to it: {TOKENS}"
        return check.wrong(f"{repo}: it is not there, or the token may not see it", fix)
    if status == 403:
        return check.wrong(f"{repo}: the token may not write to it", f"{TOKENS}: repo.write for {repo}")
    return check.unknown(f"{repo}: the Hub answered HTTP {status}", "look again later")


def _client(environ: Mapping[str, str], token: str) -> httpx.Client:
    url = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    headers = {"authorization": f"Bearer {token}", "user-agent": "pushtrain"}
    return httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S)


def _get(client: httpx.Client, path: str) -> tuple[int, dict[str, Any]]:
    try:
        answer = client.get(path)
        said = answer.json() if answer.is_success else {}
    except httpx.HTTPError as error:
        raise HubError(
            f"{client.base_url} cannot be reached: {redact(type(error).__name__)}", hint="look again later"
        ) from None
    except ValueError:
        raise HubError(f"{client.base_url}{path} does not answer with JSON", hint="is HF_ENDPOINT a Hub?") from None
    return answer.status_code, said if isinstance(said, dict) else {}
