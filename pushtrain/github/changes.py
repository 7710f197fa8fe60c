"""The job specs that a commit changes against its base: file names out of git, and nothing that is in the files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pushtrain.errors import LedgerError, SpecError
from pushtrain.gitcmd import git, git_env

# A pull request with more is no review any more; each costs milliseconds, and a request for prices.
MOST_SPECS = 200
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
    if base.startswith("-") or not base.isprintable():
        raise SpecError(f"{base[:80]!r} is no commit", reason="UnknownBase")
    env = git_env("", None, environ)
    try:
        start = (
            git(["rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"], env=env, cwd=root).stdout.decode().strip()
        )
    except LedgerError:
        hint = "fetch it first (actions/checkout: fetch-depth: 2 has HEAD^1), or name another with --base"
        raise SpecError(f"git has no commit {base!r}", hint=hint, reason="UnknownBase") from None
    try:
        start = git(["merge-base", start, "HEAD"], env=env, cwd=root).stdout.decode().strip() or start
    except LedgerError:
        pass  # a shallow clone may not hold it: then the base itself is what is compared with
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
