"""What is left of copies of checkpoints when a run is over: of one that succeeded none, unless the pod could not remove
them; of any other they stay for `KEPT_DAYS`, for whoever wants to look, and go with `pushtrain sweep --copies --yes`.

A copy is this ledger's when the ledger has the run it is named after, closed, and that run's own spec names the place:
nothing else in the repository or bucket is looked at. A closed run is never gone on with: a retry is a run of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote

import httpx

from pushtrain.copies.bucket import access_to, prefix_of
from pushtrain.errors import HubError, PushtrainError, SpecError
from pushtrain.ledger import RunRecord
from pushtrain.spec import TrainingSpec
from pushtrain.spec.file import loads
from pushtrain.volumes.endpoints import Access
from pushtrain.volumes.store import VolumeStore

KEPT_DAYS = 7.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """A closed run's copies: in branch checkpoint/RUN-ID of `repo`, or below `url`, the one that is not empty."""

    run_id: str
    outcome: str
    days: float
    repo: str = ""
    url: str = ""

    @property
    def words(self) -> str:
        where = f"branch checkpoint/{self.run_id} of {self.repo}" if self.repo else f"{self.url}/{self.run_id}/"
        return f"copies of checkpoints in {where} ({self.outcome} {self.days:.0f} days ago)"


def leftovers(
    records: Iterable[RunRecord], environ: Mapping[str, str], now_s: float
) -> tuple[list[Leftover], list[PushtrainError]]:
    """Those whose time is over, and what could not be asked. Blocking: one request a repository, one or more a run with
    a bucket."""
    due, troubles = list[Leftover](), list[PushtrainError]()
    for record in records:
        try:
            due += [one] if (one := _due(record, now_s)) is not None else []
        except SpecError as trouble:
            troubles.append(trouble)
    found = list[Leftover]()
    branches: dict[str, set[str]] = {}
    for one in due:
        try:
            if one.repo and one.repo not in branches:
                branches[one.repo] = set()  # asked once, also where that fails
                branches[one.repo] = _branches(one.repo, environ)
            is_there = f"checkpoint/{one.run_id}" in branches[one.repo] if one.repo else any(_files(one, environ))
        except PushtrainError as trouble:
            troubles.append(trouble)
            continue
        found += [one] if is_there else []
    return found, troubles


def remove(one: Leftover, environ: Mapping[str, str]) -> None:
    """Absent is success. Raises PushtrainError."""
    if one.repo:
        return _ask(
            "DELETE", f"/api/models/{one.repo}/branch/{quote(f'checkpoint/{one.run_id}', safe='')}", environ, {}
        )
    store, prefix = _opened(access_to(one.url, environ)), prefix_of(one.url, one.run_id)
    for key, uploads in store.unfinished(prefix).items():
        for upload in uploads:
            store.abort(key, upload)
    # The markers first: what is left of a removal that was cut short is no whole copy.
    for key in sorted(_files(one, environ), key=lambda key: not key.endswith("/COMPLETE.json")):
        store.delete(key)


def _due(record: RunRecord, now_s: float) -> Leftover | None:
    """None for a run that is not over, that has no copies, or that ended too short ago. Raises SpecError for one that
    had a pod and whose spec this version does not read: nobody knows where its copies are."""
    if not record.is_over:
        return None
    try:
        spec = loads(record.spec, "spec.yaml", check_name=False)
    except PushtrainError as unread:
        if not any(event.state == "provisioned" for event in record.events):
            return None
        raise SpecError(
            f"{record.run_id}: copies of its checkpoints were not looked for: its spec is not one any more ({unread})",
            hint="the version of pushtrain that ran it removes them",
        ) from None
    if not isinstance(spec, TrainingSpec) or not spec.copies_to:
        return None
    closed = next(event for event in record.events if event.state == "closed")
    outcome, days = str(closed.data.get("outcome", "")), (now_s - closed.epoch_s) / 86400
    if outcome != "succeeded" and days < KEPT_DAYS:
        return None
    url = (spec.publish.checkpoints or "").rstrip("/")
    repo = "" if url else spec.publish.repo
    return Leftover(run_id=record.run_id, outcome=outcome, days=days, repo=repo, url=url)


def _files(one: Leftover, environ: Mapping[str, str]) -> list[str]:
    store = _opened(access_to(one.url, environ))
    return [entry.key for entry in store.files(prefix_of(one.url, one.run_id))]


@cache
def _opened(access: Access) -> VolumeStore:
    return VolumeStore(access)


def _branches(repo: str, environ: Mapping[str, str]) -> set[str]:
    """Empty for a repository that is gone."""
    listed: dict[str, list[dict[str, str]]] = {}
    _ask("GET", f"/api/models/{repo}/refs", environ, listed)
    return {str(it.get("name")) for it in listed.get("branches") or ()}


def _ask(method: str, path: str, environ: Mapping[str, str], answer: dict[str, list[dict[str, str]]]) -> None:
    """Fills `answer`; a 404 leaves it empty. Raises HubError."""
    token = environ.get("HF_TOKEN", "").strip()
    headers = {"user-agent": "pushtrain", **({"authorization": f"Bearer {token}"} if token else {})}
    url = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        said = httpx.request(method, f"{url}{path}", headers=headers, timeout=_TIMEOUT_S)
        if said.status_code == 404:
            return
        said.raise_for_status()
        if method == "GET":
            answer.update(said.json())
    except httpx.HTTPStatusError as error:
        hint = "HF_TOKEN has to be one that may write there"
        raise HubError(f"{method} {path}: the Hub answered {error.response.status_code}", hint=hint) from None
    except (httpx.HTTPError, ValueError, TypeError) as error:
        raise HubError(f"{method} {path}: {type(error).__name__}", hint="try again later") from None
