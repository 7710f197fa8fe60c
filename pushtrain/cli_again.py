"""The verbs that run something a second time: part of the command line, `pushtrain.cli`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pushtrain.capabilities import CloudName
from pushtrain.redact import redact
from pushtrain.terminal import out, print_json, report_tick, say


def retry(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Run id, its beginning, or a job name.")],
    why: Annotated[str, typer.Option(help="A word for the record.")] = "",
    cloud: Annotated[CloudName | None, typer.Option(help="At this one of the clouds that the spec allows.")] = None,
) -> None:
    """Run a spec once more that failed or was cancelled. What it may cost is printed before it starts."""
    from pushtrain.retry import retry as run_again
    from pushtrain.settings import person
    from pushtrain.wiring import open_control

    control = open_control(Path.cwd(), say)
    done = run_again(control, name, by=person(control.settings.root), why=why, cloud=cloud or "")
    report_tick(done)
    if done.active:
        say("`pushtrain reconcile --follow` stays with it; without, the next reconcile goes on")
    raise typer.Exit(done.exit_code)


def extend(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Run id, its beginning, or a job name.")],
    hours: Annotated[float, typer.Option(min=0, help="Hours more.")] = 0.0,
    usd: Annotated[float, typer.Option(min=0, help="US dollars more.")] = 0.0,
    why: Annotated[str, typer.Option(help="A word for the record.")] = "",
) -> None:
    """Raise the budget of an active run, within the policy. A running pod keeps its deadline; the next one goes on."""
    from pushtrain.extend import More
    from pushtrain.extend import extend as add
    from pushtrain.settings import person
    from pushtrain.wiring import open_control

    control = open_control(Path.cwd(), say)
    # Only in a workflow is there a name for one wish: at a shell the same command twice means it twice.
    by, request = person(control.settings.root), os.environ.get("GITHUB_RUN_ID", "")
    add(control, name, More(hours=hours, usd=usd, by=by, why=why, request=request))


def replay(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Run id, its beginning, or a job name.")],
    again: Annotated[bool, typer.Option("--again", help="Start another one where one is over.")] = False,
    verdict: Annotated[bool, typer.Option("--verdict", help="Start nothing: read it from the ledger.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="Share by which a loss may differ.")] = 0.01,
    why: Annotated[str, typer.Option(help="A word for the record.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
) -> None:
    """Run a training once more from its lock; once it is over, say whether it came out the same, and why not.

    Exit code 0: equal to the bit, or within tolerance; 1: drifted, or it failed.
    """
    from pushtrain.replay.start import replay as run_again
    from pushtrain.replay.start import verdict as verdict_on
    from pushtrain.settings import load_settings, person
    from pushtrain.wiring import open_control, open_ledger

    if not verdict:
        control = open_control(Path.cwd(), say)
        done = run_again(control, name, by=person(control.settings.root), why=why, again=again)
        if done is not None:
            report_tick(done)
            say("`pushtrain reconcile --follow` stays with it; then the same command tells the verdict")
            raise typer.Exit(done.exit_code)
    said = verdict_on(open_ledger(load_settings(Path.cwd())), name, tolerance)
    if as_json:
        print_json(said.as_json())
    else:
        out.print(redact(said.as_text()))
    raise typer.Exit(said.exit_code)
