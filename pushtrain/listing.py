"""The reading verbs: the table of runs, and a run's events and log as a stream of text."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from pushtrain.attempts import steps_lost
from pushtrain.budget import cap_usd
from pushtrain.events import Event
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.lookup import newest_run
from pushtrain.pod.rotation import GAP_LINE
from pushtrain.progress import spent_usd
from pushtrain.receipt import cost


def list_runs(ledger: Ledger) -> list[dict[str, Any]]:
    """One row a run, newest first. Raises LedgerUnavailable."""
    records = ledger.read_all(ledger.refs()).values()
    return [_row(ledger, record) for record in sorted(records, key=lambda r: r.events[0].epoch_s, reverse=True)]


def runs_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{len(rows)} runs", box=None, padding=(0, 1), pad_edge=False, title_justify="left")
    for column in ("run", "state", "claimed (UTC)", "dollars of cap"):
        # A run id is there to be copied: it is never cut, however narrow the terminal.
        table.add_column(column, no_wrap=column == "run", overflow="fold")
    for row in rows:
        state = (
            f"{row['state']} ({row['outcome'] or row['reason']})" if row["outcome"] or row["reason"] else row["state"]
        )
        state += f"\nattempt {row['attempt']}" if row["attempt"] > 1 else ""
        state += f", {row['steps_lost']} steps lost" if row["steps_lost"] else ""
        usd = f"${row['spent_usd']:.4f} of ${row['cap_usd']:.2f}\n{row['spent_source']}"
        name = f"{row['run_id']}\n  {row['published']}" if row["published"] else row["run_id"]
        table.add_row(name, state, row["claimed"][:16], usd)
    return table


def stream_logs(ledger: Ledger, name: str, *, as_json: bool) -> Iterator[str]:
    """Events and log chunks in the order they were written. `pushtrain.live.logs` goes on from there.

    Raises PushtrainError for an unknown run, LedgerUnavailable when the remote cannot be reached.
    """
    record = newest_run(ledger, name)
    for event in record.events:
        yield event_text(event, as_json)
    raw, _ = ledger.text(record, "logs")
    yield from log_texts(raw.decode(errors="replace"), as_json)


def _row(ledger: Ledger, record: RunRecord) -> dict[str, Any]:
    known = cost(record)
    result = record.result or {}
    published = result.get("adapter") or result.get("artifacts") or {}
    return {
        "run_id": record.run_id,
        "state": record.last.state,
        "reason": record.last.reason,
        "outcome": (record.receipt or {}).get("outcome", ""),
        "attempt": record.last.attempt,
        "claimed": record.events[0].time[:19].replace("T", " "),
        "spent_usd": round(spent_usd(record, time.time()), 6),
        "spent_source": known[1] if known else "time × price",
        "steps_lost": _steps_lost(ledger, record),
        "cap_usd": cap_usd(record),
        "published": f"{published['repo']}@{published['revision'][:8]}" if published.get("repo") else _branch(result),
    }


def _branch(result: Mapping[str, Any]) -> str:
    """Where the work of a session is."""
    session = result.get("session") or {}
    return f"{session['branch']}@{session['commit'][:8]}" if session.get("branch") else ""


def log_texts(text: str, as_json: bool) -> Iterator[str]:
    """The log, and between its parts what the pod left out of it."""
    at = 0
    for gap in GAP_LINE.finditer(text):
        yield from _plain(text[at : gap.start()], as_json)
        at = gap.end() + 1
        what = {key: int(gap[key]) for key in ("bytes", "begin", "end")} | {key: gap[key] for key in ("name", "sha256")}
        if as_json:
            yield json.dumps({"gap": what | {"why": gap["why"] or ""}}) + "\n"
        else:
            why = f", {gap['why']}" if gap["why"] else ""
            place = "{name}, bytes {begin} to {end}, SHA-256 {sha256}".format(**what)
            yield f"── {what['bytes']:,} bytes of the log are not in the ledger{why} ({place})\n"
    yield from _plain(text[at:], as_json)


def _plain(text: str, as_json: bool) -> Iterator[str]:
    if text:
        yield json.dumps({"log": text}) + "\n" if as_json else text


def _steps_lost(ledger: Ledger, record: RunRecord) -> int:
    """Steps that were trained twice because a pod or container was lost."""
    if record.receipt is not None:
        return sum(int(row.get("steps_lost") or 0) for row in record.receipt.get("history") or ())
    if sum(event.state == "training" for event in record.events) < 2:
        return 0
    return sum(steps_lost(record.events, ledger.text(record, "metrics")[0]).values())


def event_text(event: Event, as_json: bool) -> str:
    if as_json:
        return json.dumps({"event": {k: v for k, v in vars(event).items() if k != "digest"}}, default=dict) + "\n"
    reason = f" {event.reason}" if event.reason else ""
    return f"── {event.time} [{event.writer} {event.attempt}] {event.state}{reason}: {event.message}\n"
