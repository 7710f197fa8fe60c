"""The verbs that tell what a merge would do, and what it goes by: part of the command line, `pushtrain.cli`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pushtrain.redact import redact
from pushtrain.terminal import print_drawn, print_json, report, say
from pushtrain.worktree import work_tree


def plan(
    paths: Annotated[list[Path] | None, typer.Argument(help="Job specs; all of jobs/ when left out.")] = None,
    base: Annotated[str | None, typer.Option(metavar="REF", help="Only what changed since, and how.")] = None,
    markdown: Annotated[bool, typer.Option(help="Markdown, for a step summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
) -> None:
    """What a merge would rent, whether it fits, how long it takes and what it costs. Needs no key.

    With RUNPOD_API_KEY set, prices and stock are live; HF_HUB_OFFLINE=1 keeps it from asking the Hub for sizes.
    """
    from pushtrain.plan import plan_specs

    plans, problems = plan_specs(
        [Path.cwd() / path for path in paths or []], work_tree(Path.cwd()), os.environ, base=base
    )
    if as_json:
        from pushtrain.plan.document import document

        print_json(document(plans))
    elif markdown:
        from pushtrain.plan.markdown import markdown as marked_up

        print(redact(marked_up(plans)))
    else:
        from pushtrain.plan.text import drawn

        print_drawn(drawn(plans))
    for problem in problems:
        report(problem)
    if problems:
        raise typer.Exit(2)


def compare(
    path: Annotated[Path, typer.Argument(metavar="SPEC", help="One job spec, e.g. jobs/NAME.yaml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw dollars against hours.")] = None,
) -> None:
    """What one job would cost at every cloud, how long it takes there and what is missing, the cheapest first.

    Live from each cloud whose key is set, else from a dated snapshot. Rents nothing and needs no key.
    """
    from pushtrain import compare as room
    from pushtrain.compare import document, table
    from pushtrain.compare import svg as drawing
    from pushtrain.spec.file import write_text

    found, problems = room.compare(Path.cwd() / path, work_tree(Path.cwd()), os.environ)
    if found is not None:
        if as_json:
            print_json(document.document(found))
        else:
            print_drawn(table.drawn(found))
        if svg is not None:
            write_text(svg, redact(drawing.drawn(found)))
            say(f"drawn: {svg}")
    for problem in problems:
        report(problem)
    if problems:
        raise typer.Exit(2)


def prices(
    refresh: Annotated[bool, typer.Option(help="Ask the clouds, write prices.json and prices-CLOUD.json.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
) -> None:
    """The prices that a plan goes by without a key, and how old they are.

    --refresh asks each cloud whose key is set, and Vast.ai without one.
    """
    from pushtrain.prices import show
    from pushtrain.prices.snapshot import PRICED, of_repository

    if refresh:
        show.refresh(work_tree(Path.cwd()), os.environ, say)
    found = [of_repository(work_tree(Path.cwd()), name) for name in PRICED]
    if as_json:
        print_json(show.document_of(found))
    else:
        print_drawn(show.table_of(found))


def review(
    base: Annotated[str, typer.Option(metavar="REF", help="What is merged into; its policy holds.")] = "origin/main",
) -> None:
    """The plan of every job spec that HEAD changes against REF, held against REF's policy, as one comment.

    In a workflow it goes into the step summary, and into one comment of the pull request where GITHUB_TOKEN may write.
    """
    from pushtrain.github.posting import review_here

    found = review_here(work_tree(Path.cwd()), base, os.environ, say)
    for problem in found.problems:
        report(problem)
    raise typer.Exit(found.exit_code)
