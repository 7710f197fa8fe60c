"""Files to and from a run's pod, and on after a pod was lost: rsync over ssh, scp where there is none, and where ssh
takes no files, runpodctl's codes."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pushtrain.errors import SshError, UsageError
from pushtrain.ssh.client import SshFiles
from pushtrain.ssh.codes import by_code
from pushtrain.ssh.endpoint import Endpoint
from pushtrain.ssh.places import Copy, here, rsync_argv, scp_argv
from pushtrain.ssh.session import Line, run_client

# Exit codes of rsync(1) that say that the other side is not there any more; ssh and scp say 255.
_CUT = (10, 12, 30, 35, 255)
_NO_RSYNC_THERE = 127
_MOST_CUTS = 20
# A pod that was lost is seen by the next reconcile, and an image takes minutes.
NEXT_POD_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Ways:
    """What carries files here. `has_rsync`: version 3.1 or later, which knows what is asked of it."""

    has_rsync: bool
    progress: bool
    run: Callable[[list[str]], int] = run_client
    show: Callable[[str], object] = lambda text: None
    """Where runpodctl's own progress goes."""


def ways_here(progress: bool) -> Ways:
    return Ways(has_rsync=_has_rsync(), progress=progress, show=sys.stderr.write if progress else lambda text: None)


def carry(line: Line, copy: Copy, ways: Ways, *, wait_s: float) -> None:
    """Carry one copy out; a connection that breaks is made again, at the next attempt's pod if need be.

    Raises UsageError (BadPlace), SshError: OnlyTerminal, NoProgram, CopyFailed, and what `reach` raises
    once no pod follows.
    """
    _check(copy)
    for cuts in range(_MOST_CUTS):
        found, files = line.reach(copy.run, wait_s=wait_s if cuts == 0 else NEXT_POD_S, through_gaps=cuts > 0)
        code = _once(line, copy, found, files, ways)
        if code == 0:
            return
        if code not in _CUT:
            raise SshError(f"the copy failed: exit code {code}", hint="its last lines say why", reason="CopyFailed")
        line.seams.say(f"the connection to pod {found.pod_id} broke; going on as soon as there is one again")
        line.seams.sleep(1.0)
    raise SshError(f"the connection broke {_MOST_CUTS} times", hint="try again later", reason="CopyFailed")


def _once(line: Line, copy: Copy, found: Endpoint, files: SshFiles, ways: Ways) -> int:
    if found.proxy:
        return by_code(line, copy, found, files, ways.show)
    by_rsync = ways.has_rsync
    if by_rsync:
        code = ways.run(rsync_argv(copy, found, files, progress=ways.progress))
        if code != _NO_RSYNC_THERE:
            return code
    side = "the pod's image" if by_rsync else "this machine"
    if copy.contents:
        get = f"pushtrain ssh {copy.run} -- " if by_rsync else ""
        raise SshError(
            f"sync needs rsync 3.1, which {side} does not have",
            hint=f"{get}apt-get install -y rsync, or pushtrain cp, which also goes by scp",
            reason="NoRsync",
        )
    line.seams.say(f"by scp, since {side} has no rsync: what breaks off starts again")
    return ways.run(scp_argv(copy, found, files))


def _check(copy: Copy) -> None:
    """What can be known before anybody is asked. Makes the folder that a download goes to."""
    if copy.up:
        missing = [path for path in copy.here if not os.path.lexists(path)]
        if missing:
            raise UsageError(
                f"{missing[0]} is not here",
                hint="nothing was sent",
                reason="BadPlace",
            )
        if copy.contents and not Path(copy.here[0]).is_dir():
            raise UsageError(f"{copy.here[0]} is no folder", hint="pushtrain cp is for files", reason="BadPlace")
        return
    target = Path(here(copy.here[0]))
    is_folder = copy.contents or copy.here[0].endswith("/") or len(copy.there) > 1
    (target if is_folder else target.parent).mkdir(parents=True, exist_ok=True)


def _has_rsync() -> bool:
    """macOS brings a program of that name that knows less."""
    if shutil.which("rsync") is None:
        return False
    said = subprocess.run(["rsync", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    version = re.search(r"version v?(\d+)\.(\d+)", said)
    return version is not None and "openrsync" not in said and (int(version[1]), int(version[2])) >= (3, 1)
