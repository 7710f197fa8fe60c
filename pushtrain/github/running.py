"""One run as a part of the comment that follows it, and of the step summary. Pure.

A step summary shows no SVG, and neither it nor a comment runs a script: the loss is a line of bars, and a mermaid chart
once the run is over.
"""

import re
from collections.abc import Mapping
from typing import Any

from pushtrain.budget import cap_usd
from pushtrain.errors import SpecError
from pushtrain.github.markdown import block, code, details, plain, table
from pushtrain.ledger import RunRecord
from pushtrain.progress import Progress, spent_usd
from pushtrain.receipt import cost
from pushtrain.spec import CommandSpec, TrainingSpec
from pushtrain.spec.file import loads
from pushtrain.view import spark

_SIGNS = {"succeeded": "✅", "failed": "❌", "cancelled": "⏹️"}
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_REVISION = re.compile(r"[0-9a-f]{40}")
MOST_SAMPLES = 5
MOST_POINTS = 60


def section(record: RunRecord, progress: Progress, now_s: float, hub_url: str, *, is_private: bool = False) -> str:
    """What is told about a run now: how far it is and what it costs, or how it ended. `is_private`: only people who
    may read the repository read this, so that samples of private data may stand in it."""
    if record.is_over:
        return _ended(record, progress, hub_url, is_private)
    return f"### {code(_job(record))} · {plain(record.last.state, 40)}\n\n{table(_rows(record, progress, now_s))}"


def status(record: RunRecord) -> tuple[str, str]:
    """GitHub's state and a description of at most 140 characters, which change with the run's state, not its steps."""
    if record.receipt is not None:
        outcome = str(record.receipt.get("outcome"))
        state = {"succeeded": "success", "failed": "failure"}.get(outcome, "error")
        known = cost(record)
        reason = _reason(record)
        text = f"{outcome}{f' ({reason})' if reason else ''}{f', ${known[0]:.2f}' if known else ''}"
        return state, text[:140]
    last = record.last
    if last.state == "leak":
        return "error", "something may still be billed: it could not be removed yet"
    why = f": {last.reason}" if last.reason else ""
    again = f", attempt {last.attempt}" if last.attempt > 1 else ""
    return "pending", f"{last.state}{why}{again}"[:140]


def chart(progress: Progress) -> str:
    """The loss by step as a mermaid chart; empty where there are not two points."""
    points = _thinned(progress.losses)
    if len(points) < 2:
        return ""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or max(abs(high) * 0.05, 0.1)
    bottom = low - room if low < 0 else max(0.0, low - room)
    lines = [
        "xychart-beta",
        f'  x-axis "step" {points[0][0]} --> {points[-1][0]}',
        f'  y-axis "loss" {bottom:.4g} --> {high + room:.4g}',
        f"  line [{', '.join(f'{value:.4g}' for value in values)}]",
    ]
    return block("\n".join(lines), 8000, "mermaid")


def _rows(record: RunRecord, progress: Progress, now_s: float) -> list[tuple[str, str]]:
    last = record.last
    said = plain(f"{last.reason}: {last.message}" if last.reason else last.message, 300) if last.message else ""
    rows = [("phase", plain(last.state, 40) + (f", attempt {last.attempt}" if last.attempt > 1 else ""))]
    if progress.step:
        total = progress.total_steps
        rows.append(
            ("step", f"{progress.step:,}" + (f" of {total:,}, {100 * progress.step / total:.0f} %" if total else ""))
        )
    if progress.losses:
        rows.append(("loss", f"{progress.losses[-1][1]:.4g} {code(spark(progress, 20))}"))
    if progress.tokens_per_s:
        rows.append(("tokens/s", f"{progress.tokens_per_s:,.0f}"))
    if last.state == "training" and (left_s := progress.left_s()) is not None:
        rows.append(("steps left", f"about {_time(left_s)}"))
    rows.append(("dollars", f"${spent_usd(record, now_s):.2f} of at most ${_cap(record):.2f}"))
    place = next((event.data for event in reversed(record.events) if event.state == "provisioned"), None)
    if place is not None:
        where = f"{place.get('gpu')}, {place.get('data_center') or 'community'}"
        rows.append(("on", f"{plain(where)}, ${float(place.get('usd_per_hour') or 0.0):.2f}/h"))
    return [*rows, *([("last word", said)] if said else []), ("run", code(record.run_id))]


