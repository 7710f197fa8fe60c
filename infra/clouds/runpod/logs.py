"""A pod's log as RunPod streams it: Server-Sent Events, resumed by `Last-Event-ID`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import quote

from infra.clouds.runpod.answers import SPEAKS
from infra.clouds.wire import Call, StreamEnded, Wire
from pushtrain.cloud import LogLine

# The most lines RunPod keeps ready; ignored by it when a Last-Event-ID is sent.
_TAIL_MAX = "5000"


def follow(http: Wire, path: str, doing: str, *, last_event_id: str | None, timeout_s: float) -> Iterator[LogLine]:
    """Lines after `last_event_id` until `timeout_s` have passed or the server ends the stream; resumes after a cut.

    A pod that is gone has no lines. A stream that falls silent is held at most twice `timeout_s`. Raises CloudError
    when a refusal stands, or no line came before the time was up.
    """
    until = http.clock() + timeout_s
    last, heard, cuts, broken = last_event_id, set[tuple[str, str]](), 0, None
    while (left := until - http.clock()) > 0:
        try:
            for line in _lines(http, _call(path, last, left), until):
                # RunPod may send the line it resumes from again; an id that is a bare time may be shared by many.
                repeated = (line.event_id, line.line) in heard or (
                    line.event_id == last_event_id and "/" in last_event_id
                )
                heard.add((line.event_id, line.line))
                last, cuts = line.event_id, 0
                if not repeated:
                    yield replace(line, line=http.clean(line.line))
            return
        except StreamEnded as ended:
            broken = ended.answer
        if broken.absent:
            return
        cuts += 1
        pause = http.pause_s(broken, cuts, repeatable=True) if cuts < http.limits.attempts else None
        if pause is None:
            raise SPEAKS.failure(broken, doing)
        http.sleep(max(0.0, min(pause, until - http.clock())))
    if broken is not None and not heard:
        raise SPEAKS.failure(broken, doing)


def sse_events(pieces: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """(id, data) of each whole event of a Server-Sent Events stream; what a cut leaves half is dropped.

    Split at newlines by hand: str.splitlines also splits at characters that may stand inside JSON.
    """
    rest, event_id, data = b"", "", []
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "id":
                event_id = value
            elif not line.strip() and data:
                yield event_id, "\n".join(data)
                data = []


def log_line(event_id: str, data: str) -> LogLine | None:
    """None for an event that is not a log line (a keep-alive)."""
    try:
        raw = json.loads(data)
    except ValueError:
        return None
    if not isinstance(raw, dict) or "line" not in raw:
        return None
    time = str(raw.get("ts") or "")
    return LogLine(
        event_id=event_id or time, time=time, source=str(raw.get("source") or "container"), line=str(raw["line"])
    )


def _lines(http: Wire, call: Call, until: float) -> Iterator[LogLine]:
    for event_id, data in sse_events(http.stream(call, until)):
        line = log_line(event_id, data)
        if line is not None:
            yield line


def _call(path: str, last_event_id: str | None, timeout_s: float) -> Call:
    headers = {"Accept": "text/event-stream"}
    if last_event_id:
        headers["Last-Event-ID"] = quote(last_event_id, safe="/:+,;= ")
    query = {} if last_event_id else {"tail": _TAIL_MAX}
    return Call(method="GET", path=path, query=query, headers=headers, timeout_s=timeout_s, repeatable=True)
