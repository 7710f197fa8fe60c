"""A git remote in memory, and the ledger's store over it. tests/test_store.py holds it to what real git does."""

import hashlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from pushtrain.errors import LedgerUnavailable
from pushtrain.gitstore import Change, blob_id
from pushtrain.gitstore import Commit as Told


@dataclass(frozen=True, slots=True)
class Commit:
    parent: str | None
    files: Mapping[str, str]
    """Path → blob id of every file."""


class Link(Protocol):
    """How a store reaches its remote: carries out what is asked, or raises, before or after it was carried out.

    CutOff is a connection that failed (git ends with a code), LedgerUnavailable git that was given up.
    """

    def __call__(self, verb: str, carry_out: Callable[[], Any]) -> Any: ...


class CutOff(Exception):
    """The connection failed; what git says."""


class MemoryRemote:
    """Refs, commits and blobs. `moved` hears every ref that changed, with its old and new commit."""

    def __init__(self, moved: Callable[[str, str | None, str], None] = lambda ref, old, new: None) -> None:
        self.refs: dict[str, str] = {}
        self.commits: dict[str, Commit] = {}
        self.blobs: dict[str, bytes] = {}
        self._moved = moved

    def push(self, updates: Mapping[str, str], sender: "MemoryStore", create_only: bool) -> tuple[int, bytes]:
        """Git's exit code and porcelain output. All refs are taken or none."""
        commits = sender.commits
        refused = {ref: why for ref, new in updates.items() if (why := self._refusal(ref, new, commits, create_only))}
        if refused:
            refused = {ref: refused.get(ref, "atomic push failed") for ref in updates}
        for ref, new in updates.items():
            old = self.refs.get(ref)
            if ref not in refused and old != new:
                self._take(new, sender)
                self.refs[ref] = new
                self._moved(ref, old, new)
        lines = [f"!\t{updates[ref]}:{ref}\t[rejected] ({why})" for ref, why in refused.items()]
        return int(bool(refused)), "\n".join(["To memory", *lines, "Done"]).encode()

    def _refusal(self, ref: str, new: str, commits: Mapping[str, Commit], create_only: bool) -> str:
        old = self.refs.get(ref)
        if create_only:
            return "stale info" if old is not None else ""
        at: str | None = new
        while old is not None and at != old:
            if at is None:
                return "fetch first"
            at = (commits.get(at) or self.commits[at]).parent
        return ""

    def _take(self, tip: str, sender: "MemoryStore") -> None:
        """A branch only grows: what the tip has is all there is."""
        at: str | None = tip
        while at is not None and at not in self.commits:
            self.commits[at] = sender.commits[at]
            at = sender.commits[at].parent
        fresh = [blob for blob in sender.commits[tip].files.values() if blob not in self.blobs]
        self.blobs |= {blob: sender.blobs[blob] for blob in fresh}


class MemoryStore:
    """One machine's cache of a `MemoryRemote`. Lost with the machine: make another one."""

    def __init__(self, remote: MemoryRemote, link: Link = lambda verb, carry_out: carry_out()) -> None:
        self._remote, self._link = remote, link
        self._seen: dict[str, str] = {}
        self.commits: dict[str, Commit] = {}
        self.blobs: dict[str, bytes] = {}
        self._made = 0

    @property
    def exists(self) -> bool:
        return bool(self.commits)

    def remote_refs(self, *patterns: str) -> dict[str, str]:
        return self._ask("ls-remote", lambda: _matching(self._remote.refs, patterns))

    def fetch(self, tips: Mapping[str, str]) -> dict[str, str]:
        missing = [ref for ref, tip in tips.items() if self._seen.get(ref) != tip]
        if missing:
            self._ask("fetch", lambda: self._bring(missing))
        return {ref: self._seen[ref] for ref in tips}

    def keep(self, ref: str, commit: str) -> None:
        self._seen[ref] = commit

    def commit(self, parent: str | None, files: Mapping[str, bytes], subject: bytes, now_s: float) -> str:
        ids = {path: blob_id(raw) for path, raw in files.items()}
        self.blobs |= {ids[path]: raw for path, raw in files.items()}
        before = self.commits[parent].files if parent else {}
        said = repr((parent, sorted(ids.items()), subject, int(now_s))).encode()
        sha = hashlib.sha1(said, usedforsecurity=False).hexdigest()
        self.commits[sha] = Commit(parent, {**before, **ids})
        return sha

    def push(
        self, updates: Mapping[str, str], *, create_only: bool = False, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        def carry_out() -> tuple[int, bytes]:
            return self._remote.push(updates, self, create_only)

        try:
            code, said = self._link("push", carry_out)
        except CutOff as cut:
            return subprocess.CompletedProcess([], 128, b"", f"fatal: {cut}\n".encode())
        return subprocess.CompletedProcess([], code, said, b"")

    def trees(self, commits: Sequence[str]) -> list[dict[str, str]]:
        return [dict(self._found(self.commits, commit).files) for commit in commits]

    def objects(self, names: Sequence[str]) -> list[bytes]:
        return [self._found(self.blobs, name) for name in names]

    def history(self, tip: str) -> list[Told]:
        commits: list[Told] = []
        at: str | None = tip
        while at is not None:
            commit = self._found(self.commits, at)
            before = self.commits[commit.parent].files if commit.parent else {}
            paths = sorted(path for path in {*before, *commit.files} if before.get(path) != commit.files.get(path))
            changes = [Change(path=path, old=before.get(path), new=commit.files.get(path)) for path in paths]
            commits.append(Told(id=at, parents=(commit.parent,) if commit.parent else (), changes=tuple(changes)))
            at = commit.parent
        return commits[::-1]

    def seen(self, refs: Sequence[str]) -> dict[str, str]:
        return {ref: self._seen[ref] for ref in refs if ref in self._seen}

    def _ask(self, verb: str, carry_out: Callable[[], Any]) -> Any:
        try:
            return self._link(verb, carry_out)
        except CutOff as cut:
            raise LedgerUnavailable(f"git {verb}: fatal: {cut}", hint="it is tried again") from None

    def _bring(self, refs: Sequence[str]) -> None:
        for ref in refs:
            if ref not in self._remote.refs:
                raise CutOff(f"couldn't find remote ref {ref}")
            at: str | None = self._remote.refs[ref]
            self._seen[ref] = at or ""
            while at is not None and at not in self.commits:
                self.commits[at] = self._remote.commits[at]
                at = self.commits[at].parent
            fresh = [blob for blob in self._remote.commits[self._seen[ref]].files.values() if blob not in self.blobs]
            self.blobs |= {blob: self._remote.blobs[blob] for blob in fresh}

    def _found(self, kept: Mapping[str, Any], name: str) -> Any:
        if name not in kept:
            raise LedgerUnavailable(f"git cat-file: {name} is not here")
        return kept[name]


def _matching(refs: Mapping[str, str], patterns: Sequence[str]) -> dict[str, str]:
    """As `git ls-remote` matches: a pattern may stand for the last parts of a ref."""
    return {ref: refs[ref] for ref in sorted(refs) if any(fnmatchcase(f"/{ref}", f"*/{it}") for it in patterns)}
