"""The ledger: what really happened to every run, on one append-only git branch per run.

Standard library only: pod and control plane write through the same code. Pushes are compare-and-swap (never forced), so
two writers at once lose nothing: the second rebuilds its commit on the first one's.
"""

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pushtrain.branch import Addition, Head, blob_ids, number
from pushtrain.errors import AlreadyClaimed, LedgerError, LedgerMoved, LedgerUnavailable
from pushtrain.events import EVENT_FILE, EventDraft
from pushtrain.gitcache import CacheBroken
from pushtrain.gitcmd import failure, refused
from pushtrain.gitstore import GitStore, Store
from pushtrain.record import RECEIPT, Evidence, decoded, is_beside
from pushtrain.record import RunRecord as RunRecord
from pushtrain.redact import redact
from pushtrain.refs import CLAIMS, RUNS, Look, claim_of, look

# What git says when another writer was first. What a rule of the remote refuses is not a race, whatever else it says.
_RACE = re.compile(
    r"(?i)stale info|fetch first|non-fast-forward|failed to update ref|failed to lock|cannot lock ref|"
    r"incorrect old value|reference already exists|atomic push fail"
)
# A receipt moves the spec's claim to itself; after so many refusals it goes without.
_MARKS = 3
_WITNESSED = "refs/witnessed/"
T = TypeVar("T")


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
        self._heads: dict[str, Head] = {}
        self._records: dict[str, RunRecord] = {}
        # Run id → the append whose answer was lost, and what each of its pushes would have added.
        self._uncertain: dict[str, tuple[str, list[dict[str, str]]]] = {}

    def look(self) -> Look:
        """Tips of every run and claim at the remote. One round trip, nothing fetched."""
        return look(self._mended(lambda: self._store.remote_refs(f"{RUNS}*", f"{CLAIMS}*")))

    def refs(self) -> dict[str, str]:
        """Run id → tip commit of every run at the remote. One round trip, nothing fetched."""
        return dict(self.look().runs)

    def claim(self, run_id: str, *, files: Mapping[str, bytes], event: EventDraft) -> str:
        """Create the run's branch and the spec's claim in one atomic, create-only push; returns the tip.

        Raises AlreadyClaimed when either exists (another reconcile was first), LedgerUnavailable when nobody can tell;
        calling again with the same arguments is then safe, LedgerError when the remote refuses it for another reason.
        """
        claim_ref = CLAIMS + claim_of(run_id)
        return self._mended(lambda: self._claim(run_id, claim_ref, files, event))

    def append(
        self,
        run_id: str,
        *,
        events: Sequence[EventDraft] = (),
        log: bytes = b"",
        metrics: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        more_to_come: bool = False,
        timeout_s: float = 60.0,
    ) -> str:
        """Add events, a log chunk, a metrics chunk and new files in one commit and one push; returns the tip.

        Everything is redacted. Raises LedgerUnavailable when the remote could not be reached within `timeout_s`: call
        again with the SAME arguments; what had landed after all is found and not added twice. A file that is already
        there is left as it is: the ledger is append-only. Raises LedgerError (reason PushRefused when a rule of the
        remote says no) when the remote will not take it. The append that brings the run's last file moves the spec's
        claim to itself: the final bill, or a receipt without `more_to_come`.
        """
        addition = Addition(events=events, log=log, metrics=metrics, files=files or {}, more_to_come=more_to_come)
        deadline = self._clock() + timeout_s
        return self._mended(lambda: self._append(run_id, addition, deadline))

    def append_at(self, run_id: str, tip: str, event: EventDraft, timeout_s: float = 60.0) -> str:
        """Add an event to the commit `tip`, as it was read, or not at all; returns the new tip.

        Raises LedgerMoved where somebody else wrote since, and as `append` does.
        """
        addition, deadline = Addition(events=[event]), self._clock() + timeout_s
        return self._mended(lambda: self._append(run_id, addition, deadline, tip))

    def read(self, run_id: str, tip: str | None = None) -> RunRecord:
        """The run at the remote's tip (or at `tip`, as `refs` gave it). Raises LedgerError when unknown."""
        tip = tip or self.refs().get(run_id)
        if tip is None:
            raise LedgerError(f"there is no branch {RUNS}{run_id} at {self.url}", reason="UnknownRun")
        return self.read_all({run_id: tip})[run_id]

    def read_all(self, tips: Mapping[str, str]) -> dict[str, RunRecord]:
        """Records of many runs: one fetch for those whose tip is not here yet, then a handful of local commands in all.
        A run that has not moved since this object read it costs nothing.

        Raises LedgerError, naming the branch, for one that no run wrote.
        """
        known = {run_id: self._records.get(run_id) for run_id in tips}
        moved = {run_id: tip for run_id, tip in tips.items() if (it := known[run_id]) is None or it.tip != tip}
        self._records |= self._mended(lambda: self._read_all(moved))
        return {run_id: self._records[run_id] for run_id in tips}

    def evidence(self, run_ids: Sequence[str]) -> list[Evidence]:
        """What the remote holds of these runs, for whoever does not believe it. Raises LedgerError when unknown."""
        return self._mended(lambda: self._evidence(run_ids))

    def witness(self, run_id: str, tip: str) -> None:
        """Remember that a run was whole up to `tip`: its branch has to hold that commit ever after."""
        if self._store.seen([_WITNESSED + run_id]) != {_WITNESSED + run_id: tip}:
            self._store.keep(_WITNESSED + run_id, tip)

    def text(self, record: RunRecord, folder: str, after: int = 0) -> tuple[bytes, int]:
        """Chunks of `logs` or `metrics` numbered above `after`, joined, and the last number read."""
        mine = (path for path in record.paths if path.startswith(folder + "/"))
        names = sorted(path for path in mine if number(path) > after)
        if not names:
            return b"", after
        return b"".join(self._mended(lambda: self._blobs(record, names))), number(names[-1])

    # How it is done.

    def _mended(self, work: Callable[[], T]) -> T:
        """`work`, and once more when the cache turns out to be damaged: it is then made anew from the remote."""
        try:
            return work()
        except CacheBroken:
            self._heads.clear()
            return work()

    def _claim(self, run_id: str, claim_ref: str, files: Mapping[str, bytes], event: EventDraft) -> str:
        """Two commits: the claim points at the first, and so never at the tip of a run that has not been closed."""
        first = Head().files_for(Addition(files=files), clean=self._clean, now_s=self._clock())
        root = self._commit(None, first, f"{run_id}: claim")
        head = Head().after(root, first)
        added = head.files_for(Addition(events=[event]), clean=self._clean, now_s=self._clock())
        commit = self._commit(root, added, f"{run_id}: {event.state}")
        ours = {RUNS + run_id: commit, claim_ref: root}
        done = self._store.push(ours, create_only=True)
        if done.returncode:
            there = self._store.remote_refs(*ours)
            missing = {ref: sha for ref, sha in ours.items() if ref not in there}
            if any(there.get(ref) != sha for ref, sha in ours.items() if ref in there):
                raise AlreadyClaimed(f"run {run_id}, or another run of the same spec, is already claimed")
            if len(missing) == 2:
                raise failure("push", done)
            # A remote that died in the middle of an atomic push may have kept half of it.
            if missing and (again := self._store.push(missing, create_only=True)).returncode:
                raise failure("push", again)
        self._keep(run_id, head.after(commit, added))
        return commit

    def _append(self, run_id: str, addition: Addition, deadline: float, at: str | None = None) -> str:
        tried = self._tried(run_id, addition.key)
        refusals = 0
        while True:
            if at is not None and run_id in self._heads and self._heads[run_id].tip != at:
                del self._heads[run_id]
            head = self._head(run_id)
            closed_before = RECEIPT in head.blobs and RECEIPT in addition.files
            added = {} if closed_before else head.files_for(addition, clean=self._clean, now_s=self._clock())
            if not added or any(head.holds(earlier) for earlier in tried):
                del self._uncertain[run_id]
                return head.tip or ""
            if at not in (None, head.tip):
                del self._uncertain[run_id]
                raise LedgerMoved(f"{RUNS}{run_id} was written to by somebody else meanwhile")
            commit = self._commit(head.tip, added, _subject(run_id, addition.events))
            tried.append(blob_ids(added))
            updates = {RUNS + run_id: commit}
            if addition.is_last and refusals < _MARKS:
                updates[CLAIMS + claim_of(run_id)] = commit
            done = self._store.push(updates, timeout_s=max(5.0, deadline - self._clock()))
            if done.returncode == 0:
                del self._uncertain[run_id]
                self._keep(run_id, head.after(commit, added))
                return commit
            if not _is_race(done):
                raise failure("push", done)
            tried.pop()  # refused for certain; an earlier push without an answer may still have been what won
            refusals += 1
            if self._clock() > deadline:
                raise LedgerUnavailable(f"another writer kept winning the push to {RUNS}{run_id}")
            self._heads.pop(run_id, None)
            self._sleep(0.05)

    def _read_all(self, tips: Mapping[str, str]) -> dict[str, RunRecord]:
        came = self._store.fetch({RUNS + run_id: tip for run_id, tip in tips.items()})
        trees = self._store.trees([came[RUNS + run_id] for run_id in tips])
        reads = self._told(trees)
        return {
            run_id: decoded(run_id, came[RUNS + run_id], tree, read)
            for run_id, tree, read in zip(tips, trees, reads, strict=True)
        }

    def _evidence(self, run_ids: Sequence[str]) -> list[Evidence]:
        now = self.look()
        for run_id in run_ids:
            if run_id not in now.runs:
                raise LedgerError(f"there is no branch {RUNS}{run_id} at {self.url}", reason="UnknownRun")
        seen = self._store.seen([name + run_id for name in (RUNS, _WITNESSED) for run_id in run_ids])
        for run_id in run_ids:  # before the fetch: it takes over whatever is there
            if RUNS + run_id in seen and _WITNESSED + run_id not in seen:
                self._store.keep(_WITNESSED + run_id, seen[RUNS + run_id])
        came = self._store.fetch({RUNS + run_id: now.runs[run_id] for run_id in run_ids})
        trees = self._store.trees([came[RUNS + run_id] for run_id in run_ids])
        return [
            Evidence(
                run_id=run_id,
                tip=came[RUNS + run_id],
                claim=now.claims.get(claim_of(run_id)),
                seen=seen.get(_WITNESSED + run_id) or seen.get(RUNS + run_id),
                commits=self._store.history(came[RUNS + run_id]),
                paths=tree,
                files=read,
            )
            for run_id, tree, read in zip(run_ids, trees, self._told(trees), strict=True)
        ]

    def _told(self, trees: Sequence[Mapping[str, str]]) -> list[dict[str, bytes]]:
        """The root files, events and notes of each tree, in the order of their paths; one process for all."""
        wanted = [[path for path in sorted(tree) if is_beside(path) or EVENT_FILE.match(path)] for tree in trees]
        raws = iter(
            self._store.objects([tree[path] for tree, paths in zip(trees, wanted, strict=True) for path in paths])
        )
        return [{path: next(raws) for path in paths} for paths in wanted]

    def _blobs(self, record: RunRecord, paths: Sequence[str]) -> list[bytes]:
        if not self._store.exists:
            self._store.fetch({RUNS + record.run_id: record.tip})
        return self._store.objects([record.paths[path] for path in paths])

    def _tried(self, run_id: str, key: str) -> list[dict[str, str]]:
        """The pushes of this very append that had no answer. After any such push the head must be read anew."""
        pending = self._uncertain.get(run_id)
        if pending and pending[1]:
            self._heads.pop(run_id, None)
        if pending is None or pending[0] != key:
            pending = self._uncertain[run_id] = (key, [])
        return pending[1]

    def _clean(self, raw: bytes) -> bytes:
        return redact(raw.decode(errors="replace"), self._environ).encode()

    def _commit(self, parent: str | None, files: Mapping[str, bytes], subject: str) -> str:
        return self._store.commit(parent, files, redact(subject, self._environ).encode(), self._clock())

    def _head(self, run_id: str) -> Head:
        if run_id in self._heads and self._store.exists:
            return self._heads[run_id]
        tip = self.refs().get(run_id)
        if tip is None:
            return Head()
        tip = self._store.fetch({RUNS + run_id: tip})[RUNS + run_id]
        blobs = self._store.trees([tip])[0]
        last = max((path for path in blobs if EVENT_FILE.match(path)), default=None)
        prev = hashlib.sha256(self._store.objects([blobs[last]])[0]).hexdigest() if last else None
        self._heads[run_id] = head = Head.of(tip, blobs, prev)
        return head

    def _keep(self, run_id: str, head: Head) -> None:
        self._heads[run_id] = head
        self._store.keep(RUNS + run_id, head.tip or "")


def _is_race(done: subprocess.CompletedProcess[bytes]) -> bool:
    return not refused(done) and bool(_RACE.search((done.stdout + done.stderr).decode(errors="replace")))


def _subject(run_id: str, events: Sequence[EventDraft]) -> str:
    return f"{run_id}: {', '.join(event.state for event in events) or 'logs'}"
