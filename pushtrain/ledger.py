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

from pushtrain.errors import AlreadyClaimed, LedgerUnavailable, PushtrainError
from pushtrain.events import EVENT_FILE, Event, EventDraft, decode, encode
from pushtrain.gitcmd import failure
from pushtrain.gitstore import GitStore, blob_id
from pushtrain.redact import redact
from pushtrain.run import RUN_ID

RUNS = "refs/heads/runs/"
CLAIMS = "refs/heads/claims/"
_REJECTED = re.compile(
    r"(?i)\[(remote )?rejected\]|stale info|fetch first|non-fast-forward|failed to update ref|cannot lock ref"
)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as the ledger has it at commit `tip`. `paths` are all its files; logs and metrics are read on demand."""

    run_id: str
    tip: str
    spec: bytes
    run: Mapping[str, Any]
    events: tuple[Event, ...]
    result: Mapping[str, Any] | None
    receipt: Mapping[str, Any] | None
    paths: tuple[str, ...] = field(repr=False)

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
        return 1 + max(
            (int(path[len(folder) + 1 :][:6]) for path in self.blobs if path.startswith(folder + "/")), default=0
        )


class Ledger:
    """The runs at one git URL (file://, ssh or https). `cache_dir` holds a bare repository that may be deleted.

    Not safe for several threads; several processes may share a cache. `token` goes to the URL's host as a header only.
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
    ) -> None:
        self.url = url
        self._environ = dict(os.environ if environ is None else environ)
        self._clock, self._sleep = clock, sleep
        self._store = GitStore(url, cache_dir, token=token, environ=self._environ)
        self._heads: dict[str, _Head] = {}
        self._uncertain: dict[str, tuple[str, Mapping[str, bytes]]] = {}

    def refs(self) -> dict[str, str]:
        """Run id → tip commit of every run at the remote. One round trip, nothing fetched."""
        found = self._store.remote_refs(f"{RUNS}*")
        return {ref[len(RUNS) :]: sha for ref, sha in found.items() if RUN_ID.match(ref[len(RUNS) :])}

    def claimed_specs(self) -> set[str]:
        """Every `<job>-<spec8>` that some run has claimed."""
        return {ref[len(CLAIMS) :] for ref in self._store.remote_refs(f"{CLAIMS}*")}

    def claim(self, run_id: str, *, files: Mapping[str, bytes], event: EventDraft) -> str:
        """Create the run's branch and the spec's claim in one atomic, create-only push; returns the tip.

        Raises AlreadyClaimed when either exists (another reconcile was first), LedgerUnavailable when nobody can tell;
        calling again with the same arguments is then safe.
        """
        match = RUN_ID.match(run_id)
        if match is None:
            raise ValueError(f"not a run id: {run_id!r}")
        empty = _Head(None, {}, None)
        commit = self._commit(None, self._additions(empty, [event], b"", b"", files), f"{run_id}: {event.state}")
        run_ref, claim_ref = RUNS + run_id, f"{CLAIMS}{match['job']}-{match['spec']}"
        done = self._store.push(
            "--atomic",
            f"--force-with-lease={run_ref}:",
            f"--force-with-lease={claim_ref}:",
            f"{commit}:{run_ref}",
            f"{commit}:{claim_ref}",
        )
        if done.returncode:
            there = self.refs().get(run_id)
            if there != commit:
                if there is not None or _is_rejection(done):
                    raise AlreadyClaimed(f"run {run_id}, or another run of the same spec, is already claimed")
                raise failure("push", done)
        self._remember(run_id, commit)
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
        there is left as it is: the ledger is append-only.
        """
        key = _digest_of(events, log, metrics, files or {})
        deadline = self._clock() + timeout_s
        head = self._settled_head(run_id, key)
        if head is None:
            return self._forget(run_id)
        while True:
            added = self._additions(head, events, log, metrics, files or {})
            if not added:
                return head.tip or ""
            commit = self._commit(head.tip, added, _subject(run_id, events))
            self._uncertain[run_id] = (key, added)
            done = self._store.push(f"{commit}:{RUNS}{run_id}", timeout_s=max(5.0, deadline - self._clock()))
            if done.returncode == 0:
                del self._uncertain[run_id]
                self._remember(run_id, commit)
                return commit
            if not _is_rejection(done):
                raise failure("push", done)
            if self._clock() > deadline:
                raise LedgerUnavailable(f"another writer kept winning the push to {RUNS}{run_id}")
            self._heads.pop(run_id, None)
            self._sleep(0.05)
            head = self._head(run_id)

    def read(self, run_id: str, tip: str | None = None) -> RunRecord:
        """The run at the remote's tip (or at `tip`, as `refs` gave it). Raises KeyError when unknown."""
        return self.read_all({run_id: tip or self.refs()[run_id]})[run_id]

    def read_all(self, tips: Mapping[str, str]) -> dict[str, RunRecord]:
        """Records of many runs: one fetch for those whose tip is not here yet, two local commands a run."""
        came = self._store.fetch({RUNS + run_id: tip for run_id, tip in tips.items()})
        return {run_id: self._record(run_id, came[RUNS + run_id]) for run_id in tips}

    def text(self, record: RunRecord, folder: str, after: int = 0) -> tuple[bytes, int]:
        """Chunks of `logs` or `metrics` numbered above `after`, joined, and the last number read."""
        mine = (path for path in record.paths if path.startswith(folder + "/"))
        names = sorted(path for path in mine if _number(path, folder) > after)
        blobs = self._store.blobs([f"{record.tip}:{name}" for name in names])
        last = _number(names[-1], folder) if names else after
        return b"".join(blob or b"" for blob in blobs), last

    # How it is done.

    def _settled_head(self, run_id: str, key: str) -> _Head | None:
        """The head to append to; None when the append with this key turns out to have landed already."""
        pending = self._uncertain.get(run_id)
        if pending is None:
            return self._heads.get(run_id) or self._head(run_id)
        head = self._head(run_id)
        landed = all(head.blobs.get(path) == blob_id(raw) for path, raw in pending[1].items())
        if landed and pending[0] == key:
            self._heads[run_id] = head
            return None
        return head

    def _forget(self, run_id: str) -> str:
        del self._uncertain[run_id]
        return self._heads[run_id].tip or ""

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
        tip = self.refs().get(run_id)
        if tip is None:
            return _Head(None, {}, None)
        return self._remember(run_id, self._store.fetch({RUNS + run_id: tip})[RUNS + run_id])

    def _remember(self, run_id: str, tip: str) -> _Head:
        blobs = self._store.tree(tip)
        last = max((path for path in blobs if EVENT_FILE.match(path)), default=None)
        raw = self._store.blobs([f"{tip}:{last}"])[0] if last else None
        self._heads[run_id] = head = _Head(tip, blobs, hashlib.sha256(raw).hexdigest() if raw else None)
        self._store.keep(RUNS + run_id, tip)
        return head

    def _record(self, run_id: str, tip: str) -> RunRecord:
        blobs = self._store.tree(tip)
        names = sorted(path for path in blobs if EVENT_FILE.match(path))
        wanted = ["spec.yaml", "run.json", "result.json", "receipt.json", *names]
        spec, run, result, receipt, *events = self._store.blobs([f"{tip}:{path}" for path in wanted])
        return RunRecord(
            run_id=run_id,
            tip=tip,
            spec=spec or b"",
            run=json.loads(run or b"{}"),
            events=tuple(decode(raw) for raw in events if raw),
            result=json.loads(result) if result else None,
            receipt=json.loads(receipt) if receipt else None,
            paths=tuple(blobs),
        )


def newest_run(ledger: Ledger, name: str) -> RunRecord:
    """A run by its id or the beginning of it, the newest of several. Raises PushtrainError when there is none."""
    refs = ledger.refs()
    matches = {run_id: tip for run_id, tip in refs.items() if run_id.startswith(name)}
    if not matches:
        known = ", ".join(sorted(refs)[:5]) or "none"
        raise PushtrainError(f"no run '{name}' in the ledger", hint=f"known runs: {known}", reason="UnknownRun")
    return max(ledger.read_all(matches).values(), key=lambda record: record.events[0].epoch_s)


def _is_rejection(done: subprocess.CompletedProcess[bytes]) -> bool:
    return bool(_REJECTED.search((done.stdout + done.stderr).decode(errors="replace")))


def _number(path: str, folder: str) -> int:
    """The six digits a file of logs/, metrics/ or events/ starts with."""
    return int(path[len(folder) + 1 :][:6])


def _subject(run_id: str, events: Sequence[EventDraft]) -> str:
    return f"{run_id}: {', '.join(event.state for event in events) or 'logs'}"


def _digest_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
