"""The ledger: what really happened to every run, on one append-only git branch per run.

Standard library only: pod and control plane write through the same code. Pushes are compare-and-swap (never forced), so
two writers at once lose nothing: the second rebuilds its commit on the first one's.
"""

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pushtrain.errors import AlreadyClaimed, LedgerError, LedgerUnavailable
from pushtrain.events import EVENT_FILE, Event, EventDraft, decode, encode
from pushtrain.gitcmd import failure
from pushtrain.gitstore import GitStore, Store, blob_id
from pushtrain.redact import redact
from pushtrain.run import RUN_ID

RUNS = "refs/heads/runs/"
CLAIMS = "refs/heads/claims/"
RECEIPT = "receipt.json"
_FILES = ("spec.yaml", "run.json", "result.json", "receipt.json")
# What git says when another writer was first. Every other refusal (a hook, a protected branch) is not a race.
_RACE = re.compile(
    r"(?i)stale info|fetch first|non-fast-forward|failed to update ref|failed to lock|cannot lock ref|"
    r"incorrect old value|reference already exists|atomic push fail"
)
_NUMBER = re.compile(r"/(\d{6})[^/]*$")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as the ledger has it at commit `tip`. `paths` are its files with their blob ids; logs and metrics are
    read on demand."""

    run_id: str
    tip: str
    spec: bytes
    run: Mapping[str, Any]
    events: tuple[Event, ...]
    result: Mapping[str, Any] | None
    receipt: Mapping[str, Any] | None
    paths: Mapping[str, str] = field(repr=False)

    @property
    def is_over(self) -> bool:
        """A run is over only with a receipt."""
        return self.receipt is not None

    @property
    def last(self) -> Event:
        return self.events[-1]


@dataclass(frozen=True)
class _Head:
    """The tip of a run's branch and what the next append needs to know of it."""

    tip: str | None
    blobs: Mapping[str, str]
    prev: str | None

    def next_number(self, folder: str) -> int:
        return 1 + max((_number(path) for path in self.blobs if path.startswith(folder + "/")), default=0)

    def after(self, commit: str, added: Mapping[str, bytes]) -> "_Head":
        last = max((path for path in added if EVENT_FILE.match(path)), default=None)
        prev = hashlib.sha256(added[last]).hexdigest() if last else self.prev
        return _Head(commit, {**self.blobs, **_ids(added)}, prev)


