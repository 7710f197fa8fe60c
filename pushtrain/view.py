"""The live view of one run in a terminal (rich), and plain lines where there is none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pushtrain.budget import cap_usd
from pushtrain.control import Control
from pushtrain.errors import LedgerError
from pushtrain.events import Event
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.progress import Progress, phase_times, spent_usd

_BARS = "▁▂▃▄▅▆▇█"
# Between two lines about the steps of one run, for whoever follows it by lines.
STEP_LINE_EVERY_S = 60.0


@dataclass(kw_only=True)
class RunView:
    """Follows one run's branch; `refresh` reads only what is new since the last call."""

    ledger: Ledger
    run_id: str
    record: RunRecord | None = None
    progress: Progress = field(default_factory=Progress)
    _chunk: int = 0

    def refresh(self) -> RunRecord | None:
        """The run as of now; None until it is claimed. Raises LedgerUnavailable."""
        tip = self.ledger.refs().get(self.run_id)
        if tip is not None and (self.record is None or tip != self.record.tip):
            self.take(self.ledger.read(self.run_id, tip))
        return self.record

    def take(self, record: RunRecord) -> None:
        """The run as it was read just now. Raises LedgerUnavailable."""
        self.record = record
        raw, self._chunk = self.ledger.text(record, "metrics", self._chunk)
        self.progress.add(raw.splitlines())


def draw(view: RunView, now_s: float, lines: list[str]) -> RenderableType:
    """One frame: phases with seconds, step, loss, tokens/s, dollars so far of the cap, the last lines said."""
    record, progress = view.record, view.progress
    if record is None:
        return Panel(Text("waiting for the claim …"), title=view.run_id)
    table = Table.grid(padding=(0, 2))
    for phase, seconds in phase_times(record.events, now_s):
        current = phase == record.last.state
        mark = "▶" if current else ("✓" if seconds is not None else "·")
        style = "bold cyan" if current else ("green" if seconds is not None else "dim")
        table.add_row(Text(f"{mark} {phase}", style), Text("" if seconds is None else f"{seconds:7.1f} s", style))
    cap = cap_usd(record)
    figures = Table.grid(padding=(0, 1))
    figures.add_row("step", f"{progress.step} of {progress.total_steps or '?'}")
    figures.add_row("", ProgressBar(total=max(progress.total_steps, 1), completed=progress.step, width=40))
    figures.add_row("loss", f"{progress.losses[-1][1]:.3f}  {spark(progress)}" if progress.losses else "–")
    figures.add_row("tokens/s", f"{progress.tokens_per_s:,.0f}" if progress.tokens_per_s else "–")
    figures.add_row("dollars", f"${spent_usd(record, now_s):.5f} of at most ${cap:.2f}")
    figures.add_row("attempt", str(record.last.attempt))
    figures.add_row("last", Text(f"{record.last.state}: {record.last.message}", overflow="ellipsis", no_wrap=True))
    both = Table.grid(padding=(0, 4))
    both.add_row(table, figures)
    return Panel(Group(both, *[Text(line, style="dim") for line in lines[-4:]]), title=view.run_id)


def spark(progress: Progress, width: int = 32) -> str:
    """The loss as one line of bars: each the mean of a slice of the steps."""
    values = [loss for _, loss in progress.losses]
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    low, high = min(means), max(means)
    return "".join(_BARS[round((mean - low) / (high - low or 1.0) * (len(_BARS) - 1))] for mean in means)


def line(view: RunView, now_s: float) -> tuple[str, str]:
    """The same for logs: what it is about (print a line when it changes), and the line."""
    record, progress = view.record, view.progress
    if record is None:
        return "", f"{view.run_id}: not claimed yet"
    loss = f", loss {progress.losses[-1][1]:.3f}" if progress.losses else ""
    step = f", step {progress.step} of {progress.total_steps}" if progress.step else ""
    about = f"{record.last.state} {progress.step}"
    return about, f"{record.last.state}{step}{loss}, ${spent_usd(record, now_s):.5f}"


@dataclass(kw_only=True)
class Aloud:
    """Says in lines how runs go, for a terminal or an Action's log: each word of a pod, and a step a minute."""

    ledger: Ledger
    say: Callable[[str], None]
    clock: Callable[[], float]
    _views: dict[str, RunView] = field(default_factory=dict)
    _heard: dict[str, int] = field(default_factory=dict)
    _said_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, control: Control) -> "Aloud":
        return cls(ledger=control.ledger, say=control.say, clock=control.clock)

    def after(self, records: Mapping[str, RunRecord]) -> None:
        """What is new in `records`, run id → what the ledger says of it now. Raises nothing: a ledger that is away is
        told by who needs it."""
        for run_id, record in records.items():
            if record.is_over:
                continue
            for event in self._news(record):
                why = f" ({event.reason})" if event.reason else ""
                what = f": {event.message}" if event.message else ""
                self.say(f"{run_id}: {event.state}{why}{what}")
            try:
                self._step(record)
            except LedgerError:
                continue

    def _news(self, record: RunRecord) -> list[Event]:
        """Words of its pod that were not heard yet; of a run that somebody else began the last one alone."""
        spoken = [event for event in record.events if event.writer == "pod"]
        before = self._heard.setdefault(record.run_id, spoken[-2].seq if len(spoken) > 1 else 0)
        self._heard[record.run_id] = spoken[-1].seq if spoken else before
        return [event for event in spoken if event.seq > before]

    def _step(self, record: RunRecord) -> None:
        run_id, now_s = record.run_id, self.clock()
        if now_s < self._said_s.get(run_id, float("-inf")) + STEP_LINE_EVERY_S:
            return
        view = self._views.setdefault(run_id, RunView(ledger=self.ledger, run_id=run_id))
        before = view.progress.step
        view.take(record)
        if view.progress.step != before:
            self._said_s[run_id] = now_s
            self.say(f"{run_id}: {line(view, now_s)[1]}")
