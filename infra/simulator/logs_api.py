"""A pod's log as Server-Sent Events: some history, then what comes, resumable by the id of the last event seen."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path

from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from infra.simulator.container_log import Entry, read_log
from infra.simulator.gate import Call, Gate, invalid
from infra.simulator.service import Service

_POLL_S = 0.2
_KEEP_ALIVE_S = 15.0
_MOST_LINES = 5000
# "<time>/<number>" as sent here and by RunPod; a bare time is what its reference documents.
_EVENT_ID = re.compile(r"^(?P<time>[^/]+)(/(?P<number>\d{1,15}))?$")


def routes(gate: Gate) -> list[Route]:
    return [gate.route("GET", "/v2/pods/{id}/logs", "get_pod_logs", _logs)]


async def _logs(call: Call) -> Response:
    pod = call.service.account.pod(call.id)
    source = call.request.query_params.get("source")
    if source not in (None, "container", "system"):
        raise invalid("source: value must be one of 'container', 'system'")
    path = call.service.machine.log_path(pod.id)
    history, after = _backfill(call, path)
    events = _events(call.service, pod.id, path, history, after, source)
    headers = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _backfill(call: Call, path: Path) -> tuple[list[Entry], int]:
    """Entries to send first, and the number of the last one that exists: Last-Event-ID beats since beats tail."""
    query, entries = call.request.query_params, list(read_log(path))
    newest = entries[-1].number if entries else 0
    seen, since = call.request.headers.get("last-event-id"), query.get("since")
    if seen is not None:
        match = _EVENT_ID.match(seen)
        if match is None:
            raise invalid("Last-Event-ID: is not an event id of this endpoint")
        if match["number"]:
            return [entry for entry in entries if entry.number > int(match["number"])], newest
        moment = _stamp("Last-Event-ID", match["time"])
        return [entry for entry in entries if entry.time > moment], newest
    if since is not None:
        moment = _stamp("since", since)
        return [entry for entry in entries if entry.time >= moment], newest
    tail = query.get("tail", "100")
    if not tail.isdigit() or int(tail) > _MOST_LINES:
        raise invalid(f"tail: must be an integer from 0 to {_MOST_LINES}")
    source = query.get("source")
    wanted = [entry for entry in entries if source in (None, entry.source)]
    return wanted[len(wanted) - min(int(tail), len(wanted)) :], newest


async def _events(
    service: Service, pod_id: str, path: Path, history: list[Entry], after: int, source: str | None
) -> AsyncIterator[str]:
    """Ends with the pod or the simulator. A deleted pod's last lines are still sent."""
    silent_s, size = 0.0, -1
    entries = history
    while True:
        ended = service.stopping or service.account.pods[pod_id].status == "TERMINATED"
        for entry in entries:
            after = max(after, entry.number)
            if source in (None, entry.source):
                data = json.dumps({"ts": entry.time, "source": entry.source, "line": entry.line}, ensure_ascii=False)
                yield f"id: {entry.event_id}\ndata: {data}\n\n"
                silent_s = 0.0
        if ended:
            return
        if silent_s >= _KEEP_ALIVE_S:
            yield ": keep-alive\n\n"
            silent_s = 0.0
        await asyncio.sleep(_POLL_S)
        silent_s += _POLL_S
        # Reading is cheap but not free: a quiet pod costs one stat.
        changed = path.stat().st_size if path.exists() else -1
        entries = list(read_log(path, after)) if changed != size else []
        size = changed


def _stamp(name: str, text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise invalid(f"{name}: '{text}' is not valid date-time") from error
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