def _ended(record: RunRecord, progress: Progress, hub_url: str, is_private: bool) -> str:
    receipt, result = dict(record.receipt or {}), dict(record.result or {})
    outcome = str(receipt.get("outcome"))
    usd, source = cost(record) or (0.0, "")
    rows = [("result", _result(result))] if result else []
    if reason := _reason(record):
        rows.append(("why", plain(f"{reason}: {_message(record)}", 600)))
    if link := _link(result, hub_url):
        rows.append(("published", link))
    if isinstance(session := result.get("session"), Mapping):
        rows.append(("work", code(f"{session.get('branch')} at {str(session.get('commit'))[:8]}")))
    if progress.losses:
        rows.append(("loss", f"{progress.losses[-1][1]:.4g} {code(spark(progress, 20))}"))
    rows += [
        ("dollars", f"${usd:.4f} ({plain(source)}) of at most ${_cap(record):.2f}"),
        ("attempts", f"{receipt.get('attempts')}, {float(receipt.get('pod_hours') or 0.0):.2f} pod hours"),
        ("left running", "nothing: the cloud was asked twice" if receipt.get("proof") else "–"),
        ("run", code(record.run_id)),
    ]
    parts = [f"### {_SIGNS.get(outcome, '•')} {code(_job(record))} {plain(outcome)}", table(rows)]
    if drawing := chart(progress):
        parts.append(details("loss by step", drawing))
    samples = _samples(result)
    if samples and (is_private or _is_open(record)):
        parts.append(
            details("1 sample output" if len(samples) == 1 else f"{len(samples)} sample outputs", "\n\n".join(samples))
        )
    elif samples:
        parts.append("Sample outputs stand in the ledger alone: the result is private, and this repository is not.")
    if history := receipt.get("history"):
        parts.append(details("receipt", "\n\n".join(table(_attempt(row)) for row in history[:10])))
    return "\n\n".join(parts)


def _result(result: Mapping[str, Any]) -> str:
    figures = result.get("metrics") if isinstance(result.get("metrics"), Mapping) else {}
    assert isinstance(figures, Mapping)
    base, after = _figure(figures, "base_eval_loss"), _figure(figures, "eval_loss")
    if base is not None and after is not None:
        return f"held-out loss {base:.4g} → **{after:.4g}**"
    shown = [f"{plain(str(name), 40)} {value:.4g}" for name in figures if (value := _figure(figures, name)) is not None]
    return ", ".join(shown[:6]) or "–"


def _link(result: Mapping[str, Any], hub_url: str) -> str:
    published = result.get("adapter") or result.get("artifacts") or {}
    if not isinstance(published, Mapping) or not published.get("repo"):
        return ""
    repo, revision = str(published["repo"]), str(published.get("revision"))
    shown = f"{repo}@{revision[:8]}"
    if not _REPO.fullmatch(repo) or not _REVISION.fullmatch(revision):
        return code(shown)
    return f"[{code(shown)}]({hub_url}/{repo}/tree/{revision})"


def _samples(result: Mapping[str, Any]) -> list[str]:
    """Prompt, what was expected, the base's answer and the trained one's: text of data and model, as text only."""
    samples = result.get("samples")
    shown = []
    for sample in samples[:MOST_SAMPLES] if isinstance(samples, list) else []:
        if isinstance(sample, Mapping):
            told = ((key, sample.get(key)) for key in ("prompt", "expected", "base", "adapter", "trained"))
            shown.append("\n\n".join(f"**{key}**\n\n{block(str(text), 800)}" for key, text in told if text))
    return [text for text in shown if text]


def _is_open(record: RunRecord) -> bool:
    """Whether samples show nothing that a reader of a public repository could not read: public results, or data of the
    commit itself."""
    try:
        spec = loads(record.spec, str(record.run.get("spec_path")), check_name=False)
    except SpecError:
        return False
    publish = spec.publish if isinstance(spec, TrainingSpec | CommandSpec) else None
    is_public = publish is not None and not publish.private
    return is_public or (isinstance(spec, TrainingSpec) and spec.data.path is not None)


def _attempt(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"attempt {row.get('attempt')}", plain(f"{row.get('gpu')}, {row.get('data_center') or 'community'}")),
        ("pod", code(str(row.get("pod") or ""))),
        ("hours", f"{float(row.get('hours') or 0.0):.3f} at ${float(row.get('usd_per_hour') or 0.0):.3f}/h"),
        ("ended", plain(str(row.get("ended") or "–"))),
        ("steps lost", str(row.get("steps_lost") or 0)),
    ]


def _reason(record: RunRecord) -> str:
    """Why it was not a success."""
    if (record.receipt or {}).get("outcome") == "succeeded":
        return ""
    return next((event.reason for event in reversed(record.events) if event.state == "destroying"), "")


def _message(record: RunRecord) -> str:
    ends = [event for event in record.events if event.state in ("failed", "cancelled", "lost") and event.message]
    return ends[-1].message if ends else record.last.message


def _thinned(series: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most MOST_POINTS points, each the mean of its slice."""
    size = max(1, -(-len(series) // MOST_POINTS))
    slices = [series[at : at + size] for at in range(0, len(series), size)]
    return [(part[0][0], sum(value for _, value in part) / len(part)) for part in slices]


def _figure(figures: Mapping[str, Any], name: str) -> float | None:
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _job(record: RunRecord) -> str:
    return str(record.run.get("job", ""))


def _cap(record: RunRecord) -> float:
    return cap_usd(record)


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
