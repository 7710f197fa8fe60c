"""The tip of a run's branch, and what the next commit adds to it. Pure; standard library only."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pushtrain.bounds import FILE_BYTES
from pushtrain.errors import LedgerError
from pushtrain.events import EVENT_FILE, EventDraft, encode
from pushtrain.gitstore import blob_id
from pushtrain.record import BILL, RECEIPT

FOLDERS = ("events", "logs", "metrics")
_NUMBER = re.compile(r"/(\d{6})[^/]*$")


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What one append brings. `files` that are already there are left as they are. `more_to_come`: the receipt is not
    the run's last file."""

    events: Sequence[EventDraft] = ()
    log: bytes = b""
    metrics: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    more_to_come: bool = False

    @property
    def is_last(self) -> bool:
        """Whether nobody has to look at the run any more once this has landed."""
        return BILL in self.files or (RECEIPT in self.files and not self.more_to_come)

    @property
    def key(self) -> str:
        """The same for the same words: how a repeated append is recognised."""
        parts = (self.events, self.log, self.metrics, self.files)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Head:
    """The tip of a run's branch and what the next append needs to know of it.

    `blobs` is path → blob id, `prev` the SHA-256 of the last event, `last` the highest number in each folder.
    """

    tip: str | None = None
    blobs: Mapping[str, str] = field(default_factory=dict)
    prev: str | None = None
    last: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tip: str, blobs: Mapping[str, str], prev: str | None) -> "Head":
        return cls(tip, blobs, prev, {name: _highest(blobs, name) for name in FOLDERS})

    def after(self, commit: str, added: Mapping[str, bytes]) -> "Head":
        """The head once `added` has landed as `commit`."""
        last_event = max((path for path in added if EVENT_FILE.match(path)), default=None)
        prev = hashlib.sha256(added[last_event]).hexdigest() if last_event else self.prev
        last = {name: max(self.last.get(name, 0), _highest(added, name)) for name in FOLDERS}
        return Head(commit, {**self.blobs, **blob_ids(added)}, prev, last)

    def holds(self, added: Mapping[str, str]) -> bool:
        """Whether all of an earlier addition (path → blob id) is here."""
        return all(self.blobs.get(path) == blob for path, blob in added.items())

    def files_for(self, addition: Addition, *, clean: Callable[[bytes], bytes], now_s: float) -> dict[str, bytes]:
        """Path → bytes of what the addition adds here, every text cleaned. Raises LedgerError for a file too large."""
        for name, raw in {**addition.files, "log": addition.log, "metrics": addition.metrics}.items():
            if len(raw) > FILE_BYTES:
                message = f"{name} has {len(raw)} bytes; a file of the ledger has at most {FILE_BYTES}"
                raise LedgerError(message, reason="TooLarge")
        added = {path: clean(raw) for path, raw in addition.files.items() if path not in self.blobs}
        if addition.log:
            added[chunk_path("logs", self.last.get("logs", 0) + 1)] = clean(addition.log)
        if addition.metrics:
            added[chunk_path("metrics", self.last.get("metrics", 0) + 1)] = clean(addition.metrics)
        seq, prev = self.last.get("events", 0) + 1, self.prev
        for draft in addition.events:
            name, raw = encode(draft, seq=seq, prev=prev, now_s=now_s)
            added[name] = raw = clean(raw)
            seq, prev = seq + 1, hashlib.sha256(raw).hexdigest()
        return added


def chunk_path(folder: str, seq: int) -> str:
    """`logs/000001.log`; from 100 on in a folder for each hundred, `logs/0001/000100.log`: git writes the list of a
    folder anew at every append, and a branch would grow with the square of them."""
    below = f"{seq // 100:04d}/" if seq >= 100 else ""
    return f"{folder}/{below}{seq:06d}.{'log' if folder == 'logs' else 'jsonl'}"


def number(path: str) -> int:
    """The six digits a file of logs/, metrics/ or events/ starts with; 0 for a file that is none of ours."""
    match = _NUMBER.search(path)
    return int(match[1]) if match else 0


def blob_ids(added: Mapping[str, bytes]) -> dict[str, str]:
    return {path: blob_id(raw) for path, raw in added.items()}


def _highest(paths: Mapping[str, object], folder: str) -> int:
    return max((number(path) for path in paths if path.startswith(folder + "/")), default=0)
