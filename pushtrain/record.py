"""One run as the ledger has it: decoded for whoever works with it, raw for whoever checks it. Standard library only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pushtrain.errors import LedgerError
from pushtrain.events import NOTES, Event, decode
from pushtrain.gitstore import Commit

RECEIPT = "receipt.json"
BILL = "bill.json"
# What the run rented besides what its events name: a file each, with what it cost until it was ended.
RENTED = "rented/"
ROOT_FILES = ("spec.yaml", "run.json", "result.json", RECEIPT, BILL)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as the ledger has it at commit `tip`. `paths` are its files with their blob ids; logs and metrics are
    read on demand. `bill` comes an hour or more after the receipt. `rented`: `pushtrain.rented`."""

    run_id: str
    tip: str
    spec: bytes
    run: Mapping[str, Any]
    events: tuple[Event, ...]
    result: Mapping[str, Any] | None
    receipt: Mapping[str, Any] | None
    paths: Mapping[str, str] = field(repr=False)
    bill: Mapping[str, Any] | None = None
    rented: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """A run is over only with a receipt."""
        return self.receipt is not None

    @property
    def last(self) -> Event:
        """The newest event that says where the run stands; of a run that is over its end, whatever a pod that was
        already going still had to say."""
        ended = next((event for event in reversed(self.events) if event.state == "closed"), None)
        if self.is_over and ended is not None:
            return ended
        return next((event for event in reversed(self.events) if event.state not in NOTES), self.events[-1])


def is_beside(path: str) -> bool:
    """Whether a file of a branch is told with its events: a root file, or a note of what was rented."""
    return path in ROOT_FILES or path.startswith(RENTED)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a remote can show of one run, undecoded. `files` are its root files and events (path → bytes), `paths`
    every file (path → blob id), `commits` the branch's, the oldest first; `claim` is where the spec's claim points,
    `seen` the tip this machine saw last time (None: never)."""

    run_id: str
    tip: str
    claim: str | None
    seen: str | None
    commits: Sequence[Commit]
    paths: Mapping[str, str]
    files: Mapping[str, bytes]


def decoded(run_id: str, tip: str, tree: Mapping[str, str], read: Mapping[str, bytes]) -> RunRecord:
    """A record from a branch's files. Raises LedgerError, naming the branch, when no run wrote them."""
    spec, run, result, receipt, bill = (read.get(path) for path in ROOT_FILES)
    try:
        record = RunRecord(
            run_id=run_id,
            tip=tip,
            spec=spec or b"",
            run=dict(json.loads(run or b"{}")),
            events=tuple(decode(raw) for path, raw in read.items() if not is_beside(path)),
            result=dict(json.loads(result)) if result else None,
            receipt=dict(json.loads(receipt)) if receipt else None,
            paths=tree,
            bill=dict(json.loads(bill)) if bill else None,
            rented={path: dict(json.loads(raw)) for path, raw in read.items() if path.startswith(RENTED)},
        )
        if not record.events:
            raise ValueError("there is no event")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(
            f"branch runs/{run_id} holds no run: {type(error).__name__}: {error}",
            hint=f"look at it with git log runs/{run_id}; delete the branch if no run of pushtrain wrote it",
        ) from None
    return record
