"""The command line. The only place that prints and exits; everything below raises.

Exit codes: 0 ok · 1 the run failed · 2 the spec is wrong · 3 the cloud or engine failed · 4 a leak.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from pushtrain import __version__
from pushtrain.capabilities import CloudName
from pushtrain.cli_again import extend, replay, retry
from pushtrain.cli_live import attach, logs, top
from pushtrain.cli_plan import compare, plan, prices, review
from pushtrain.cli_setup import doctor, init
from pushtrain.cli_ssh import add_ssh_verbs, forget_over
from pushtrain.cli_volumes import volumes
from pushtrain.errors import PushtrainError
from pushtrain.redact import redact
from pushtrain.terminal import out, print_json, report, report_tick, say, tick_reporter, workflow_output

app = typer.Typer(
    name="pushtrain",
    help="Train by git push: job specs in git, rented GPUs by Pulumi, adapters on the Hub, nothing left running.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

BASE_HELP = "The commit whose pushtrain-policy.yaml holds, e.g. origin/main; without it the work tree's own does."
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def main() -> None:
    """Entry point: turns an expected failure into two lines (and an annotation on GitHub) and its exit code."""
    # Without git, GitPython then fails where it is used, with an error that can be told to a person.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        app(standalone_mode=True)
    except PushtrainError as failure:
        report(failure)
        sys.exit(failure.exit_code)
    except OSError as failure:
        report(PushtrainError(f"{failure.filename or 'the system'}: {failure.strerror or failure}"))
        sys.exit(PushtrainError.exit_code)
    finally:
        forget_over(sys.argv[1:2])


@app.command()
def check(
    paths: Annotated[list[Path] | None, typer.Argument(help="Job specs; all of jobs/ when left out.")] = None,
    base: Annotated[str | None, typer.Option(metavar="REF", help=BASE_HELP)] = None,
    write_schema: Annotated[bool, typer.Option(help="Write the schemas in jobs/ anew from the models.")] = False,
    as_json: Json = False,
) -> None:
    """Check job specs, their data files, each other and the policy. Needs no key and touches no network."""
    from pushtrain.check import check as check_specs
    from pushtrain.policy.file import policy_schema_json
    from pushtrain.spec.file import schema_json, write_text
    from pushtrain.worktree import work_tree

    root = work_tree(Path.cwd())
    if write_schema:
        write_text(root / "jobs" / "schema.json", schema_json())
        write_text(root / "jobs" / "policy-schema.json", policy_schema_json())
    found = check_specs([Path.cwd() / path for path in paths or []], root, base=base)
    if as_json:
        print_json(found.as_json())
    for problem in found.problems:
        report(problem)
    for warning in found.warnings:
        say(f"warning: {warning}")
    if found.problems:
        raise typer.Exit(2)
    if not as_json:
        fine = ", ".join(spec.name for spec in found.specs)
        out.print(f"{len(found.specs)} job specs are fine: {fine}" if fine else "there is no job spec to check")


app.command()(plan)
app.command()(compare)
app.command()(prices)
app.command()(review)
app.command()(doctor)
app.command()(init)


@app.command()
def reconcile(
    follow: Annotated[bool, typer.Option(help="Keep ticking until no run is active.")] = False,
    max_minutes: Annotated[float, typer.Option(min=0, help="Time box of --follow.")] = 330.0,
    end_only: Annotated[bool, typer.Option("--end-only", help="End and sweep what has to go; rent nothing.")] = False,
) -> None:
    """Make the world match HEAD: claim, provision, watch, collect, destroy, receipt, sweep. Safe to repeat."""
    from pushtrain.follow import follow as keep_on
    from pushtrain.github.live import told
    from pushtrain.reconcile import Tick, tick
    from pushtrain.signals import INTERRUPTED, Stopped, stoppable
    from pushtrain.view import Aloud
    from pushtrain.wiring import open_control

    try:
        with stoppable():
            control = open_control(Path.cwd(), say)
            control.may_rent = not end_only
            control.hear = Aloud.of(control).after
            last = Tick()
            with told(control, os.environ, tick_reporter()) as tell:

                def once(done: Tick) -> None:
                    nonlocal last
                    last = done
                    tell(done)

                if follow:
                    code = keep_on(control, max_minutes=max_minutes, once=once)
                else:
                    once(done := tick(control))
                    code = done.exit_code
            workflow_output("active", "true" if last.is_worth_following else "false")
            raise typer.Exit(code)
    except Stopped as stopped:
        say(f"{stopped.name}: stopped; the pods go on and look after themselves, the next reconcile goes on with them")
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def run(
    job: Annotated[str, typer.Argument(help="Name of a job spec at HEAD.")],
    max_minutes: Annotated[float, typer.Option(min=0, help="Stop following after this; the run goes on.")] = 10080.0,
) -> None:
    """Run one committed job now, in the foreground. Ctrl-C cancels it and destroys its stack."""
    from pushtrain.foreground import run_job
    from pushtrain.view import Aloud
    from pushtrain.wiring import open_control

    control = open_control(Path.cwd(), say)
    control.hear = Aloud.of(control).after
    raise typer.Exit(run_job(control, job, max_minutes=max_minutes, once=tick_reporter(), report=report))


@app.command()
def runs(as_json: Json = False) -> None:
    """Every run of the ledger: state, attempt, dollars, what was published."""
    from pushtrain.listing import list_runs, runs_table
    from pushtrain.settings import load_settings
    from pushtrain.wiring import open_ledger

    rows = list_runs(open_ledger(load_settings(Path.cwd())))
    if as_json:
        print_json(rows)
    else:
        out.print(runs_table(rows))


app.command()(logs)
app.command()(attach)
app.command()(top)


@app.command()
def cancel(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Run id, its beginning, or a job name.")],
    why: Annotated[str, typer.Option(help="A word for the record.")] = "",
) -> None:
    """Cancel an active run: pod and volume are destroyed, the receipt says what it cost."""
    from pushtrain.follow import cancel as cancel_run
    from pushtrain.settings import person
    from pushtrain.wiring import open_control

    control = open_control(Path.cwd(), say)
    done = cancel_run(control, name, reason="CancelledByHand", by=person(control.settings.root), why=why)
    report_tick(done)
    raise typer.Exit(max([failure.exit_code for failure in done.failures], default=0))


add_ssh_verbs(app)
app.command()(retry)
app.command()(extend)
app.command()(replay)
app.add_typer(volumes)


@app.command()
def sweep(
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is found; without it, only list.")] = False,
    copies: Annotated[
        bool, typer.Option("--copies", help="Also copies of checkpoints whose run ended a week ago or more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Everything that carries this ledger's mark; what no active run owns is removed with --yes.

    While the ledger cannot be read nobody knows what is owned: then it is listed, and nothing is removed.
    """
    from pushtrain.cli_sweep import sweep_all
    from pushtrain.wiring import open_control

    keys = os.environ if copies else None
    raise typer.Exit(sweep_all(open_control(Path.cwd(), say), yes=yes, as_json=as_json, environ=keys))