class Ledger:
    """The runs at one git URL (file://, ssh or https). `cache_dir` holds a bare repository that may be deleted.

    Not safe for several threads; several processes may share a cache. `token` goes to the URL's host as a header only.
    `store` takes the place of git and of the cache.
    """

    def __init__(
        self,
        url: str,
        *,
        cache_dir: Path,
        token: str | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        store: Store | None = None,
    ) -> None:
        self.url = url
        self._environ = dict(os.environ if environ is None else environ)
        self._clock, self._sleep = clock, sleep
        self._store = store or GitStore(url, cache_dir, token=token, environ=self._environ)
        self._heads: dict[str, _Head] = {}
        # Run id → the append whose answer was lost, and what each of its pushes would have added.
        self._uncertain: dict[str, tuple[str, list[dict[str, str]]]] = {}

    def refs(self) -> dict[str, str]:
        """Run id → tip commit of every run at the remote. One round trip, nothing fetched."""
        found = self._store.remote_refs(f"{RUNS}*")
        return {ref[len(RUNS) :]: sha for ref, sha in found.items() if RUN_ID.fullmatch(ref[len(RUNS) :])}

    def claimed_specs(self) -> set[str]:
        """Every `<job>-<spec8>` that some run has claimed."""
        return {ref[len(CLAIMS) :] for ref in self._store.remote_refs(f"{CLAIMS}*")}

    def claim(self, run_id: str, *, files: Mapping[str, bytes], event: EventDraft) -> str:
        """Create the run's branch and the spec's claim in one atomic, create-only push; returns the tip.

        Raises AlreadyClaimed when either exists (another reconcile was first), LedgerUnavailable when nobody can tell;
        calling again with the same arguments is then safe, LedgerError when the remote refuses it for another reason.
        """
        match = RUN_ID.fullmatch(run_id)
        if match is None:
            raise ValueError(f"not a run id: {run_id!r}")
        empty = _Head(None, {}, None)
        added = self._additions(empty, [event], b"", b"", files)
        commit = self._commit(None, added, f"{run_id}: {event.state}")
        run_ref, claim_ref = RUNS + run_id, f"{CLAIMS}{match['job']}-{match['spec']}"
        done = self._store.push({run_ref: commit, claim_ref: commit}, create_only=True)
        if done.returncode:
            there = self.refs().get(run_id)
            if there != commit:
                if there is not None or _is_race(done):
                    raise AlreadyClaimed(f"run {run_id}, or another run of the same spec, is already claimed")
                raise failure("push", done)
        self._keep(run_id, empty.after(commit, added))
        return commit

    def append(
        self,
        run_id: str,
        *,
        events: Sequence[EventDraft] = (),
        log: bytes = b"",
        metrics: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        timeout_s: float = 60.0,
    ) -> str:
        """Add events, a log chunk, a metrics chunk and new files in one commit and one push; returns the tip.

        Everything is redacted. Raises LedgerUnavailable when the remote could not be reached within `timeout_s`: call
        again with the SAME arguments; what had landed after all is found and not added twice. A file that is already
        there is left as it is: the ledger is append-only. Raises LedgerError when the remote will not take it.
        """
        deadline = self._clock() + timeout_s
        tried = self._tried(run_id, _digest_of(events, log, metrics, files or {}))
        while True:
            head = self._head(run_id)
            closed_before = RECEIPT in head.blobs and RECEIPT in (files or {})
            added = {} if closed_before else self._additions(head, events, log, metrics, files or {})
            if not added or any(_holds(head, earlier) for earlier in tried):
                del self._uncertain[run_id]
                return head.tip or ""
            commit = self._commit(head.tip, added, _subject(run_id, events))
            tried.append(_ids(added))
            done = self._store.push({RUNS + run_id: commit}, timeout_s=max(5.0, deadline - self._clock()))
            if done.returncode == 0:
                del self._uncertain[run_id]
                self._keep(run_id, head.after(commit, added))
                return commit
            if not _is_race(done):
                raise failure("push", done)
            tried.pop()  # refused for certain; an earlier push without an answer may still have been what won
            if self._clock() > deadline:
                raise LedgerUnavailable(f"another writer kept winning the push to {RUNS}{run_id}")
            self._heads.pop(run_id, None)
            self._sleep(0.05)

    def read(self, run_id: str, tip: str | None = None) -> RunRecord:
        """The run at the remote's tip (or at `tip`, as `refs` gave it). Raises LedgerError when unknown."""
        tip = tip or self.refs().get(run_id)
        if tip is None:
            raise LedgerError(f"there is no branch {RUNS}{run_id} at {self.url}", reason="UnknownRun")
        return self.read_all({run_id: tip})[run_id]

    def read_all(self, tips: Mapping[str, str]) -> dict[str, RunRecord]:
        """Records of many runs: one fetch for those whose tip is not here yet, then a handful of local commands in all.

        Raises LedgerError, naming the branch, for one that no run wrote.
        """
        came = self._store.fetch({RUNS + run_id: tip for run_id, tip in tips.items()})
        trees = self._store.trees([came[RUNS + run_id] for run_id in tips])
        wanted = [[path for path in sorted(tree) if path in _FILES or EVENT_FILE.match(path)] for tree in trees]
        raws = iter(
            self._store.objects([tree[path] for tree, paths in zip(trees, wanted, strict=True) for path in paths])
        )
        records = {}
        for run_id, tree, paths in zip(tips, trees, wanted, strict=True):
            read = {path: next(raws) for path in paths}
            records[run_id] = _record(run_id, came[RUNS + run_id], tree, read)
        return records

    def text(self, record: RunRecord, folder: str, after: int = 0) -> tuple[bytes, int]:
        """Chunks of `logs` or `metrics` numbered above `after`, joined, and the last number read."""
        mine = (path for path in record.paths if path.startswith(folder + "/"))
        names = sorted(path for path in mine if _number(path) > after)
        last = _number(names[-1]) if names else after
        return b"".join(self._store.objects([record.paths[name] for name in names])), last

    # How it is done.

    def _tried(self, run_id: str, key: str) -> list[dict[str, str]]:
        """The pushes of this very append that had no answer. After any such push the head must be read anew."""
        pending = self._uncertain.get(run_id)
        if pending and pending[1]:
            self._heads.pop(run_id, None)
        if pending is None or pending[0] != key:
            pending = self._uncertain[run_id] = (key, [])
        return pending[1]

    def _additions(
        self, head: _Head, events: Sequence[EventDraft], log: bytes, metrics: bytes, files: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        added = {path: self._clean(raw) for path, raw in files.items() if path not in head.blobs}
        if log:
            added[f"logs/{head.next_number('logs'):06d}.log"] = self._clean(log)
        if metrics:
            added[f"metrics/{head.next_number('metrics'):06d}.jsonl"] = self._clean(metrics)
        seq, prev = head.next_number("events"), head.prev
        for draft in events:
            name, raw = encode(draft, seq=seq, prev=prev, now_s=self._clock())
            added[name] = raw = self._clean(raw)
            seq, prev = seq + 1, hashlib.sha256(raw).hexdigest()
        return added

    def _clean(self, raw: bytes) -> bytes:
        return redact(raw.decode(errors="replace"), self._environ).encode()

    def _commit(self, parent: str | None, files: Mapping[str, bytes], subject: str) -> str:
        return self._store.commit(parent, files, redact(subject, self._environ).encode(), self._clock())

    def _head(self, run_id: str) -> _Head:
        if run_id in self._heads and self._store.exists:
            return self._heads[run_id]
        tip = self.refs().get(run_id)
        if tip is None:
            return _Head(None, {}, None)
        tip = self._store.fetch({RUNS + run_id: tip})[RUNS + run_id]
        blobs = self._store.trees([tip])[0]
        last = max((path for path in blobs if EVENT_FILE.match(path)), default=None)
        prev = hashlib.sha256(self._store.objects([blobs[last]])[0]).hexdigest() if last else None
        self._heads[run_id] = head = _Head(tip, blobs, prev)
        return head

    def _keep(self, run_id: str, head: _Head) -> None:
        self._heads[run_id] = head
        self._store.keep(RUNS + run_id, head.tip or "")


def _record(run_id: str, tip: str, tree: Mapping[str, str], read: Mapping[str, bytes]) -> RunRecord:
    spec, run, result, receipt = (read.get(path) for path in _FILES)
    try:
        record = RunRecord(
            run_id=run_id,
            tip=tip,
            spec=spec or b"",
            run=dict(json.loads(run or b"{}")),
            events=tuple(decode(raw) for path, raw in read.items() if path not in _FILES),
            result=dict(json.loads(result)) if result else None,
            receipt=dict(json.loads(receipt)) if receipt else None,
            paths=tree,
        )
        if not record.events:
            raise ValueError("there is no event")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerError(
            f"branch runs/{run_id} holds no run: {type(error).__name__}: {error}",
            hint=f"look at it with git log runs/{run_id}; delete the branch if no run of pushtrain wrote it",
        ) from None
    return record


def _is_race(done: subprocess.CompletedProcess[bytes]) -> bool:
    return bool(_RACE.search((done.stdout + done.stderr).decode(errors="replace")))


def _holds(head: _Head, added: Mapping[str, str]) -> bool:
    return all(head.blobs.get(path) == blob for path, blob in added.items())


def _ids(added: Mapping[str, bytes]) -> dict[str, str]:
    return {path: blob_id(raw) for path, raw in added.items()}


def _number(path: str) -> int:
    """The six digits a file of logs/, metrics/ or events/ starts with; 0 for a file that is none of ours."""
    match = _NUMBER.search(path)
    return int(match[1]) if match else 0


def _subject(run_id: str, events: Sequence[EventDraft]) -> str:
    return f"{run_id}: {', '.join(event.state for event in events) or 'logs'}"


def _digest_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
