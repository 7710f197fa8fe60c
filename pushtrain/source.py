"""The source seam: what people ask for, and how commits follow one another. The git member reads a work tree's objects.

`desired.py` says how a commit's jobs/ is read; here is only what the control plane asks of it.
"""

import re
import tempfile
from pathlib import Path
from typing import Protocol

from git import GitError, Repo

from pushtrain import desired
from pushtrain.desired import Desired
from pushtrain.errors import LedgerError, SpecError
from pushtrain.gitcmd import git, git_env

# What every server says of a commit that it does not have; GitHub's and GitLab's are git's own words.
_NOT_THERE = re.compile(r"(?i)not our ref|couldn't find remote ref")


class Source(Protocol):
    """One checkout of the repository that holds jobs/, and the remote it came from."""

    def desired(self) -> Desired:
        """Every job spec at HEAD. Raises SpecError when there is no commit yet, LedgerError when git cannot read it."""
        ...

    def lock_digest(self) -> str | None:
        """Git's blob id of uv.lock at HEAD; None without one."""
        ...

    def committed_epoch_s(self, commit: str) -> int:
        """The date of a commit this checkout holds."""
        ...

    def descends(self, commit: str, ancestor: str) -> bool:
        """False, too, where a shallow clone does not hold one of them."""
        ...

    def head(self) -> str | None:
        """The commit of the remote's default branch now; None when the remote does not say."""
        ...

    def lacks(self, commit: str) -> bool:
        """True where the remote says that it does not have this commit: no pod could fetch it. False, too, where
        nobody knows."""
        ...


def head_commit(root: Path) -> str:
    """The commit that is checked out at or above `root`. Raises SpecError where there is none."""
    try:
        with Repo(root, search_parent_directories=True) as repo:
            return repo.head.commit.hexsha
    except (GitError, ValueError):
        hint = "run this in a clone of your repository"
        raise SpecError(f"{root} is no git work tree with a commit", hint=hint) from None


class GitSource:
    """`root` is the work tree; `url` its remote, asked with `token` where that is the URL's own host."""

    def __init__(self, root: Path, url: str, *, token: str | None) -> None:
        self._root, self._url, self._token = root, url, token
        self._known: Desired | None = None

    def desired(self) -> Desired:
        self._known = desired.desired(self._root, self._known)
        return self._known

    def lock_digest(self) -> str | None:
        return desired.lock_digest(self._root)

    def committed_epoch_s(self, commit: str) -> int:
        with Repo(self._root) as repo:
            return int(repo.commit(commit).committed_date)

    def descends(self, commit: str, ancestor: str) -> bool:
        with Repo(self._root) as repo:
            status, _, _ = repo.git.merge_base(
                "--is-ancestor", ancestor, commit, with_exceptions=False, with_extended_output=True
            )
        return bool(status == 0)

    def head(self) -> str | None:
        try:
            out = git(["ls-remote", self._url, "HEAD"], env=git_env(self._url, self._token), timeout_s=30).stdout
        except LedgerError:
            return None
        return out.decode().split("\t")[0] or None

    def lacks(self, commit: str) -> bool:
        env = git_env(self._url, self._token)
        try:
            said = git(["ls-remote", "--heads", self._url], env=env, timeout_s=30).stdout.decode()
            tips = [line.split("\t")[0] for line in said.splitlines()]
            if commit in tips or any(self._holds(tip) and self.descends(tip, commit) for tip in tips):
                return False
            # Asked as a pod asks, in a repository that has nothing: git asks nobody for what it holds already.
            with tempfile.TemporaryDirectory(prefix="pushtrain-asks-") as empty:
                git(["init", "-q", "--bare", "--template=", "."], env=env, cwd=Path(empty))
                fetch = ["fetch", "-q", "--no-tags", "--depth=1", "--filter=tree:0", self._url, commit]
                git(fetch, env=env, cwd=Path(empty))
        except LedgerError as refused:
            return bool(_NOT_THERE.search(str(refused)))
        return False

    def _holds(self, commit: str) -> bool:
        with Repo(self._root) as repo:
            status, _, _ = repo.git.cat_file(
                "-e", f"{commit}^{{commit}}", with_exceptions=False, with_extended_output=True
            )
        return bool(status == 0)
