"""The verbs that go onto a pod by ssh: part of the command line, `pushtrain.cli`."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from pushtrain.terminal import out, say

RUN_HELP = "Run id, its beginning, or a job name."
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for a pod that is starting.")]


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
    """Register this machine's ssh key with RunPod, making one where there is none; every other key stays.

    Pods that are made from now on let it in. Its private half is never read nor sent.
    """
    from pushtrain.ssh.keys import find_or_make, register
    from pushtrain.wiring import open_cloud

    key = find_or_make(os.environ)
    cloud = open_cloud(os.environ)
    added = register(cloud, key.line)
    others = len(cloud.ssh_keys()) - 1
    say(f"{'made' if key.was_made else 'found'} {key.path}")
    kept = "no other key is there" if not others else f"{others} other key{'s' if others > 1 else ''} kept"
    out.print(f"{key.fingerprint} {'is registered now' if added else 'was registered already'}; {kept}")
