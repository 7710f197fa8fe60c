"""What the trainer has written and the ledger does not have yet: files on the volume and offsets into them.

Offsets move only after a successful push and are kept beside the files, so a restarted container goes on where the last
push ended. A crash between push and note sends one batch twice; nothing is ever left out.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pushtrain.events import EventDraft, now_text

# States a trainer may claim; the others are the agent's or the control plane's to say.
TRAINER_STATES = ("preparing", "training", "evaluating", "publishing")
CHUNK_BYTES = 512 * 1024
LOG_CAP_BYTES = 20 * 1024 * 1024
TAIL_BYTES = 64 * 1024
EVENTS_PER_BATCH = 50
LOG, EVENTS, METRICS = "trainer.log", "events.jsonl", "metrics.jsonl"
Clean = Callable[[str], str]


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

    def __init__(self, folder: Path, *, attempt: int, clean: Clean) -> None:
        self._folder, self._attempt, self._clean = folder, attempt, clean
        self._note = folder / "shipped.json"
        self._offsets: dict[str, int] = {LOG: 0, EVENTS: 0, METRICS: 0}
        if self._note.is_file():
            self._offsets |= json.loads(self._note.read_text())
        self._read_to = self._offsets[EVENTS]
        self._waiting: list[_Waiting] = []

    def say(self, draft: EventDraft, files: Mapping[str, bytes] | None = None, *, is_last: bool = False) -> None:
        """Queue an event of the agent, behind what the trainer has said by now."""
        self._pull_events(at_end=is_last)
        self._waiting.append(_Waiting(draft=draft, files=files or {}, is_last=is_last))

    def has_events(self) -> bool:
        self._pull_events(at_end=False)
        return bool(self._waiting)

    def gather(self, *, at_end: bool = False) -> Batch | None:
        """The next batch, None when the ledger has everything. At the end unfinished lines count too, and the last
        event waits for the logs before it."""
        self._pull_events(at_end=at_end)
        log, log_to = self._log(at_end)
        metrics, metrics_to = self._complete_lines(METRICS, self._offsets[METRICS], at_end)
        more = at_end and (log_to < self._size(LOG) or metrics_to < self._size(METRICS))
        events = [item for item in self._waiting[:EVENTS_PER_BATCH] if not (item.is_last and more)]
        if not (events or log or metrics):
            return None
        offsets = {LOG: log_to, METRICS: metrics_to}
        if read := [item.offset for item in events if item.offset is not None]:
            offsets[EVENTS] = read[-1]
        return Batch(
            events=tuple(item.draft for item in events),
            log=log,
            metrics=self._metrics(metrics),
            files={path: raw for item in events for path, raw in item.files.items()},
            offsets=offsets,
        )

    def landed(self, batch: Batch) -> None:
        """The batch is in the ledger. Raises OSError when that cannot be noted; the memory of it holds anyway."""
        del self._waiting[: len(batch.events)]
        self._offsets |= batch.offsets
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps(self._offsets))
        fresh.replace(self._note)

    def _pull_events(self, *, at_end: bool) -> None:
        while len(self._waiting) < EVENTS_PER_BATCH or at_end:
            raw, end = self._complete_lines(EVENTS, self._read_to, at_end)
            if not raw:
                return
            for line in raw.splitlines(keepends=True):
                self._read_to += len(line)
                if draft := self._draft(line):
                    self._waiting.append(_Waiting(draft=draft, offset=self._read_to))
            self._read_to = end

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
            message=str(said.get("message") or "")[:2000],
            data=data if isinstance(data, dict) else {},
            time=now_text(time) if isinstance(time, (int, float)) else None,
        )

    def _metrics(self, raw: bytes) -> bytes:
        rows = (self._parse(line, METRICS) for line in raw.splitlines())
        return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows if row is not None)

    def _parse(self, line: bytes, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            if line.strip():
                print(f"{name}: a line is not a JSON object: left out", flush=True)
            return None
        cleaned: dict[str, Any] = plain(value, self._clean)
        return cleaned

    def _log(self, at_end: bool) -> tuple[bytes, int]:
        """Beyond the cap only the last lines follow: a chatty trainer must not fill the repository."""
        start, size = self._offsets[LOG], self._size(LOG)
        if start < LOG_CAP_BYTES:
            return self._complete_lines(LOG, start, at_end)
        if not at_end or size <= start:
            return b"", start
        tail_from = max(start, size - TAIL_BYTES)
        tail, _ = self._complete_lines(LOG, tail_from, at_end)
        return f"[{tail_from - start} bytes of the log were left out here]\n".encode() + tail, size

    def _complete_lines(self, name: str, start: int, at_end: bool) -> tuple[bytes, int]:
        """At most one chunk of whole lines from `start`, and where it ends."""
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                raw = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return b"", start
        if len(raw) < CHUNK_BYTES and at_end:
            return raw, start + len(raw)
        whole = raw[: raw.rfind(b"\n") + 1] or (raw if len(raw) == CHUNK_BYTES else b"")
        return whole, start + len(whole)

    def _size(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return 0


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
