"""A bare git repository as a cache of somebody else's branches: read trees, write commits, push them.

Standard library only. One process per call, no work tree, no index. May be deleted at any time, and is when it is found
damaged.
"""

import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pushtrain.gitcache import GitCache
from pushtrain.gitcmd import git_env, with_config

IDENTITY = "pushtrain <pushtrain@localhost>"
# Larger files stay at the remote until somebody reads them, where it can do that (GitHub can): events are smaller, and
# to know how a thousand runs stand nobody needs their logs.
SMALL = "blob:limit=4k"
_ID = re.compile(r"[0-9a-f]{40}")
_SEEN = "refs/pushtrain/seen/"
_NEW = "refs/pushtrain/new"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One file that one commit touched. Blob ids; `old` or `new` is None where there is no file."""

    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit of a branch and what it changed against its (first) parent."""

    id: str
    parents: tuple[str, ...]
    changes: tuple[Change, ...]


class Store(Protocol):
    """What the ledger asks of git: somebody else's branches, and a cache of them. One contract suite holds the members.

    Every call that asks the remote raises LedgerUnavailable when that may pass, LedgerError when it will not.
    """

    @property
    def exists(self) -> bool:
        """Whether anything may be here yet, or still."""
        ...

    def remote_refs(self, *patterns: str) -> dict[str, str]:
        """Ref → commit of every ref at the remote that matches a pattern (`*` stands for anything); one round trip,
        nothing fetched."""
        ...

    def fetch(self, tips: Mapping[str, str]) -> dict[str, str]:
        """Bring refs (ref → commit the caller saw) here; returns what came: newer commits where a ref moved."""
        ...

    def keep(self, ref: str, commit: str) -> None:
        """Remember a commit as a remote ref's tip."""
        ...

    def commit(self, parent: str | None, files: Mapping[str, bytes], subject: bytes, now_s: float) -> str:
        """A new commit with `files` added to its parent's; returns its id."""
        ...

    def push(
        self, updates: Mapping[str, str], *, create_only: bool = False, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Move refs (ref → commit) forward, all or none, never by force. With `create_only` none of them may exist.

        What the remote refuses is in returncode and output, in git's words. Raises LedgerUnavailable on a time-out.
        """
        ...

    def trees(self, commits: Sequence[str]) -> list[dict[str, str]]:
        """Path → blob id of every file of each commit."""
        ...

    def objects(self, names: Sequence[str]) -> list[bytes]:
        """Contents of objects. Raises CacheBroken when one of them is not here."""
        ...

    def history(self, tip: str) -> list[Commit]:
        """Every commit of a branch that is here, the oldest first."""
        ...

    def seen(self, refs: Sequence[str]) -> dict[str, str]:
        """Ref → commit, as of the last fetch or `keep`, of those refs that have ever come here."""
        ...


class GitStore:
    """A cache below `folder` of the repository at `url`. Several processes may share it."""

    def __init__(self, url: str, folder: Path, *, token: str | None, environ: Mapping[str, str]) -> None:
        self.url = url
        name = hashlib.sha256(url.encode()).hexdigest()[:16] + ".git"
        env = git_env(url, token, environ)
        self._cache = GitCache(folder / name, env)
        # Only a fetch is told that the remote owes us files: no other command then ever asks it for one by itself.
        owing = {"url": url, "promisor": "true", "partialCloneFilter": SMALL}
        self._fetching = with_config(env, {f"remote.ledger.{key}": value for key, value in owing.items()})

    @property
    def exists(self) -> bool:
        return self._cache.exists

    def remote_refs(self, *patterns: str) -> dict[str, str]:
        """git sends every branch, whatever the patterns; `--heads` keeps tags and pull requests off the wire."""
        heads = ["--heads"] if all(pattern.startswith("refs/heads/") for pattern in patterns) else []
        out = self._git(["ls-remote", "--refs", *heads, self.url, *patterns]).decode()
        return {ref: sha for sha, ref in (line.split("\t", 1) for line in out.splitlines())}

    def fetch(self, tips: Mapping[str, str]) -> dict[str, str]:
        """Bring refs (ref → commit the caller saw) here; returns what came: newer commits where a ref moved."""
        if not tips:
            return {}
        here = self.seen(list(tips))
        missing = [ref for ref, tip in tips.items() if here.get(ref) != tip]
        if missing:
            self._fetch([f"+{ref}:{_kept(ref)}" for ref in missing])
            here = self.seen(list(tips))
        return {ref: here[ref] for ref in tips}

    def keep(self, ref: str, commit: str) -> None:
        """Remember a commit as a remote ref's tip, so that the next process that shares the cache need not fetch it."""
        with self._cache.alone() as lock:
            self._git(["update-ref", _kept(ref), commit], lock=lock)

    def commit(self, parent: str | None, files: Mapping[str, bytes], subject: bytes, now_s: float) -> str:
        """One fast-import: blobs, tree and commit in a single process, which says the commit's id."""
        head = f"commit {_NEW}\nmark :1\ncommitter {IDENTITY} {int(now_s)} +0000\ndata {len(subject)}\n".encode()
        parts = [head, subject, f"\nfrom {parent}\n".encode() if parent else b"\n"]
        for path, raw in files.items():
            parts.append(f"M 100644 inline {path}\ndata {len(raw)}\n".encode() + raw + b"\n")
        parts.append(b"\nget-mark :1\ndone\n")
        if not parent:  # or it would go on from the last one
            parts.insert(0, f"reset {_NEW}\n\n".encode())
        with self._cache.alone() as lock:
            out = self._git(["fast-import", "--quiet", "--done", "--force"], stdin=b"".join(parts), lock=lock)
        return out.decode().strip()

    def push(
        self, updates: Mapping[str, str], *, create_only: bool = False, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """A push that may be refused: the caller reads returncode and the output. Raises only on a time-out."""
        leases = ["--atomic"] if len(updates) > 1 else []
        leases += [f"--force-with-lease={ref}:" for ref in updates] if create_only else []
        specs = [f"{commit}:{ref}" for ref, commit in updates.items()]
        command = ["push", "--porcelain", "--no-verify", self.url, *leases, *specs]
        return self._cache.run(command, timeout_s=timeout_s, may_fail=True)

    def trees(self, commits: Sequence[str]) -> list[dict[str, str]]:
        """Path → blob id of every file of each commit; one process for each level of folders, however many commits."""
        found: list[dict[str, str]] = [{} for _ in commits]
        level = [(index, "", f"{commit}^{{tree}}") for index, commit in enumerate(commits)]
        while level:
            raws = self.objects([name for _, _, name in level])
            below: list[tuple[int, str, str]] = []
            for (index, folder, _), raw in zip(level, raws, strict=True):
                for mode, path, sha in _entries(raw):
                    if mode == b"40000":
                        below.append((index, f"{folder}{path}/", sha))
                    else:
                        found[index][folder + path] = sha
            level = below
        return found

    def objects(self, names: Sequence[str]) -> list[bytes]:
        """One process; one more, and one request for all, for what was left at the remote."""
        if not names:
            return []
        found = self._objects(names)
        missing = sorted({name for name, raw in zip(names, found, strict=True) if raw is None})
        if missing and all(_ID.fullmatch(name) for name in missing):
            self._fetch(missing)
            found = self._objects(names)
        whole = [raw for raw in found if raw is not None]
        if len(whole) < len(names):
            raise self._cache.damage(f"git cat-file: {missing[0]} is not there")
        return whole

    def _objects(self, names: Sequence[str]) -> list[bytes | None]:
        out = self._git(["cat-file", "--batch"], stdin="".join(f"{name}\n" for name in names).encode())
        found: list[bytes | None] = []
        at = 0
        for _ in names:
            end = out.index(b"\n", at)
            header, at = out[at:end].split(), end + 1
            if header[-1] == b"missing":
                found.append(None)
                continue
            size = int(header[2])
            found.append(out[at : at + size])
            at += size + 1
        return found

    def history(self, tip: str) -> list[Commit]:
        """One process; merges (ours has none) show what they changed against their first parent."""
        options = [
            "--reverse",
            "--topo-order",
            "--first-parent",
            "-m",
            "--root",
            "--raw",
            "--no-renames",
            "--no-abbrev",
        ]
        out = self._git(["log", *options, "-z", "--format=commit %H %P", tip, "--"], timeout_s=120)
        commits: list[Commit] = []
        words = iter(word.lstrip("\n") for word in out.decode(errors="replace").split("\0"))
        for word in words:
            if word.startswith("commit "):
                _, commit, *parents = word.split()
                commits.append(Commit(id=commit, parents=tuple(parents), changes=()))
            elif word.startswith(":"):
                old, new = (None if not sha.strip("0") else sha for sha in word.split()[2:4])
                change = Change(path=next(words), old=old, new=new)
                commits[-1] = replace(commits[-1], changes=(*commits[-1].changes, change))
        return commits

    def seen(self, refs: Sequence[str]) -> dict[str, str]:
        """Of what has come whole: git moves a ref only after everything below the commit is here."""
        wanted = {_kept(ref): ref for ref in refs}
        out = self._git(["for-each-ref", "--format=%(refname) %(objectname)", _SEEN]).decode()
        found = (line.split() for line in out.splitlines())
        return {wanted[kept]: sha for kept, sha in found if kept in wanted}

    def _fetch(self, specs: Sequence[str]) -> None:
        """Refspecs, or ids of files, in one request."""
        # Not shallow: a branch only grows, so its history holds hardly more than its tip, and a list of shallow commits
        # would be one more file to fight for.
        command = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--stdin", "ledger"]
        stdin = "".join(f"{spec}\n" for spec in specs).encode()
        with self._cache.alone() as lock:
            self._cache.run(command, stdin=stdin, timeout_s=120, lock=lock, env=self._fetching)

    def _git(
        self, args: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0, lock: int | None = None
    ) -> bytes:
        return self._cache.run(args, stdin=stdin, timeout_s=timeout_s, lock=lock).stdout


def blob_id(raw: bytes) -> str:
    """Git's name of a blob: SHA-1 over a header and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()


def _kept(ref: str) -> str:
    return _SEEN + ref.removeprefix("refs/")


def _entries(tree: bytes) -> Iterator[tuple[bytes, str, str]]:
    """Mode, name and object id of each entry of a raw tree object: `<mode> <name>`, a zero byte, 20 bytes of SHA-1."""
    at = 0
    while at < len(tree):
        zero = tree.index(b"\0", at)
        mode, _, name = tree[at:zero].partition(b" ")
        at = zero + 21
        yield mode, name.decode(errors="replace"), tree[zero + 1 : at].hex()
