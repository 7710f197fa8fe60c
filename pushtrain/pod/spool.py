"""What the trainer has written and the ledger does not have yet: files on the volume and offsets into them.

Offsets move only after a successful push and are kept beside the files, so a restarted container goes on where the last
push ended. A crash between push and note sends one batch twice. What is left out (beyond a cap, refused by the remote,
not JSON) leaves a mark with its place, size and SHA-256.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pushtrain.bounds import RESULT_BYTES, cut_document, cut_text
from pushtrain.events import EventDraft, now_text
from pushtrain.pod.rotation import LOG_CAP_BYTES, METRICS_CAP_BYTES, Gap, gap_of, next_piece, size_of, whole_lines

# States a trainer may claim; the others are the agent's or the control plane's to say.
TRAINER_STATES = ("preparing", "training", "evaluating", "publishing")
EVENTS_PER_BATCH = 50
# Each is a file that every reader reads; a trainer of ours says a dozen.
EVENTS_PER_ATTEMPT = 1000
MESSAGE_CHARS = 2000
LOG, EVENTS, METRICS, SAID = "trainer.log", "events.jsonl", "metrics.jsonl", "events said"
Clean = Callable[[str], str]
# What goes along with metrics without being a step's: None when there is nothing to say yet.
Figures = Callable[[], Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One append to the ledger, unchanged over its retries. `offsets`: what is in the ledger once it has landed."""

    events: tuple[EventDraft, ...]
    log: bytes
    metrics: bytes
    files: Mapping[str, bytes]
    offsets: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """An event not yet in the ledger. `offset`: where its line ends in events.jsonl; None for the agent's own."""

    draft: EventDraft
    offset: int | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    is_last: bool = False


