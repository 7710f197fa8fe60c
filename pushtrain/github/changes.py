"""The job specs that a commit changes against its base: file names out of git, and nothing that is in the files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pushtrain.errors import LedgerError, SpecError
from pushtrain.gitcmd import git, git_env
from pushtrain.pod.tool import ASIDE

# A pull request with more is no review any more; each costs milliseconds, and a request for prices.
MOST_SPECS = 200
_MACHINERY = (".github", "pushtrain", "infra", "trainer", "pyproject.toml", "uv.lock", "Pulumi.yaml", ASIDE)
_KINDS: dict[str, Literal["new", "changed", "gone"]] = {"A": "new", "D": "gone"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A renamed spec is one that is gone and one that is new: its name is its identity."""

    path: str
    kind: Literal["new", "changed", "gone"]


def changed_specs(root: Path, base: str, environ: Mapping[str, str]) -> list[Change]:
    """Changes of jobs/*.yaml and *.yml between the last common commit of `base` and HEAD, and HEAD itself.

    Raises SpecError where git has no such commit (reason UnknownBase), and for more than MOST_SPECS (TooManySpecs).
    """
    env = git_env("", None, environ)
    start = _start(root, base, env)
    out = git(["diff", "--name-status", "-z", "--no-renames", start, "HEAD", "--", "jobs"], env=env, cwd=root).stdout
    words = out.decode(errors="surrogateescape").split("\0")
    changes = [
        Change(path=path, kind=_KINDS.get(status[:1], "changed"))
        for status, path in zip(words[0::2], words[1::2], strict=False)
        if path.count("/") == 1 and path.endswith((".yaml", ".yml"))
    ]
    if len(changes) > MOST_SPECS:
        message = f"{len(changes)} job specs are changed, and at most {MOST_SPECS} are looked at together"
        raise SpecError(message, where="jobs", hint="split the pull request", reason="TooManySpecs")
    return changes


def changed_machinery(root: Path, base: str, environ: Mapping[str, str]) -> list[str]:
    """Paths of workflows, tool and lock that change likewise: how jobs are judged and run after the merge. Raises as
    `changed_specs`."""
    env = git_env("", None, environ)
    names = ["diff", "--name-only", "-z", "--no-renames", _start(root, base, env), "HEAD", "--", *_MACHINERY]
    return [it for it in git(names, env=env, cwd=root).stdout.decode(errors="surrogateescape").split("\0") if it]


def _start(root: Path, base: str, env: Mapping[str, str]) -> str:
    if base.startswith("-") or not base.isprintable():
        raise SpecError(f"{base[:80]!r} is no commit", reason="UnknownBase")
    try:
        start = (
            git(["rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"], env=env, cwd=root).stdout.decode().strip()
        )
    except LedgerError:
        hint = "fetch it first (actions/checkout: fetch-depth: 2 has HEAD^1), or name another with --base"
        raise SpecError(f"git has no commit {base!r}", hint=hint, reason="UnknownBase") from None
    try:
        return git(["merge-base", start, "HEAD"], env=env, cwd=root).stdout.decode().strip() or start
    except LedgerError:
        return start  # a shallow clone may not hold it: then the base itself is what is compared with
