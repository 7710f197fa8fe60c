"""What the demo ends with: the table, the proof line, the loss plot, and where to look."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pushtrain.cloud import Live
from pushtrain.ledger import RunRecord
from pushtrain.progress import phase_times
from pushtrain.run import Run


def summary(console: Console, record: RunRecord, seconds: Mapping[str, float], left: Live) -> None:
    """Run, losses, a sample before and after, adapter, seconds per phase, billed amount, and the proof line."""
    receipt, result = record.receipt or {}, record.result or {}
    metrics, adapter = result.get("metrics", {}), result.get("adapter", {})
    table = Table(title="what happened", show_header=False, title_justify="left")
    table.add_row("run", record.run_id)
    table.add_row("commit", str(record.run["commit"]))
    table.add_row("outcome", f"{receipt.get('outcome')} {record.last.reason}".strip())
    if metrics:
        before, after = float(metrics["base_eval_loss"]), float(metrics["eval_loss"])
        table.add_row("held-out loss", f"{before:.3f} before, {after:.3f} after ({(after / before - 1) * 100:+.1f} %)")
    for sample in result.get("samples", [])[:1]:
        table.add_row("asked", sample["prompt"].strip())
        table.add_row("before", sample["base"].strip()[:200])
        table.add_row("after", sample["adapter"].strip()[:200])
        table.add_row("expected", sample["expected"].strip()[:200])
    if adapter:
        table.add_row("adapter", f"{adapter['repo']} at {adapter['revision']}")
    for phase, span in phase_times(record.events, record.last.epoch_s):
        if span is not None and phase != "closed":
            table.add_row(f"phase {phase}", f"{span:.1f} s")
    table.add_row("billed", f"${receipt.get('billed_usd', 0):.6f} of at most ${receipt.get('cap_usd') or 0:.2f}")
    for name, span in seconds.items():
        table.add_row(f"took {span:.1f} s", name)
    console.print(table)
    console.print(f"proof: pods {len(left.pods)}, volumes {len(left.volumes)}", style="bold", markup=False)


def comments(console: Console, texts: Sequence[str]) -> None:
    """Comments of a pull request, as they are written."""
    for number, text in enumerate(texts, 1):
        console.rule(f"comment {number} of {len(texts)}")
        console.print(text, markup=False, highlight=False)
    console.rule()


def where_to_look(console: Console, folder: Path, run: Run, *, plot: Path | None, adapter: Path | None) -> None:
    remote = folder / "remote.git"
    lines = [
        "where to look:",
        f"  the ledger    git -C {remote} log --stat runs/{run.id}",
        f"  one event     git -C {remote} show runs/{run.id}:receipt.json",
        f"  the adapter   {adapter or 'none'}",
        f"  the loss      {plot or 'none'}",
        f"  the Action    {folder / 'action.log'}",
    ]
    console.print("\n".join(lines), markup=False)


def write_plot(path: Path, metrics: bytes, title: str) -> Path | None:
    """Training and held-out loss over steps as an SVG; None when nothing was logged."""
    rows = [json.loads(line) for line in metrics.splitlines()]
    train = [(int(row["step"]), float(row["loss"])) for row in rows if row.get("loss") is not None]
    held_out = [(int(row["step"]), float(row["eval_loss"])) for row in rows if row.get("eval_loss") is not None]
    if len(train) < 2:
        return None
    path.write_text(_svg(train, held_out, title))
    return path


def _svg(train: list[tuple[int, float]], held_out: list[tuple[int, float]], title: str) -> str:
    width, height, left, bottom = 720, 400, 60, 40
    steps = [step for step, _ in train + held_out]
    losses = [loss for _, loss in train + held_out]
    low, high, last = min(losses), max(losses), max(steps)

    def x(step: int) -> float:
        return left + (width - left - 20) * step / last

    def y(loss: float) -> float:
        return 40 + (height - 40 - bottom) * (high - loss) / ((high - low) or 1.0)

    def path(points: list[tuple[int, float]]) -> str:
        return " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)

    ticks = [low + (high - low) * i / 4 for i in range(5)]
    grid = "".join(
        f'<line x1="{left}" x2="{width - 20}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="#ddd"/>'
        f'<text x="{left - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.2f}</text>'
        for t in ticks
    )
    dots = "".join(f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="4" fill="#c0392b"/>' for s, v in held_out)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<text x="{left}" y="22">loss, {escape(title)}</text>{grid}'
        f'<polyline fill="none" stroke="#2c6fbb" stroke-width="1.5" points="{path(train)}"/>'
        f'<polyline fill="none" stroke="#c0392b" stroke-dasharray="4" points="{path(held_out)}"/>{dots}'
        f'<text x="{width - 20}" y="{height - 12}" text-anchor="end">step {last}</text>'
        f'<text x="{left}" y="{height - 12}">blue: training, red: held out</text></svg>\n'
    )
