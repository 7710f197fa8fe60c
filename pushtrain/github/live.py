"""Runs, as they go, told to GitHub: one comment in the pull request they came from, and a status at their commit.

A reconcile calls `after` behind each tick and `finish` at its end. Nothing of this ever disturbs it: a refusal is said
once, and GitHub is then left alone for a while. What is told comes from the ledger, so that another process, or the
next Action, goes on with the same comment.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial

from pushtrain.control import Control
from pushtrain.errors import GitHubError, GitHubUnavailable, PushtrainError
from pushtrain.github.client import MOST_PAGES, GitHub, connect
from pushtrain.github.markdown import fitted
from pushtrain.github.posting import summarize
from pushtrain.github.pulls import pull_of
from pushtrain.github.running import section, status
from pushtrain.github.sticky import Sticky, login
from pushtrain.ledger import RunRecord
from pushtrain.policy.outside import APPROVAL_MISSING
from pushtrain.progress import Progress
from pushtrain.reconcile import Tick
from pushtrain.redact import redact
from pushtrain.run import RUN_ID

COMMENT_EVERY_S = 180.0
# After a refusal; what is limited says itself how long.
QUIET_S = 300.0
# Of one tick; what is left to tell then is told behind the next one.
BUSY_S = 10.0
# Of one commit, in one comment: sweeps with more are told by their newest.
MOST_RUNS = 50


@dataclass(kw_only=True)
class _Followed:
    """One run, how far its metrics were read, and what GitHub was told of it. `pull` is None for a direct push."""

    record: RunRecord
    progress: Progress = field(default_factory=Progress)
    chunk: int = 0
    pull: int | None = None
    is_pull_known: bool = False
    told_end: bool = False

    @property
    def commit(self) -> str:
        return str(self.record.run["commit"])


@dataclass(kw_only=True)
class _Comment:
    sticky: Sticky
    told_s: float = float("-inf")
    has_siblings: bool = False


@contextmanager
def told(
    control: Control, environ: Mapping[str, str], once: Callable[[Tick], None]
) -> Iterator[Callable[[Tick], None]]:
    """`once`, and behind it GitHub told of each tick where the environment has its token and its repository."""
    try:
        github = connect(environ, retries=0)
    except PushtrainError as wrong:
        control.say(f"without GitHub: {wrong}")
        github = None
    if github is None:
        yield once
        return
    live = Live(github, control, environ)

    def both(done: Tick) -> None:
        once(done)
        live.after(done)

    try:
        yield both
        live.finish()
    finally:
        live.close()


class Live:
    """`environ` is the workflow's. Whoever makes one calls `close`."""

    def __init__(self, github: GitHub, control: Control, environ: Mapping[str, str]) -> None:
        self._github, self._control, self._environ = github, control, environ
        self._runs: dict[str, _Followed] = {}
        self._comments: dict[tuple[int, str], _Comment] = {}
        self._statuses: dict[str, dict[str, tuple[str, str]]] = {}
        self._quiet_until_s: dict[str, float] = {}
        self._busy_until_s = float("-inf")
        self._private: bool | None = None
        self._said: set[tuple[str, str]] = set()
        server, run = environ.get("GITHUB_SERVER_URL", ""), environ.get("GITHUB_RUN_ID", "")
        self._page = f"{server}/{github.repo}/actions/runs/{run}" if server.startswith("https://") and run else ""
        self._hub_url = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")

    def close(self) -> None:
        self._github.close()

    def after(self, done: Tick) -> None:
        """Tells what a tick changed. Never raises a failure of GitHub or of the ledger."""
        self._take_in(done)
        self._busy_until_s = self._control.clock() + BUSY_S
        for what, tell in (("statuses", partial(self._tell_statuses, done)), ("comments", self._tell_comments)):
            if self._control.clock() >= self._quiet_until_s.get(what, 0.0):
                try:
                    tell()
                except PushtrainError as failure:
                    self._step_back(what, failure)

    def finish(self) -> None:
        """Every run that was followed, in the step summary."""
        mine = sorted(self._runs.values(), key=lambda it: it.record.run_id)
        if not mine or not self._environ.get("GITHUB_STEP_SUMMARY"):
            return
        try:
            for followed in mine:
                self._read_on(followed)
        except PushtrainError as failure:
            self._step_back("summary", failure)
        summarize(self._text("Runs", mine), self._environ, self._control.say)

    def _take_in(self, done: Tick) -> None:
        for run_id, record in done.records.items():
            if run_id in done.closed:
                try:
                    record = self._control.ledger.read(run_id)
                except PushtrainError as failure:
                    self._step_back("comments", failure)
            if run_id in self._runs:
                self._runs[run_id].record = record
            else:
                self._runs[run_id] = _Followed(record=record)

    def _tell_statuses(self, done: Tick) -> None:
        for followed in list(self._runs.values()):
            self._tell_status(followed.commit, str(followed.record.run["job"]), *status(followed.record))
        for job, refusal in self._control.refusals.items():
            waits = refusal.failure.reason == APPROVAL_MISSING
            text = f"{refusal.failure.reason}: {refusal.failure}"
            self._tell_status(done.commit, job, "pending" if waits else "failure", text)

    def _tell_status(self, commit: str, job: str, state: str, description: str) -> None:
        """On a change only: GitHub keeps a thousand of a commit and name, and tells subscribers of each."""
        context, text = f"pushtrain/{job}", redact(description)[:140]
        known = self._known_statuses(commit)
        if known.get(context) == (state, text):
            return
        if self._control.clock() > self._busy_until_s:
            return
        body = {"state": state, "context": context, "description": text}
        self._github.post(f"statuses/{commit}", body | ({"target_url": self._page} if self._page else {}))
        known[context] = (state, text)

    def _known_statuses(self, commit: str) -> dict[str, tuple[str, str]]:
        """What was told of a commit, by this process or by one before it."""
        if commit not in self._statuses:
            known, page, total = dict[str, tuple[str, str]](), 1, 1
            while len(known) < total and page <= MOST_PAGES:  # the newest of each context
                answer = self._github.get(f"commits/{commit}/status", per_page=100, page=page)
                found = {
                    it["context"]: (str(it["state"]), str(it.get("description") or "")) for it in answer["statuses"]
                }
                total, page = int(answer["total_count"]) if found else 0, page + 1
                known |= found
            self._statuses[commit] = known
        return self._statuses[commit]

    def _tell_comments(self) -> None:
        groups: dict[tuple[int, str], list[_Followed]] = {}
        for followed in list(self._runs.values()):
            if self._control.clock() > self._busy_until_s and not followed.is_pull_known:
                continue
            if (pull := self._pull(followed)) is not None:
                groups.setdefault((pull, followed.commit), []).append(followed)
        for (pull, commit), members in groups.items():
            comment = self._comments.get((pull, commit))
            if comment is None:
                sticky = Sticky(self._github, pull, f"runs:{commit[:8]}", author=login(self._environ))
                comment = self._comments[pull, commit] = _Comment(sticky=sticky)
            ending = [it for it in members if it.record.is_over and not it.told_end]
            is_active = any(not it.record.is_over for it in members)
            if ending or (is_active and self._control.clock() - comment.told_s >= COMMENT_EVERY_S):
                self._tell_comment(comment, pull, commit, members)
                for followed in ending:
                    followed.told_end = True

    def _tell_comment(self, comment: _Comment, pull: int, commit: str, members: list[_Followed]) -> None:
        if not comment.has_siblings:
            members = members + self._siblings(pull, commit)
            comment.has_siblings = True
        comment.told_s = self._control.clock()
        for followed in members:
            self._read_on(followed)
        members = sorted(members, key=lambda it: (it.record.is_over, it.record.run_id))
        comment.sticky.put(self._text(f"Runs of `{commit[:8]}`", members))

    def _siblings(self, pull: int, commit: str) -> list[_Followed]:
        """Runs of the same commit and pull request that were over before this process began."""
        refs = self._control.ledger.refs()
        ids = [it for it in refs if (match := RUN_ID.fullmatch(it)) and match["commit"] == commit[:8]]
        tips = {run_id: refs[run_id] for run_id in ids[-MOST_RUNS:] if run_id not in self._runs}
        found = [
            _Followed(record=record, told_end=True)
            for record in self._control.ledger.read_all(tips).values()
            if record.run.get("commit") == commit
        ]
        mine = [followed for followed in found if self._pull(followed) == pull]
        self._runs |= {followed.record.run_id: followed for followed in mine}
        return mine

    def _pull(self, followed: _Followed) -> int | None:
        if not followed.is_pull_known:
            said = followed.record.events[0].data.get("pull")
            if isinstance(said, int):
                followed.pull = said
            else:
                found = pull_of(self._github, followed.commit, str(followed.record.run["spec_path"]))
                followed.pull = int(found["number"]) if found is not None else None
            followed.is_pull_known = True
        return followed.pull

    def _read_on(self, followed: _Followed) -> None:
        raw, followed.chunk = self._control.ledger.text(followed.record, "metrics", followed.chunk)
        followed.progress.add(raw.splitlines())

    def _text(self, title: str, members: list[_Followed]) -> str:
        now_s = self._control.clock()
        is_private = any(it.record.is_over for it in members) and self._is_private()
        sections = [section(it.record, it.progress, now_s, self._hub_url, is_private=is_private) for it in members]
        active = sum(not it.record.is_over for it in members)
        tail = f"<sub>{_clock(now_s)}" + (
            ", anew every few minutes while a run is active</sub>" if active else "</sub>"
        )
        return redact(fitted(f"## pushtrain: {title}", sections, tail), self._environ)

    def _is_private(self) -> bool:
        """Asked once; while GitHub does not say, the repository counts as public."""
        if self._private is None:
            try:
                self._private = self._github.is_private()
            except GitHubError as failure:
                self._step_back("comments", failure)
        return bool(self._private)

    def _step_back(self, what: str, failure: PushtrainError) -> None:
        quiet_s = max(QUIET_S, failure.retry_s) if isinstance(failure, GitHubUnavailable) else QUIET_S
        self._quiet_until_s[what] = self._control.clock() + quiet_s
        if (what, failure.reason) not in self._said:
            self._said.add((what, failure.reason))
            hint = f" ({failure.hint})" if failure.hint else ""
            self._control.say(f"no {what} on GitHub for now: {redact(str(failure))}{hint}; the runs go on all the same")


def _clock(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
