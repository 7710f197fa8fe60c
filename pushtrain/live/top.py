"""`pushtrain top`: every pod of this ledger, refreshed until Ctrl-C."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table

from pushtrain.branch import number
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Cloud, Pod
from pushtrain.errors import CloudError, CloudUnavailable, LedgerUnavailable
from pushtrain.fleet import listing
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.live.rows import Row, last_figures, rows
from pushtrain.lookup import read_each
from pushtrain.redact import redact
from pushtrain.run import ledger_prefix

# A run's last figures stand in its newest chunks of metrics; a chunk of a session has one line.
_CHUNKS = 3


@dataclass
class Top:
    """Looks at ledger and clouds; what did not move since the last look is not read again. `away`: what the clouds said
    by name that did not answer the last one."""

    ledger: Ledger
    cloud: Cloud
    clock: Callable[[], float] = time.time
    away: Mapping[str, CloudError] = field(default_factory=dict)
    _figures: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    def look(self) -> list[Row]:
        """Raises LedgerUnavailable, CloudError where no cloud answers: an old answer is not passed off as a new one."""
        told = listing(self.cloud, ledger_prefix(self.ledger.url))
        self.away, pods = told.away, told.live.pods
        records, _ = read_each(self.ledger, self.ledger.look().open_runs)
        active = [record for record in records.values() if not record.is_over]
        figures = {record.run_id: self._last_figures(record) for record in active}
        return rows(active, [pod for pod in pods if _is_there(pod)], figures, self.clock())

    def unknown(self) -> list[str]:
        """For people: whose pods the last look did not see, and why."""
        return [f"what {CLOUDS[name].title} has is not known: {failure}" for name, failure in self.away.items()]

    def _last_figures(self, record: RunRecord) -> Mapping[str, Any]:
        known = self._figures.get(record.run_id)
        if known is None or known[0] != record.tip:
            last = max((number(path) for path in record.paths if path.startswith("metrics/")), default=0)
            raw, _ = self.ledger.text(record, "metrics", max(0, last - _CHUNKS)) if last else (b"", 0)
            known = self._figures[record.run_id] = (record.tip, last_figures(raw))
        return known[1]


def watch(top: Top, console: Console, *, every_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """The table in a terminal until Ctrl-C; a look that fails leaves the last one standing and says so. Raises what the
    first look raises."""
    table = draw(top.look(), top.unknown())
    with suppress(KeyboardInterrupt), Screen(table, console=console, auto_refresh=False, screen=False) as screen:
        while True:
            sleep(every_s)
            try:
                table = draw(top.look(), top.unknown())
            except (LedgerUnavailable, CloudUnavailable) as away:
                table.caption = redact(f"{away}: this is how it was")
            screen.update(table, refresh=True)


def draw(found: list[Row], unknown: Sequence[str] = ()) -> Table:
    hourly = sum(row.usd_per_hour for row in found)
    title = f"{sum(row.pod_id is not None for row in found)} pods, ${hourly:.2f} an hour together"
    # Two lines a pod and no frame: a terminal of 80 columns has room for all of it.
    table = Table(title=title, box=None, padding=(0, 1), pad_edge=False, title_justify="left")
    for name in ("run", "state", "GPU, VRAM %", "disk GB", "dollars", "up"):
        table.add_column(name, no_wrap=name == "run", overflow="fold", justify="left" if name in _TEXTS else "right")
    for row in found:
        table.add_row(*(redact(cell) for cell in _cells(row)))
    table.caption = redact("; ".join(unknown)) or None
    return table


_TEXTS = ("run", "state")


def _cells(row: Row) -> list[str]:
    step = f"\nstep {row.step}/{row.total_steps or '?'}" if row.step is not None else ""
    idle = f"\nidle for {row.idle_s / 60:.0f} min" if row.idle_s else ""
    attempt = f", attempt {row.attempt}" if row.attempt not in (None, 1) else ""
    gpu = f"\n{row.gpu_count} × {row.gpu}" if row.gpu else ""
    disk = _of(row.disk_gb, row.disk_total_gb) or "–"
    volume = f"\nvol {told}" if (told := _of(row.volume_gb, row.volume_total_gb)) else ""
    hourly = f"{row.usd_per_hour:.2f}/h" if row.usd_per_hour else "–"
    spent = f"\n{row.spent_usd:.3f} of {row.cap_usd:.2f}" if row.spent_usd is not None else ""
    memory = f"\nRAM {_percent(row.memory_percent)}" if row.memory_percent is not None else ""
    return [
        f"{row.run_id}{gpu}",
        f"{row.state}{attempt}{step}{idle}",
        f"{_percent(row.gpu_percent)}, {_percent(row.gpu_memory_percent)}{memory}",
        f"{disk}{volume}",
        f"{hourly}{spent}",
        _time(row.uptime_s),
    ]


def _of(used: float | None, total: float | None) -> str:
    return f"{used:.0f}/{total:.0f}" if used is not None and total else ""


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _time(seconds: int | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _is_there(pod: Pod) -> bool:
    return pod.is_alive or pod.usd_per_hour > 0
