"""What .github/workflows/train.yml does on a push to main, as a git hook: check the commit out, reconcile.

Run as `python -m pushtrain.demo.action` by post-receive. The reconcile is detached, as an Action is from the push.
"""

import os
import subprocess
import sys
from pathlib import Path

from pushtrain.gitcmd import git, git_env
from pushtrain.wiring import command

MAIN = "refs/heads/main"


def main() -> None:
    """Read `old new ref` lines as git gives them; a push to main starts one reconcile, others are ignored."""
    for line in sys.stdin:
        _old, new, ref = line.split()
        if ref == MAIN:
            start(Path(os.environ["PUSHTRAIN_DEMO_DIR"]), new)


def start(folder: Path, commit: str) -> int:
    """Clone the pushed commit, start `reconcile --follow` there, leave its pid in action.pid; returns the pid."""
    url = os.environ["PUSHTRAIN_SOURCE_URL"]
    env = git_env(url, None)
    checkout = folder / "action" / commit[:8]
    git(["clone", "--quiet", "--no-tags", "--single-branch", "--branch", "main", url, str(checkout)], env=env)
    with (folder / "action.log").open("ab") as log:
        process = subprocess.Popen(
            [*command(), "reconcile", "--follow", "--max-minutes", "30"],
            cwd=checkout,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / "action.pid").write_text(str(process.pid))
    return process.pid


if __name__ == "__main__":
    main()
