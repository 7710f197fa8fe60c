"""The verbs that go onto a pod by ssh: part of the command line, `pushtrain.cli`."""

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from pushtrain.cli_volumes import cp_volume
from pushtrain.errors import PushtrainError
from pushtrain.terminal import out, say

RUN_HELP = "Run id, its beginning, or a job name."
Names = Annotated[list[str] | None, typer.Argument(metavar="RUN", help="Runs; all active ones when left out.")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for a pod that is starting.")]


def add_ssh_verbs(app: typer.Typer) -> None:
    for verb in (ssh, ssh_key, ssh_config, cp, sync, tunnel):
        app.command()(verb)


def forget_over(verb: list[str]) -> None:
    """After a verb that may have ended a run: its host goes out of the managed configuration, where there is one."""
    from pushtrain.ssh.config import is_wanted

    if verb not in (["cancel"], ["reconcile"], ["run"]) or not is_wanted(os.environ):
        return
    from pushtrain.settings import load_settings
    from pushtrain.ssh.session import tidy
    from pushtrain.wiring import open_ledger

    with contextlib.suppress(PushtrainError):  # the verb has said what there was to say; the next use drops it
        tidy(open_ledger(load_settings(Path.cwd())), os.environ)


def ssh(
    name: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    command: Annotated[
        list[str] | None, typer.Argument(help="After --: what to run there.", show_default=False)
    ] = None,
    wait: Wait = 180.0,
) -> None:
    """A shell on the pod of a run, or one command; exit code: that of the command, 255 where the connection broke.

    Waits until sshd answers with the host key that the ledger tells. Being logged in does not keep a pod alive.
    """
    from pushtrain.ssh.session import run_ssh

    # One word is a line for the shell there, as ssh takes it; several are kept apart.
    line = command[0] if command and len(command) == 1 else shlex.join(command or [])
    raise typer.Exit(run_ssh(Path.cwd(), name, line, os.environ, say, wait_s=wait))


def ssh_key() -> None:
    """Register this machine's ssh key with every cloud that takes one and whose API key is set, making one where there
    is none; every other key stays.

    Pods that are made from now on let it in. Its private half is never read nor sent.
    """
    from pushtrain.ssh.keys import find_or_make, register_everywhere, takers
    from pushtrain.wiring import open_clouds

    clouds = open_clouds(os.environ)
    takers(clouds)
    key = find_or_make(os.environ)
    say(f"{'made' if key.was_made else 'found'} {key.path}")
    failures = register_everywhere(clouds, key, out.print, say)
    for failure in failures[1:]:
        say(f"{failure}")
    if failures:
        raise failures[0]


def cp(
    places: Annotated[
        list[str],
        typer.Argument(metavar="FROM… TO", help="One side is RUN:path or volume:NAME/path, the other is here."),
    ],
    wait: Wait = 180.0,
) -> None:
    """Copy files and folders to or from a run's pod, or a volume without one; what breaks off goes on where it was.

    Relative paths there count from the volume. A pod that is lost meanwhile is waited for: its next attempt has the
    same volume.
    """
    from pushtrain.ssh.copying import carry, ways_here
    from pushtrain.ssh.places import read_places
    from pushtrain.ssh.session import open_line
    from pushtrain.volumes.files import is_volume

    if any(is_volume(it) for it in places):
        return cp_volume(places)
    copy = read_places(places[:-1], places[-1])
    carry(open_line(Path.cwd(), os.environ, say), copy, ways_here(sys.stdout.isatty()), wait_s=wait)


def sync(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A folder, here or RUN:folder.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The folder that becomes like it.")],
    delete: Annotated[bool, typer.Option("--delete", help="Remove what FROM does not have.")] = False,
    exclude: Annotated[list[str] | None, typer.Option(help="A pattern of rsync to leave out; repeatable.")] = None,
    wait: Wait = 180.0,
) -> None:
    """Make one folder like another, to or from the pod of a run: only what differs is sent. Goes on as `cp` does."""
    from dataclasses import replace

    from pushtrain.ssh.copying import carry, ways_here
    from pushtrain.ssh.places import read_places
    from pushtrain.ssh.session import open_line

    copy = replace(read_places([source], target), contents=True, delete=delete, exclude=tuple(exclude or ()))
    carry(open_line(Path.cwd(), os.environ, say), copy, ways_here(sys.stdout.isatty()), wait_s=wait)


def tunnel(
    name: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    ports: Annotated[list[str], typer.Argument(metavar="PORT…", help="6006, or 8000:80 for port 80 there.")],
    open_browser: Annotated[bool, typer.Option("--open", help="Open the first URL that answers.")] = False,
    wait: Wait = 180.0,
) -> None:
    """Ports of the pod on this machine until Ctrl-C: kept alive, and made again after a break, a sleep, the next pod.

    Says which URL answers. A port that is taken here becomes the next free one, unless both are named.
    """
    import webbrowser

    from pushtrain.signals import Stopped, stoppable
    from pushtrain.ssh.forwards import is_free, read_forwards, settle
    from pushtrain.ssh.session import open_line
    from pushtrain.ssh.tunnel import Tunnel

    forwards = settle(read_forwards(ports), is_free, say)
    line = open_line(Path.cwd(), os.environ, say)
    held = Tunnel(line=line, name=name, forwards=forwards)
    if open_browser:
        held.open_url = webbrowser.open
    try:
        with stoppable():
            held.hold(wait_s=wait)
    except (KeyboardInterrupt, Stopped):
        say("the tunnel is closed; the pod goes on")


def ssh_config(
    names: Names = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take it all away again.")] = False,
) -> None:
    """Let `ssh pushtrain-RUN`, scp and VS Code's Remote-SSH find the pods of runs by name.

    Puts one Include line at the top of ~/.ssh/config, once. From then on every verb keeps the entries fresh.
    """
    from pushtrain.ssh import config
    from pushtrain.ssh.session import open_line, write_config

    if remove:
        out.print("taken away" if config.remove(os.environ) else "there was nothing")
        return
    lines = write_config(open_line(Path.cwd(), os.environ, say), names or [])
    out.print("\n".join(lines) or "no run is active")
