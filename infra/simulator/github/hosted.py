"""A bare repository as GitHub hosts it: what a path's last commit is, refs/pull/N/…, and the three ways to merge."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pushtrain.errors import PushtrainError
from pushtrain.gitcmd import git, git_env

How = Literal["merge", "squash", "rebase"]


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """`env` is the environment of git on the host, with the identity of the person who merges."""

    path: Path
    env: Mapping[str, str]

    def tip(self, ref: str) -> str | None:
        """The commit of a branch, ref or commit; None where there is none."""
        if ref.startswith("-"):
            return None
        found = self._ask("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        return found or None

    def branches(self) -> dict[str, str]:
        """Branch → commit."""
        lines = self._ask("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads").splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def last_commit(self, ref: str, path: str) -> str | None:
        """The newest commit in the history of `ref` that changed `path`."""
        tip = self.tip(ref)
        return (self._ask("log", "-1", "--format=%H", tip, "--", path) or None) if tip else None

    def author(self, commit: str) -> str:
        return self._ask("log", "-1", "--format=%an", commit)

    def message(self, commit: str) -> str:
        return self._ask("log", "-1", "--format=%B", commit)

    def blob(self, ref: str, path: str) -> str | None:
        tip = self.tip(ref)
        return (self._ask("rev-parse", "--verify", "--quiet", f"{tip}:{path}") or None) if tip else None

    def file(self, ref: str, path: str) -> str:
        """Text of a file at a commit."""
        return git(["show", f"{ref}:{path}"], env=self._env(), cwd=self.path).stdout.decode()

    def files(self, ref: str, folder: str) -> list[str]:
        return self._ask("ls-tree", "--name-only", ref, f"{folder}/").splitlines()

    def changed(self, before: str | None, after: str) -> list[str]:
        """Paths that differ; all of them where there was nothing before."""
        if before is None:
            return self._ask("ls-tree", "-r", "--name-only", after).splitlines()
        return self._ask("diff", "--name-only", "--no-renames", before, after).splitlines()

    def commits(self, base: str, head: str) -> list[str]:
        return self._ask("rev-list", f"{base}..{head}").splitlines()

    def propose(self, number: int, head: str, base: str) -> str | None:
        """Sets refs/pull/N/head and refs/pull/N/merge, as GitHub does; None where they cannot be merged."""
        self._ask("update-ref", f"refs/pull/{number}/head", head)
        merged = self._made(base, ["merge", "--quiet", "--no-ff", "-m", f"Merge {head} into {base}", head])
        if merged is not None:
            self._ask("update-ref", f"refs/pull/{number}/merge", merged)
        return merged

    def merge(self, number: int, head: str, base: str, how: How, title: str) -> str | None:
        """Merges into the branch `base`; the new commit, None where it cannot be merged."""
        tip = self.tip(f"refs/heads/{base}")
        if tip is None:
            return None
        if how == "rebase":
            made = self._made(head, ["rebase", "--quiet", "--no-ff", tip])
        elif how == "squash":
            commit = ["commit", "--quiet", "-m", f"{title} (#{number})"]
            made = self._made(tip, ["merge", "--quiet", "--squash", head], commit)
        else:
            message = f"Merge pull request #{number}\n\n{title}"
            made = self._made(tip, ["merge", "--quiet", "--no-ff", "-m", message, head])
        if made is not None:
            self._ask("update-ref", f"refs/heads/{base}", made, tip)
        return made

    def _made(self, start: str, *commands: list[str]) -> str | None:
        """The commit after `commands` in a work tree of its own; None where one of them fails."""
        folder = Path(tempfile.mkdtemp(prefix="pushtrain-merge-"))
        tree = folder / "tree"
        try:
            self._ask("worktree", "add", "--quiet", "--detach", str(tree), start)
            for command in commands:
                if git(command, env=self._env(), cwd=tree, ok=(0, 1, 128)).returncode != 0:
                    return None
            return git(["rev-parse", "HEAD"], env=self._env(), cwd=tree).stdout.decode().strip()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._ask("worktree", "prune")

    def _ask(self, *args: str) -> str:
        done = git(args, env=self._env(), cwd=self.path, ok=(0, 1, 128))
        if done.returncode != 0 and args[0] not in ("rev-parse",):
            raise PushtrainError(f"git {args[0]}: {done.stderr.decode(errors='replace').strip()}", reason="HostFailed")
        return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""

    def _env(self) -> dict[str, str]:
        """Who presses the button is the author, GitHub the committer, of a rebase's commits as well."""
        committer = {"GIT_COMMITTER_NAME": "GitHub", "GIT_COMMITTER_EMAIL": "noreply@github.com"}
        return git_env("", None, {**self.env, **committer})