class Spool:
    """Not safe for several threads: the shipper holds its lock around every call."""

    def __init__(self, folder: Path, *, attempt: int, clean: Clean, figures: Figures | None = None) -> None:
        self._folder, self._attempt, self._clean, self._figures = folder, attempt, clean, figures
        self._note = folder / "shipped.json"
        self._offsets: dict[str, int] = {LOG: 0, EVENTS: 0, METRICS: 0, SAID: 0}
        if self._note.is_file():
            self._offsets |= json.loads(self._note.read_text())
        self._read_to = self._offsets[EVENTS]
        self._waiting: list[_Waiting] = []
        self._unsaid = 0

    def say(self, draft: EventDraft, files: Mapping[str, bytes] | None = None, *, is_last: bool = False) -> None:
        """Queue an event of the agent, behind what the trainer has said by now. A JSON file too large is cut."""
        self._pull_events(at_end=is_last)
        if is_last and self._unsaid:
            draft = replace(draft, data={**draft.data, "events_left_out": self._unsaid})
        fitting = {path: _fitting(raw) for path, raw in (files or {}).items()}
        self._waiting.append(_Waiting(draft=draft, files=fitting, is_last=is_last))

    def has_events(self) -> bool:
        self._pull_events(at_end=False)
        return bool(self._waiting)

    def gather(self, *, at_end: bool = False) -> Batch | None:
        """The next batch, None when the ledger has everything. At the end unfinished lines count too, and the last
        event waits for the logs before it."""
        self._pull_events(at_end=at_end)
        log = next_piece(self._folder / LOG, self._offsets[LOG], at_end=at_end, cap=LOG_CAP_BYTES)
        rows = next_piece(self._folder / METRICS, self._offsets[METRICS], at_end=at_end, cap=METRICS_CAP_BYTES)
        sizes = {name: size_of(self._folder / name) for name in (LOG, METRICS)}
        more = at_end and (log.end < sizes[LOG] or rows.end < sizes[METRICS])
        events = [item for item in self._waiting[:EVENTS_PER_BATCH] if not (item.is_last and more)]
        if not (events or log.end > self._offsets[LOG] or rows.end > self._offsets[METRICS]):
            return None
        offsets = {LOG: log.end, METRICS: rows.end}
        if read := [item.offset for item in events if item.offset is not None]:
            offsets |= {EVENTS: read[-1], SAID: self._offsets[SAID] + len(read)}
        return Batch(
            events=tuple(item.draft for item in events),
            log=(log.gap.as_line() if log.gap else b"") + log.raw,
            metrics=(_row(rows.gap.as_row()) if rows.gap else b"")
            + self._metrics(rows.raw, rows.end - len(rows.raw))
            + self._besides(),
            files={path: raw for item in events for path, raw in item.files.items()},
            offsets=offsets,
        )

    def lighter(self, batch: Batch, why: str, *, is_last_resort: bool) -> Batch:
        """The same batch for a remote that refuses it: marks in place of log and metrics; as a last resort also texts
        and lists of the events and files cut short. Raises OSError."""
        why = " ".join(cut_text(self._clean(why), 200).split()).replace("]", ")")
        log, metrics = (self._gap(name, batch, why) for name in (LOG, METRICS))
        light = replace(batch, log=log.as_line() if log else b"", metrics=_row(metrics.as_row()) if metrics else b"")
        if not is_last_resort:
            return light
        events = (
            replace(draft, message=cut_text(draft.message, 64), data=cut_document(draft.data, 512))
            for draft in batch.events
        )
        files = {path: _fitting(raw, limit=4096) for path, raw in batch.files.items()}
        return replace(light, events=tuple(events), files=files)

    def landed(self, batch: Batch) -> None:
        """The batch is in the ledger. Raises OSError when that cannot be noted; the memory of it holds anyway."""
        del self._waiting[: len(batch.events)]
        self._offsets |= batch.offsets
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps(self._offsets))
        fresh.replace(self._note)

    def _pull_events(self, *, at_end: bool) -> None:
        while len(self._waiting) < EVENTS_PER_BATCH or at_end:
            raw = whole_lines(self._folder / EVENTS, self._read_to, at_end=at_end)
            if not raw:
                return
            for line in raw.splitlines(keepends=True):
                self._read_to += len(line)
                if draft := self._draft(line):
                    self._queue(_Waiting(draft=draft, offset=self._read_to))

    def _queue(self, item: _Waiting) -> None:
        said = self._offsets[SAID] + sum(1 for waiting in self._waiting if waiting.offset is not None)
        if said < EVENTS_PER_ATTEMPT:
            self._waiting.append(item)
        else:
            self._unsaid += 1

    def _draft(self, line: bytes) -> EventDraft | None:
        said = self._parse(line, EVENTS)
        if said is None:
            return None
        state, time, data = said.get("state"), said.get("time"), said.get("data")
        if state not in TRAINER_STATES:
            print(f"events.jsonl: {state!r} is not a state a trainer may report: left out", flush=True)
            return None
        return EventDraft(
            state=state,
            writer="pod",
            attempt=self._attempt,
            message=cut_text(str(said.get("message") or ""), MESSAGE_CHARS),
            data=data if isinstance(data, dict) else {},
            time=now_text(time) if isinstance(time, (int, float)) else None,
        )

    def _besides(self) -> bytes:
        row = self._figures() if self._figures is not None else None
        return _row(row) if row else b""

    def _metrics(self, raw: bytes, begin: int) -> bytes:
        """Rows that are JSON objects; each line that is none leaves a mark."""
        rows = []
        for line in raw.splitlines(keepends=True):
            row = self._parse(line, METRICS)
            if row is None and line.strip():
                row = gap_of(self._folder / METRICS, begin, begin + len(line), "no JSON object").as_row()
            begin += len(line)
            rows.append(_row(row) if row is not None else b"")
        return b"".join(rows)

    def _parse(self, line: bytes, name: str) -> dict[str, Any] | None:
        try:
            value = plain(json.loads(line), self._clean)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        if line.strip():
            print(f"{name}: a line is not a JSON object: left out", flush=True)
        return None

    def _gap(self, name: str, batch: Batch, why: str) -> Gap | None:
        begin, end = self._offsets[name], batch.offsets[name]
        return gap_of(self._folder / name, begin, end, why) if begin < end else None


def plain(value: Any, clean: Clean) -> Any:
    """A JSON value with every text cleaned and every number that JSON cannot write (NaN, infinity) made null."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(key): plain(item, clean) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, clean) for item in value]
    return value


def _row(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n"


def _fitting(raw: bytes, limit: int = RESULT_BYTES) -> bytes:
    """A JSON object as it is when it fits; else cut, but for what it says of adapter and metrics."""
    if len(raw) <= limit:
        return raw
    shorter = cut_document(json.loads(raw), limit // 2, keep=("adapter", "artifacts", "metrics"))
    return json.dumps(shorter, ensure_ascii=False, indent=1).encode() + b"\n"
