"""The commit of a session on a branch, in a work tree that the attempts of a run share."""

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pushtrain.errors import LedgerError
from pushtrain.gitcmd import git

FETCH_S = 600.0
REMOTE = "ledger"
PUSHED = "refs/pushtrain/pushed"
_HEADS = "refs/heads/"
_NO_SINGLE_COMMIT = re.compile(r"(?i)unadvertised|not our ref|couldn't find remote ref|does not support|not allowed")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a session works. `plain`, `to_source` and `to_ledger` are environments for git: without a token, and with
    the one for that URL. `names`: branches the work may go to, the wanted one first."""

    work: Path
    checkout: Path
    run_id: str
    commit: str
    source_url: str
    ledger_url: str
    names: Sequence[str]
    plain: Mapping[str, str] = field(repr=False)
    to_source: Mapping[str, str] = field(repr=False)
    to_ledger: Mapping[str, str] = field(repr=False)

    def git(self, *args: str, cwd: Path | None = None, ok: tuple[int, ...] = (0,)) -> str:
        """Output of a git command in the work tree, without a token."""
        return git(list(args), env=self.plain, cwd=cwd or self.work, ok=ok).stdout.decode(errors="replace").strip()


@dataclass(frozen=True, kw_only=True)
class Opened:
    """`branch` is what the work tree is on and is pushed to; `how` says where it came from."""

    branch: str
    how: str
    is_found: bool = False


def host(url: str) -> str:
    """A token goes to no other host than its own."""
    return urlsplit(url).netloc.rpartition("@")[2]


def names(run_id: str, wanted: str) -> list[str]:
    """Branches of the ledger's repository that a session's work may go to, the wanted one first. The last one is for a
    remote whose rules take nothing but runs/*."""
    own = f"session/{run_id}"
    return list(dict.fromkeys([f"session/{wanted}" if wanted else own, own, f"runs/{run_id}.work"]))


def open_tree(place: Place, say: Callable[[str], None]) -> Opened:
    """The work tree, ready to work in: as the attempt before left it, or made anew.

    Where the wanted branch is at the remote and goes on from the commit, the work goes on from it; one with other
    commits is left alone, and the next name taken. Raises LedgerError, LedgerUnavailable.
    """
    if (found := _as_it_was(place)) is not None:
        return found
    place.work.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".work-", dir=place.work.parent))
    try:
        _fetch(place, fresh, say)
        branch, start, how = _where_to_begin(place, fresh, say)
        place.git("checkout", "-q", "-B", branch, start, cwd=fresh)
        author = place.git("log", "-1", "--format=%an%x00%ae", place.commit, cwd=fresh).split("\0")
        for key, value in zip(("user.name", "user.email"), author, strict=True):
            place.git("config", key, value, cwd=fresh)
        _set_aside(place, say)
        fresh.rename(place.work)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Opened(branch=branch, how=how)


def _as_it_was(place: Place) -> Opened | None:
    """What an earlier attempt left on the volume; a lock of a git that died with its pod is taken away."""
    kept = place.work / ".git" / "pushtrain-branch"
    if not kept.is_file():
        return None
    for lock in (place.work / ".git").glob("*.lock"):
        lock.unlink(missing_ok=True)
    try:
        head = place.git("rev-parse", "-q", "--verify", "HEAD", ok=(0, 1)) or "no commit"
        changed = place.git("status", "--porcelain").splitlines()
    except LedgerError:
        return None
    how = f"as the attempt before left it, at {head[:8]} with {len(changed)} files changed and not committed"
    return Opened(branch=kept.read_text().strip(), how=how, is_found=True)


def _set_aside(place: Place, say: Callable[[str], None]) -> None:
    """What git cannot read any more may still be somebody's work: it is moved, never removed."""
    if not place.work.exists():
        return
    taken = len(list(place.work.parent.glob(f"{place.work.name}-unreadable-*")))
    aside = place.work.with_name(f"{place.work.name}-unreadable-{taken + 1}")
    place.work.rename(aside)
    say(f"session: git cannot read the work tree of the attempt before: it is in {aside} now")


def keep_branch(place: Place, branch: str) -> None:
    """Which branch the work goes to, for the next attempt; it also says that the tree is whole."""
    (place.work / ".git" / "pushtrain-branch").write_text(branch + "\n")


def _fetch(place: Place, folder: Path, say: Callable[[str], None]) -> None:
    """The commit with its history: who develops wants it, and another repository takes no commit without it."""
    place.git("init", "-q", "--template=", ".", cwd=folder)
    place.git("remote", "add", "origin", place.source_url, cwd=folder)
    place.git("remote", "add", REMOTE, place.ledger_url, cwd=folder)
    fetch = ["fetch", "-q", "--no-tags", "origin"]
    everything = f"+{_HEADS}*:refs/remotes/origin/*"
    try:
        try:
            git([*fetch, place.commit], env=place.to_source, cwd=folder, timeout_s=FETCH_S)
        except LedgerError as error:
            if not _NO_SINGLE_COMMIT.search(str(error)):
                raise
            git([*fetch, everything], env=place.to_source, cwd=folder, timeout_s=FETCH_S)
    except LedgerError as error:
        say(f"session: the history could not be fetched ({error}): the work tree has the commit alone")
        git(["fetch", "-q", "--depth=1", f"file://{place.checkout}", place.commit], env=place.plain, cwd=folder)


def _where_to_begin(place: Place, folder: Path, say: Callable[[str], None]) -> tuple[str, str, str]:
    """Branch, commit to check out, and how that came about."""
    for name in place.names:
        tip = _fetched(place, folder, name)
        if tip is None:
            return name, place.commit, f"a new branch at commit {place.commit[:8]}"
        if _contains(place, folder, tip, place.commit):
            place.git("update-ref", PUSHED, tip, cwd=folder)
            return name, tip, f"where {name} was left, at {tip[:8]}"
        if _contains(place, folder, place.commit, tip):
            place.git("update-ref", PUSHED, tip, cwd=folder)
            return name, place.commit, f"{name}, brought forward from {tip[:8]} to commit {place.commit[:8]}"
        say(f"session: the branch {name} has other commits ({tip[:8]}) and stays as it is")
    raise LedgerError(f"every branch for this session is taken: {', '.join(place.names)}", reason="BranchTaken")


def _fetched(place: Place, folder: Path, name: str) -> str | None:
    """Tip of a branch at the ledger's remote, with its history; None where there is no such branch."""
    ref = _HEADS + name
    listed = git(["ls-remote", place.ledger_url, ref], env=place.to_ledger, cwd=folder).stdout.decode().split()
    if not listed:
        return None
    here = f"refs/remotes/{REMOTE}/{name}"
    git(["fetch", "-q", "--no-tags", place.ledger_url, f"+{ref}:{here}"], env=place.to_ledger, cwd=folder)
    return place.git("rev-parse", here, cwd=folder)


def _contains(place: Place, folder: Path, later: str, earlier: str) -> bool:
    done = git(["merge-base", "--is-ancestor", earlier, later], env=place.plain, cwd=folder, ok=(0, 1, 128))
    return done.returncode == 0
