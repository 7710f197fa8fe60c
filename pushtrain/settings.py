"""Where this checkout's runs live: git URLs, state folder, time steps. Read once from the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from git import GitError, InvalidGitRepositoryError, NoSuchPathError, Repo

from pushtrain.errors import LedgerError, PushtrainError, SpecError

NO_REMOTE = "NoRemote"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`root` is the work tree; URLs carry no credentials; times are seconds."""

    root: Path
    ledger_url: str
    source_url: str
    state_dir: Path
    ledger_token: str | None = field(repr=False)
    tick_s: float = 10.0
    boot_limit_s: float = 900.0
    """From the pod's creation to its first event."""
    environment_limit_s: float = 1800.0
    """From the first event to the installed environment; the pod's watchdog enforces it, like the two below."""
    upload_limit_s: float = 3600.0
    """From the last step to the adapter on the Hub."""
    stall_limit_s: float = 1800.0
    """Longest silence of a trainer that is alive: no line, no byte."""
    max_attempts: int = 3
    runpod_provider: str = "pushtrain"
    """Whose Pulumi resources make RunPod's; `infra.plugin` knows the other one."""
    teardown_wait_s: float = 120.0
    """How long destroy asks the cloud again before it calls what is left a leak."""


def load_settings(root: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of the work tree at or above `root`.

    PUSHTRAIN_LEDGER_URL (default: PUSHTRAIN_SOURCE_URL), PUSHTRAIN_SOURCE_URL (default: remote 'origin'),
    PUSHTRAIN_STATE_DIR (default: .pushtrain in the work tree), PUSHTRAIN_LEDGER_TOKEN (default: GITHUB_TOKEN where the
    ledger is on that GitHub); in seconds PUSHTRAIN_TICK_S, PUSHTRAIN_BOOT_LIMIT_S, PUSHTRAIN_LIMIT_ENVIRONMENT_S,
    PUSHTRAIN_LIMIT_UPLOAD_S and PUSHTRAIN_TEARDOWN_WAIT_S. Paths among them count from the work tree.
    Raises PushtrainError outside a git work tree, without any remote, or for a time that is none.
    """
    environ = os.environ if environ is None else environ
    try:
        with Repo(root, search_parent_directories=True) as repo:
            top = Path(repo.working_tree_dir or root)
            origin = str(repo.config_reader().get_value('remote "origin"', "url", ""))
    except (InvalidGitRepositoryError, NoSuchPathError):
        raise SpecError(
            f"{root} is not inside a git work tree", hint="run this in a clone of your repository"
        ) from None
    except GitError as error:
        raise LedgerError(f"git cannot read {root}: {error}", hint="is git installed?") from None
    source = environ.get("PUSHTRAIN_SOURCE_URL") or origin
    if not source:
        raise PushtrainError(
            "no git remote: the pod could not fetch the commit",
            hint="git remote add origin URL, or set PUSHTRAIN_SOURCE_URL",
            reason=NO_REMOTE,
        )
    ledger_url = _plain_url(environ.get("PUSHTRAIN_LEDGER_URL") or source, top)
    return Settings(
        root=top,
        ledger_url=ledger_url,
        source_url=_plain_url(source, top),
        state_dir=top / (environ.get("PUSHTRAIN_STATE_DIR") or ".pushtrain"),
        ledger_token=_token(ledger_url, environ),
        runpod_provider=environ.get("PUSHTRAIN_RUNPOD_PROVIDER") or Settings.runpod_provider,
        tick_s=_seconds(environ, "PUSHTRAIN_TICK_S", Settings.tick_s),
        boot_limit_s=_seconds(environ, "PUSHTRAIN_BOOT_LIMIT_S", Settings.boot_limit_s),
        environment_limit_s=_seconds(environ, "PUSHTRAIN_LIMIT_ENVIRONMENT_S", Settings.environment_limit_s),
        upload_limit_s=_seconds(environ, "PUSHTRAIN_LIMIT_UPLOAD_S", Settings.upload_limit_s),
        teardown_wait_s=_seconds(environ, "PUSHTRAIN_TEARDOWN_WAIT_S", Settings.teardown_wait_s),
    )


def person(root: Path, environ: Mapping[str, str] | None = None) -> str:
    """Who is asking, for the record: GitHub's actor, else git's author; empty when neither is known."""
    environ = os.environ if environ is None else environ
    if named := (environ.get("GITHUB_ACTOR") or environ.get("GIT_AUTHOR_NAME") or "").strip():
        return named
    with Repo(root) as repo:
        return str(repo.config_reader().get_value("user", "name", "")).strip()


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise PushtrainError(f"{name}={text!r} is no number of seconds", reason="BadSetting")
    return value


def _plain_url(url: str, top: Path) -> str:
    """Without user and password; a local path becomes file://, because the pod has its own working directory."""
    url = re.sub(r"^(https?://)[^/]*@", r"\1", url.strip())
    is_path = "://" not in url and ":" not in url.partition("/")[0]
    return f"file://{(top / url).resolve()}" if is_path else url


def _token(ledger_url: str, environ: Mapping[str, str]) -> str | None:
    """GITHUB_TOKEN goes to the GitHub that made it and to no other host."""
    github = urlsplit(environ.get("GITHUB_SERVER_URL") or "https://github.com").netloc
    names = ["PUSHTRAIN_LEDGER_TOKEN", *(["GITHUB_TOKEN"] if urlsplit(ledger_url).netloc == github else [])]
    return next((token for name in names if (token := environ.get(name, "").strip())), None)