@app.command()
def verify(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Run id, its beginning, or a job: all its runs.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Every run of the ledger.")] = False,
    as_json: Json = False,
) -> None:
    """Check that nothing in a run's branch was changed, dropped, inserted or reordered; exit code 1 names what was."""
    from pushtrain.settings import load_settings
    from pushtrain.verify import verify as verify_runs
    from pushtrain.wiring import open_ledger

    if bool(name) == every:
        raise typer.BadParameter("name a run, or say --all")
    verdicts = verify_runs(open_ledger(load_settings(Path.cwd())), name or None)
    if as_json:
        print_json([verdict.as_json() for verdict in verdicts])
    else:
        out.print(redact("\n".join(verdict.as_text() for verdict in verdicts)))
    raise typer.Exit(1 if any(verdict.problems for verdict in verdicts) else 0)


@app.command()
def simulator(
    state: Annotated[Path, typer.Option(help="Folder that keeps its state.")] = Path(".pushtrain/simulator"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    keep_pods: Annotated[bool, typer.Option(help="Leave pods running when it stops.")] = False,
) -> None:
    """RunPod, the other clouds and a Hugging Face Hub on loopback: pods are local processes, nothing is rented."""
    from infra.simulator.server import SimulatorConfig, serve

    def announce(url: str, env: Mapping[str, str]) -> None:
        out.print(f"listening on {url}; in another terminal:")
        out.print("\n".join(f"export {name}={value}" for name, value in env.items()))
        out.print(f"export PATH={shlex.quote(str(state.resolve() / 'bin'))}:$PATH  # a runpodctl that reaches its pods")

    serve(SimulatorConfig(state_dir=state, port=port, keep_pods=keep_pods), announce)


@app.command()
def setup_pulumi(
    folder: Annotated[Path, typer.Option("--dir", help="Where the CLI goes.")] = Path(".tools/pulumi"),
    url: Annotated[str, typer.Option(help="A mirror of get.pulumi.com/releases/sdk; empty: that itself.")] = "",
) -> None:
    """Download the Pulumi CLI in the version pushtrain is tested with; prints the line that puts it on PATH."""
    from infra.setup_pulumi import RELEASES
    from infra.setup_pulumi import setup_pulumi as setup

    print(f'export PATH="{setup(folder, url=url or RELEASES, say=say)}:$PATH"')


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Leave the simulator running for a look around.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the demo works.")] = Path(".pushtrain/demo"),
    cloud: Annotated[CloudName, typer.Option(help="Whose simulator it rents from.")] = "runpod",
) -> None:
    """The whole way on loopback: push a job, train a LoRA, see the adapter, the receipt and the proof."""
    from pushtrain.demo import run_demo

    raise typer.Exit(run_demo(folder.absolute(), keep=keep, console=out, cloud=cloud))


@app.command()
def rehearse(
    merge: Annotated[Literal["merge", "squash", "rebase"], typer.Option(help="How it is merged.")] = "merge",
    folder: Annotated[Path, typer.Option(help="Where it works.")] = Path(".pushtrain/rehearsal"),
) -> None:
    """A pull request on loopback, as a new user meets it: init, comment, merge, run, receipt, by the real workflows."""
    from pushtrain.demo.rehearsal import run_rehearsal

    raise typer.Exit(run_rehearsal(folder.absolute(), how=merge, console=out))


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        out.print(f"pushtrain {__version__}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        out.print(context.get_help())
        raise typer.Exit(2)
