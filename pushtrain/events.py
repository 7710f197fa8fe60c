"""Events of a run: small JSON files, each holding the hash of the one before. Standard library only."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal

from pushtrain.bounds import EVENT_BYTES, MESSAGE_CHARS, cut_document, cut_text

Writer = Literal["control", "pod"]
EVENT_FILE = re.compile(r"^events/(\d{6})-([a-z-]+)\.json$")

# States only the pod writes, in the order they come; then those that end an attempt.
POD_STATES = ("booting", "environment", "preparing", "training", "evaluating", "publishing")
POD_ENDS = ("finished", "failed", "preempted")
# What is noted about a run and changes nothing about where it stands.
NOTES = ("extended",)


@dataclass(frozen=True, kw_only=True)
class EventDraft:
    """What a writer says; number, time and hash are added when it is appended."""

    state: str
    writer: Writer
    attempt: int
    reason: str = ""
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    time: str | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event as it stands in the ledger. `digest` is the SHA-256 of its file, `prev` that of the one before."""

    seq: int
    time: str
    state: str
    writer: str
    attempt: int
    reason: str
    message: str
    data: Mapping[str, Any]
    prev: str | None
    digest: str

    @property
    def epoch_s(self) -> float:
        return parse_time(self.time)


def now_text(epoch_s: float) -> str:
    """RFC 3339 UTC with milliseconds."""
    return datetime.fromtimestamp(epoch_s, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def encode(draft: EventDraft, *, seq: int, prev: str | None, now_s: float) -> tuple[str, bytes]:
    """File name and bytes of an event. Bytes are canonical: sorted keys, one trailing newline.

    What would make it larger than EVENT_BYTES is cut, and says so.
    """
    if not re.fullmatch(r"[a-z-]{1,30}", draft.state):
        raise ValueError(f"not an event state: {draft.state!r}")
    draft = draft if draft.time else replace(draft, time=now_text(now_s))
    body = {
        "seq": seq,
        "time": draft.time,
        "state": draft.state,
        "writer": draft.writer,
        "attempt": draft.attempt,
        "reason": draft.reason,
        "message": cut_text(draft.message, MESSAGE_CHARS),
        "data": dict(draft.data),
        "prev": prev,
    }
    raw = _canonical(body)
    if len(raw) > EVENT_BYTES:
        raw = _canonical({**body, "data": cut_document(draft.data, EVENT_BYTES // 4)})
    return f"events/{seq:06d}-{draft.state}.json", raw


def decode(raw: bytes) -> Event:
    """An event from its file. Unknown keys are ignored: an older control plane must survive a newer pod."""
    body = json.loads(raw)
    return Event(
        seq=int(body["seq"]),
        time=str(body["time"]),
        state=str(body["state"]),
        writer=str(body.get("writer", "")),
        attempt=int(body.get("attempt", 0)),
        reason=str(body.get("reason", "")),
        message=str(body.get("message", "")),
        data=body.get("data") or {},
        prev=body.get("prev"),
        digest=hashlib.sha256(raw).hexdigest(),
    )


def broken_links(events: Iterable[Event]) -> list[str]:
    """What is wrong with a chain, one sentence per event; empty when every event follows from the one before."""
    problems, before = [], None
    for index, event in enumerate(events, 1):
        if event.seq != index:
            problems.append(f"event {index} is missing or out of order: found number {event.seq}")
            break
        if event.prev != (before.digest if before else None):
            problems.append(f"event {event.seq} ({event.state}) does not follow from the event before it")
        before = event
    return problems


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
