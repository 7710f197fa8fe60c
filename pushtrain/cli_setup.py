"""The verbs that come before the first run: part of the command line, `pushtrain.cli`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pushtrain.redact import redact
from pushtrain.terminal import out, print_json, say
from pushtrain.worktree import work_tree


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
) -> None:
    """Look at keys, tokens, branch rules and state before the first push; each line says what is wrong and its fix.

    Nothing is changed: a branch that it makes in the ledger, to see that it can, is removed again.
    """
    from pushtrain.doctor.finding import exit_code, text_of
    from pushtrain.doctor.look import look, shown

    found = look(work_tree(Path.cwd()), os.environ)
    if as_json:
        print_json([it.as_json() for it in found])
    else:
        out.print(redact("\n".join(text_of(found))))
        say(shown(found))
    raise typer.Exit(exit_code(found))


def init(
    force: Annotated[bool, typer.Option("--force", help="Also write over files that say something else.")] = False,
) -> None:
    """Put workflows, a policy, a first job and the tool into this repository; what is there is not overwritten."""
    from pushtrain.init import init as write

    done = write(work_tree(Path.cwd()), force=force)
    out.print(done.as_text())
    say(done.next_steps())
