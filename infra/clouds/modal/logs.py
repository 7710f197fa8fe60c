"""A sandbox's log as Modal keeps it: pieces of output with a time, during its life and after. Pure.

A line is known again by its time and its place among those of the same time: a second look asks for all since then.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from pushtrain.cloud import LogLine

# Modal gives no more at once; a sandbox lives a day at most.
LOOK_BACK = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Piece:
    """What was written at once: a line, several, or a part of one."""

    time: datetime
    source: str
    text: str


def since(last_event_id: str | None, now: datetime) -> datetime:
    seen = _seen(last_event_id)
    return now - LOOK_BACK if seen is None else seen[0]


def lines(pieces: Iterable[Piece], last_event_id: str | None) -> Iterator[LogLine]:
    """Those after `last_event_id`; a line is as old as its last piece, so that one that was not whole is not missed."""
    seen, before, number = _seen(last_event_id), None, 0
    for time, source, text in _whole(pieces):
        number = number + 1 if time == before else 0
        before = time
        if seen is None or (time, number) > seen:
            yield LogLine(event_id=f"{_text(time)}/{number}", time=_text(time), source=source, line=text)


def _whole(pieces: Iterable[Piece]) -> Iterator[tuple[datetime, str, str]]:
    begun: dict[str, tuple[datetime, str]] = {}
    for piece in pieces:
        *whole, rest = (begun.pop(piece.source, (piece.time, ""))[1] + piece.text).split("\n")
        for text in whole:
            yield piece.time, _source(piece.source), text.rstrip("\r")
        if rest:
            begun[piece.source] = (piece.time, rest)
    for source, (time, rest) in begun.items():
        yield time, _source(source), rest.rstrip("\r")


def _source(source: str) -> str:
    return "system" if source == "system" else "container"


def _text(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat(timespec="microseconds")


def _seen(event_id: str | None) -> tuple[datetime, int] | None:
    try:
        time, _, number = (event_id or "").partition("/")
        return datetime.fromisoformat(time), int(number)
    except ValueError:
        return None
