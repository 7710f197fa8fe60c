"""Figures of a run from its events and metrics, and the views that draw them."""

import io
import json
from pathlib import Path

import pytest
from git_world import RUN_ID, Remote, claim, event
from rich.console import Console
from test_lifecycle import record

from pushtrain.progress import Progress, phase_times, spent_usd
from pushtrain.receipt import cost_said
from pushtrain.view import Aloud, RunView, draw, line, spark


def lines(*rows: dict[str, object]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def test_figures_are_the_latest_ones() -> None:
    progress = Progress()
    progress.add(lines({"step": 1, "total_steps": 9, "loss": 4.0}, {"step": 2, "loss": 3, "tokens_per_s": 10.5}))
    progress.add(lines({"step": 2, "eval_loss": 3.5}, {"step": 3, "loss": None}))
    assert (progress.step, progress.total_steps, progress.tokens_per_s) == (3, 9, 10.5)
    assert (progress.losses, progress.eval_losses) == ([(1, 4.0), (2, 3.0)], [(2, 3.5)])


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b"null", b'{"loss": NaN, "step": 2}', b'{"loss": "x"}', b"\xff"])
def test_a_line_without_figures_is_passed_over(bad: bytes) -> None:
    progress = Progress()
    progress.add([*lines({"step": 1, "loss": 4.0}), bad, *lines({"step": 3, "loss": 2.0})])
    assert progress.losses == [(1, 4.0), (3, 2.0)]
    assert spark(progress) == "█▁"


def test_a_resumed_attempt_counts_a_step_once() -> None:
    progress = Progress()
    progress.add(lines(*({"step": step, "loss": 1.0} for step in (1, 2, 3, 4))))
    progress.add(lines({"step": 3, "loss": 9.0}))
    assert progress.losses == [(1, 1.0), (2, 1.0), (3, 9.0)]


def test_dollars_run_on_while_a_pod_runs_and_stop_with_it() -> None:
    running = record("claimed", "provisioned", "training")
    assert spent_usd(running, now_s=30.0) == pytest.approx(3.6 * 10 / 3600)
    assert spent_usd(running, now_s=130.0) == pytest.approx(3.6 * 110 / 3600)
    assert spent_usd(running, now_s=0.0) == pytest.approx(3.6 * 10 / 3600)
    for end in ("lost", "destroying"):
        assert spent_usd(record("claimed", "provisioned", end), now_s=9e9) == pytest.approx(3.6 * 10 / 3600)
    assert spent_usd(record("claimed", "provisioned", "lost", "waiting:2"), now_s=9e9) < 0.1
    assert spent_usd(record("claimed"), now_s=9e9) == 0.0


def test_the_bill_replaces_the_estimate() -> None:
    over = record("claimed", "provisioned", "closed", over=True)
    assert over.receipt is not None
    over.receipt["billed_usd"] = 1.25  # type: ignore[index]
    assert spent_usd(over, now_s=9e9) == 1.25


def test_steps_without_a_loss_count_and_an_evaluation_is_no_step() -> None:
    progress = Progress()
    progress.add(lines({"step": 3, "total_steps": 9}, {"step": 2, "eval_loss": 1.5}, {"time": 1.0}))
    assert (progress.step, progress.total_steps, progress.losses) == (3, 9, [])


def test_phases_last_until_the_next_one_begins() -> None:
    times = dict(phase_times(record("claimed", "provisioning", "provisioned", "booting").events, now_s=100.0))
    assert times["claimed"] == 10.0
    assert times["booting"] == 60.0
    assert times["training"] is None
    assert list(times)[-1] == "closed"
    assert dict(phase_times([], 1.0))["claimed"] is None


def test_phases_are_those_of_the_newest_attempt() -> None:
    events = record("claimed", "provisioned", "training", "lost", "provisioned:2", "booting:2").events
    times = dict(phase_times(events, now_s=100.0))
    assert (times["provisioned"], times["booting"], times["training"]) == (10.0, 40.0, None)


def test_a_word_that_a_pod_says_after_the_end_does_not_begin_the_run_again() -> None:
    assert record("claimed", "training", "closed", "preempted", over=True).last.state == "closed"
    assert record("claimed", "training", "preempted").last.state == "preempted"


def test_a_view_follows_the_branch_and_reads_only_what_is_new(tmp_path: Path) -> None:
    ledger = Remote(tmp_path).ledger()
    view = RunView(ledger=ledger, run_id=RUN_ID)
    assert view.refresh() is None
    assert line(view, 0.0) == ("", f"{RUN_ID}: not claimed yet")
    claim(ledger)
    ledger.append(
        RUN_ID, events=[event("training", message="[/red] :100:")], metrics=lines({"step": 1, "loss": 2.5})[0] + b"\n"
    )
    ledger.append(RUN_ID, metrics=lines({"step": 2, "total_steps": 4, "loss": 1.5})[0] + b"\n")
    record = view.refresh()
    assert record is not None
    assert view.progress.losses == [(1, 2.5), (2, 1.5)]
    assert view.refresh() is record
    assert line(view, record.last.epoch_s) == ("training 2", "training, step 2 of 4, loss 1.500, $0.00000")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(draw(view, record.last.epoch_s, ["said [this]"]))
    frame = console.export_text()
    for text in ("▶ training", "step", "2 of 4", "1.500", "[/red] :100:", "said [this]"):
        assert text in frame


def test_who_follows_hears_each_word_of_a_pod_once_and_a_step_a_minute(tmp_path: Path) -> None:
    ledger, said, now_s = Remote(tmp_path).ledger(), list[str](), [1000.0]
    aloud = Aloud(ledger=ledger, say=said.append, clock=lambda: now_s[0])
    claim(ledger)
    aloud.after({RUN_ID: ledger.read(RUN_ID)})
    assert said == []  # what the control plane does it says itself

    def goes_on(step: int, *states: str) -> list[str]:
        said.clear()
        words = [event(state, writer="pod", reason="Why" if state == "failed" else "") for state in states]
        ledger.append(RUN_ID, events=words, metrics=lines({"step": step, "total_steps": 9, "loss": 1.0})[0] + b"\n")
        aloud.after({RUN_ID: ledger.read(RUN_ID)})
        return [text.removeprefix(f"{RUN_ID}: ").partition(", $")[0] for text in said]

    assert goes_on(1, "booting", "training") == ["booting", "training", "training, step 1 of 9, loss 1.000"]
    assert goes_on(2) == []
    now_s[0] += 60.0
    assert goes_on(3) == ["training, step 3 of 9, loss 1.000"]
    assert goes_on(4, "failed") == ["failed (Why)"]

    said.clear()
    Aloud(ledger=ledger, say=said.append, clock=lambda: 0.0).after({RUN_ID: ledger.read(RUN_ID)})
    assert said[0] == f"{RUN_ID}: failed (Why)", "of what came before it joined it hears the last word alone"


@pytest.mark.parametrize(
    ("usd", "billed", "source", "said"),
    [
        (0.0, 0.0, "nothing was rented", "$0.0000: nothing was rented"),
        (0.5, 0.4, "billing API", "$0.5000 by time × price, $0.4000 of it billed by now"),
        (0.5, 0.5, "billing API", "$0.5000 by billing API"),
        (0.5, 0.5, "time × price", "$0.5000 by time × price"),
    ],
)
def test_what_a_run_cost_is_said_with_where_that_figure_is_from(
    usd: float, billed: float, source: str, said: str
) -> None:
    assert cost_said({"cost_usd": usd, "billed_usd": billed, "billed_source": source}) == said
