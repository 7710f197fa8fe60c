"""Where this checkout's runs live: git URLs, state folder, time steps. Read once from the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from git import InvalidGitRepositoryError, Repo

from pushtrain.errors import PushtrainError, SpecError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`root` is the work tree; URLs carry no credentials; times are seconds."""

    root: Path
    ledger_url: str
    source_url: str
    state_dir: Path
    ledger_token: str | None
    tick_s: float = 10.0
    boot_limit_s: float = 900.0
    """From the pod's creation to its first event."""
    stall_limit_s: float = 1800.0
    """Longest silence of a trainer that is alive; the pod's watchdog enforces it."""
    max_attempts: int = 3
    teardown_wait_s: float = 120.0
    """How long destroy asks the cloud again before it calls what is left a leak."""


def load_settings(root: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of the work tree at or above `root`.

    PUSHTRAIN_LEDGER_URL (default: PUSHTRAIN_SOURCE_URL), PUSHTRAIN_SOURCE_URL (default: remote 'origin'),
    PUSHTRAIN_STATE_DIR (default: .pushtrain in the work tree), PUSHTRAIN_LEDGER_TOKEN, PUSHTRAIN_TICK_S.
    Raises PushtrainError outside a git work tree or without any remote.
    """
    environ = os.environ if environ is None else environ
    try:
        repo = Repo(root, search_parent_directories=True)
    except InvalidGitRepositoryError:
        raise SpecError(
            f"{root} is not inside a git work tree", hint="run this in a clone of your repository"
        ) from None
    work_tree = Path(repo.working_tree_dir or root)
    origin = next((remote.url for remote in repo.remotes if remote.name == "origin"), "")
    source = environ.get("PUSHTRAIN_SOURCE_URL") or origin
    if not source:
        raise PushtrainError(
            "no git remote: the pod could not fetch the commit",
            hint="git remote add origin URL, or set PUSHTRAIN_SOURCE_URL",
            reason="NoRemote",
        )
    return Settings(
        root=work_tree,
        ledger_url=_plain_url(environ.get("PUSHTRAIN_LEDGER_URL") or source),
        source_url=_plain_url(source),
        state_dir=Path(environ.get("PUSHTRAIN_STATE_DIR") or work_tree / ".pushtrain"),
        ledger_token=environ.get("PUSHTRAIN_LEDGER_TOKEN") or environ.get("GITHUB_TOKEN"),
        tick_s=float(environ.get("PUSHTRAIN_TICK_S") or 10.0),
    )


def _plain_url(url: str) -> str:
    """Without user and password; a local path becomes file://, because the pod has its own working directory."""
    url = re.sub(r"^(https?://)[^/@]*@", r"\1", url)
    return f"file://{Path(url).absolute()}" if url.startswith(("/", ".")) else url
