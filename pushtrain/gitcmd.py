"""Run git as a subprocess: bounded in time, never prompting, no credential in argv or URLs.

Standard library only: the pod uses it before anything is installed.
"""

import base64
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pushtrain.errors import LedgerError, LedgerUnavailable
from pushtrain.redact import redact

# Texts of git and of hosting services that mean: trying again with the same credentials changes nothing.
_FATAL = re.compile(
    r"(?i)authentication failed|permission denied|could not read (username|password)|access denied|"
    r"repository .*not found|does not appear to be a git repository|not a git repository|"
    r"write access to repository not granted|prohibited|does not support --atomic|\b403\b|\b401\b"
)
AGAIN = "a tick or a pod tries again by itself; whoever waits: are the git URL and the network right?"
# A rule of the remote said no to what was pushed: a hook, a protected branch, a size limit, a scan for secrets.
_REFUSED = re.compile(r"(?i)protected branch|declined|rule violations|\bGH0\d\d\b|deny updating|deny creating|quota")
REFUSED = "PushRefused"
# What git adds when ssh has already said what is wrong.
_SAYS_NOTHING = re.compile(
    r"(?i)^fatal: could not read from remote|^please make sure you have|^and the repository exists"
)


def git(
    args: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout_s: float = 60.0,
    ok: tuple[int, ...] = (0,),
    pass_fds: tuple[int, ...] = (),
) -> subprocess.CompletedProcess[bytes]:
    """One git command; the caller looks at returncode when `ok` holds more than 0. git inherits `pass_fds`.

    Raises LedgerUnavailable when it took longer than `timeout_s` or failed in a way that may pass, LedgerError when
    credentials or the URL are wrong. Messages are redacted.
    """
    try:
        done = subprocess.run(
            ["git", *args],
            env=dict(env),
            cwd=cwd,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            pass_fds=pass_fds,
        )
    except subprocess.TimeoutExpired:
        raise LedgerUnavailable(f"git {args[0]} took longer than {timeout_s:.0f} s", hint=AGAIN) from None
    except FileNotFoundError:
        if cwd is not None and not cwd.is_dir():
            raise LedgerUnavailable(f"{cwd} went away under git {args[0]}", hint=AGAIN) from None
        raise LedgerError("git is not installed", hint="install git 2.30 or newer") from None
    if done.returncode not in ok:
        raise failure(args[0], done)
    return done


def failure(verb: str, done: subprocess.CompletedProcess[bytes]) -> LedgerError:
    """The error for a git command that failed, sorted into 'try again' and 'a person must act'."""
    text = redact(said(done)).strip()
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not _SAYS_NOTHING.search(line)]
    tail = " / ".join(lines[-3:]) or f"exit code {done.returncode}"
    if refused(done):
        hint = "the remote's rules must let this token create and update branches runs/*, claims/*, session/*"
        return LedgerError(f"git {verb}: {tail}", hint=hint, reason=REFUSED)
    if _FATAL.search(text):
        return LedgerError(f"git {verb}: {tail}", hint="check the git URL and that the token may write to it")
    return LedgerUnavailable(f"git {verb}: {tail}", hint=AGAIN)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What went wrong, in git's words: stderr, and what a server refused (`push --porcelain` marks it on stdout)."""
    marked = b"\n".join(line for line in done.stdout.splitlines() if line.startswith(b"!"))
    return (done.stderr + b"\n" + marked).decode(errors="replace")


def refused(done: subprocess.CompletedProcess[bytes]) -> bool:
    """Whether a rule of the remote said no: not a race, and the same push will be refused again."""
    return bool(_REFUSED.search(said(done)))


def git_env(url: str, token: str | None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for git against `url`: no prompts, no hooks, the token as a header for that host only.

    The header goes by GIT_CONFIG_* variables (git ≥ 2.31), so that it is neither in argv nor in a URL.
    """
    env = dict(os.environ if environ is None else environ)
    config = [("core.hooksPath", os.devnull), ("gc.auto", "0"), ("safe.directory", "*")]
    parts = urlsplit(url)
    if token and parts.scheme in ("http", "https"):
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        config.append(
            (f"http.{parts.scheme}://{parts.netloc.rpartition('@')[2]}/.extraHeader", f"Authorization: Basic {basic}")
        )
    # Fewer than 1000 bytes a second for 30 s is a dead connection: git ends it by itself.
    config += [("http.lowSpeedLimit", "1000"), ("http.lowSpeedTime", "30"), ("maintenance.auto", "false")]
    env = with_config(env, dict(config))
    env |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_NO_LAZY_FETCH": "1"}
    env.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_QUARANTINE_PATH", "GIT_OBJECT_DIRECTORY"):
        env.pop(name, None)  # set inside hooks; they would point our commands at somebody else's repository
    return env


def with_config(env: Mapping[str, str], config: Mapping[str, str]) -> dict[str, str]:
    """An environment in which git has these settings, too (git ≥ 2.31): neither in argv nor on disk."""
    first = int(env.get("GIT_CONFIG_COUNT") or 0)
    named = {f"GIT_CONFIG_KEY_{index}": key for index, key in enumerate(config, first)}
    values = {f"GIT_CONFIG_VALUE_{index}": value for index, value in enumerate(config.values(), first)}
    return {**env, **named, **values, "GIT_CONFIG_COUNT": str(first + len(config))}
