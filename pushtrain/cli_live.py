"""The verbs that show a run as it is this moment: part of the command line, `pushtrain.cli`."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pushtrain.redact import redact
from pushtrain.terminal import out, print_json, say

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run id, its beginning, or a job name.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def logs(
    name: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    as_json: Json = False,
) -> None:
    """A run's events and log from the ledger; with -f also from the cloud's own stream, which is quicker."""
    from pushtrain.listing import stream_logs
    from pushtrain.settings import load_settings
    from pushtrain.wiring import open_ledger

    if follow:
        return _follow(name, as_json)
    settings = load_settings(Path.cwd())
    _write(stream_logs(open_ledger(settings), name, as_json=as_json))


def attach(
    name: Run,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for a pod that is starting.")] = 180.0,
) -> None:
    """The tmux of a session, or the live output of any other run, on its pod. Ctrl-b d leaves it, and it runs on.

    Where a run cannot be reached by ssh its log is followed instead.
    """
    from pushtrain.live.attach import attach as onto
    from pushtrain.ssh.session import open_line

    done = onto(open_line(Path.cwd(), os.environ, say), name, say, wait_s=wait)
    if done.code is None:
        say(f"{done.why}; its log instead (pushtrain logs -f), Ctrl-C leaves it")
        return _follow(name, as_json=False)
    raise typer.Exit(done.code)


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Every pod of this ledger: what its GPU, memory and disk do, dollars per hour, so far, and the cap."""
    from pushtrain.live.top import Top, draw, watch
    from pushtrain.settings import load_settings
    from pushtrain.wiring import open_clouds, open_ledger

    looks = Top(open_ledger(load_settings(Path.cwd())), open_clouds())
    if not (as_json or once) and out.is_terminal:
        return watch(looks, out, every_s=every)
    found = looks.look()
    for line in looks.unknown():
        say(line)
    if as_json:
        print_json([row.as_json() for row in found])
    else:
        out.print(draw(found))


def _follow(name: str, as_json: bool) -> None:
    from pushtrain.live.logs import Stream, follow_logs
    from pushtrain.settings import load_settings
    from pushtrain.wiring import open_cloud, open_ledger

    settings = load_settings(Path.cwd())

    def stream(cloud: str, pod_id: str) -> Stream:
        return Stream(lambda: open_cloud(name=cloud), pod_id, say).start()

    try:
        _write(follow_logs(open_ledger(settings), name, stream, as_json=as_json, tick_s=settings.tick_s))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _write(texts: Iterable[str]) -> None:
    for text in texts:
        sys.stdout.write(redact(text))
        sys.stdout.flush()
