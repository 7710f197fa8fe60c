"""Bring the run's exact commit onto the pod, then become the agent of that commit."""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pushtrain.errors import LedgerError, PushtrainError
from pushtrain.gitcmd import git, git_env
from pushtrain.pod.console import clean
from pushtrain.pod.context import EXIT_BOOT_FAILED, LEDGER_TOKEN, SOURCE_TOKEN, Context, read_context
from pushtrain.pod.tool import tool_folder

TRIES = 5
FETCH_TIMEOUT_S = 300.0
# Servers that hand out only what a branch points at say it in these words.
_NO_SINGLE_COMMIT = re.compile(r"(?i)unadvertised|not our ref|couldn't find remote ref|does not support|not allowed")


def main() -> int:
    """Exit code where the commit could not be had; otherwise this process becomes the agent and never returns."""
    try:
        context = read_context(os.environ)
        checkout = fetch_commit(context, os.environ)
    except (PushtrainError, OSError) as error:
        print(clean(f"boot failed: {error}"), flush=True)
        return EXIT_BOOT_FAILED
    env = {name: value for name, value in os.environ.items() if name != SOURCE_TOKEN}
    env |= {"PYTHONPATH": str(tool_folder(checkout)), "PYTHONUNBUFFERED": "1"}
    os.chdir(checkout)
    os.execve(sys.executable, [sys.executable, "-m", "pushtrain.pod.agent"], env)


def fetch_commit(context: Context, environ: Mapping[str, str], *, sleep: Callable[[float], None] = time.sleep) -> Path:
    """The checkout of exactly `context.commit`; one that an earlier attempt left is used when nothing in it changed.

    Raises LedgerError when the remote did not give the commit in 5 tries (waits: 1, 2, 4, 8 ticks).
    """
    # A token that may not read this repository is worse than none where the repository is public.
    tokens = list(dict.fromkeys([_token(context, environ), None]))
    if _is_intact(context, git_env(context.source_url, None, environ)):
        print(f"boot: commit {context.commit} is here already", flush=True)
        return context.checkout
    context.checkout.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(TRIES):
        env = git_env(context.source_url, tokens[attempt % len(tokens)], environ)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=context.checkout.parent))
        try:
            _fill(fresh, context, env)
            shutil.rmtree(context.checkout, ignore_errors=True)
            fresh.rename(context.checkout)
        except LedgerError as error:
            if attempt == TRIES - 1:
                raise
            print(clean(f"boot: {error}; trying again", environ), flush=True)
            sleep(context.tick_s * 2**attempt)
        else:
            print(f"boot: fetched commit {context.commit}", flush=True)
            return context.checkout
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    raise AssertionError("unreachable: the last try returns or raises")


def _fill(folder: Path, context: Context, env: Mapping[str, str]) -> None:
    git(["init", "-q", "--template=", "."], env=env, cwd=folder)
    git(["remote", "add", "origin", context.source_url], env=env, cwd=folder)
    fetch = ["fetch", "-q", "--no-tags"]
    try:
        git([*fetch, "--depth=1", "origin", context.commit], env=env, cwd=folder, timeout_s=FETCH_TIMEOUT_S)
    except LedgerError as error:
        if not _NO_SINGLE_COMMIT.search(str(error)):
            raise
        everything = "+refs/heads/*:refs/remotes/origin/*"
        git([*fetch, "origin", everything], env=env, cwd=folder, timeout_s=FETCH_TIMEOUT_S)
    git(["checkout", "-q", "--detach", context.commit], env=env, cwd=folder)
    if _head(folder, env) != context.commit:
        raise LedgerError(f"the checkout is not at commit {context.commit}")


def _is_intact(context: Context, env: Mapping[str, str]) -> bool:
    """Untracked files do not count: caches and outputs of an earlier attempt are welcome."""
    if not (context.checkout / ".git").is_dir():
        return False
    try:
        changed = git(["status", "--porcelain", "--untracked-files=no"], env=env, cwd=context.checkout).stdout
        return not changed and _head(context.checkout, env) == context.commit
    except LedgerError:
        return False


def _head(folder: Path, env: Mapping[str, str]) -> str:
    return git(["rev-parse", "HEAD"], env=env, cwd=folder).stdout.decode().strip()


def _token(context: Context, environ: Mapping[str, str]) -> str | None:
    """The source's own token, or the ledger's where both live on one host: a token never goes to another host."""
    same_host = urlsplit(context.source_url).netloc == urlsplit(context.ledger_url).netloc
    return environ.get(SOURCE_TOKEN) or (environ.get(LEDGER_TOKEN) if same_host else None) or None
