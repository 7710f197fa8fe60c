"""A bare git repository as a cache of somebody else's branches: read trees, write commits, push them.

Standard library only. One process per call, no work tree, no index. May be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pushtrain.errors import LedgerUnavailable
from pushtrain.gitcmd import git, git_env

IDENTITY = "pushtrain <pushtrain@localhost>"
_SEEN = "refs/pushtrain/seen/"
_PATIENCE_S = 150


class Store(Protocol):
    """What the ledger asks of git: somebody else's branches, and a cache of them. One contract suite holds the members.

    Every call that asks the remote raises LedgerUnavailable when that may pass, LedgerError when it will not.
    """

    @property
    def exists(self) -> bool:
        """Whether anything may be here yet, or still."""
        ...

    def remote_refs(self, pattern: str) -> dict[str, str]:
        """Ref → commit of every ref at the remote that matches; one round trip, nothing fetched."""
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
        """Move refs (ref → commit), never by force. With `create_only` none may exist, and all are made or none.

        What the remote refuses is in returncode and output, in git's words. Raises LedgerUnavailable on a time-out.
        """
        ...

    def trees(self, commits: Sequence[str]) -> list[dict[str, str]]:
        """Path → blob id of every file of each commit."""
        ...

    def objects(self, names: Sequence[str]) -> list[bytes]:
        """Contents of objects. Raises LedgerUnavailable when one of them is not here."""
        ...


class GitStore:
    """`folder` is created on first use. Several processes may share it: whoever writes holds its lock (`_alone`)."""

    def __init__(self, url: str, folder: Path, *, token: str | None, environ: Mapping[str, str]) -> None:
        self.url = url
        self._folder = folder / (hashlib.sha256(url.encode()).hexdigest()[:16] + ".git")
        self._env = git_env(url, token, environ)

    @property
    def exists(self) -> bool:
        """Whether anything may be here yet, or still."""
        return (self._folder / "HEAD").exists()

    def remote_refs(self, pattern: str) -> dict[str, str]:
        """Ref → commit of every ref at the remote that matches; one round trip, nothing fetched."""
        out = self._git(["ls-remote", "--refs", self.url, pattern]).decode()
        return {ref: sha for sha, ref in (line.split("\t", 1) for line in out.splitlines())}

    def fetch(self, tips: Mapping[str, str]) -> dict[str, str]:
        """Bring refs (ref → commit the caller saw) here; returns what came: newer commits where a ref moved."""
        if not tips:
            return {}
        seen = self._seen()
        missing = [ref for ref, tip in tips.items() if seen.get(_kept(ref)) != tip]
        for start in range(0, len(missing), 200):
            self._fetch([f"+{ref}:{_kept(ref)}" for ref in missing[start : start + 200]])
        seen = self._seen() if missing else seen
        return {ref: seen[_kept(ref)] for ref in tips}

    def keep(self, ref: str, commit: str) -> None:
        """Remember a commit as a remote ref's tip, so that the next process that shares the cache need not fetch it."""
        with self._alone() as lock:
            self._git(["update-ref", _kept(ref), commit], lock=lock)

    def commit(self, parent: str | None, files: Mapping[str, bytes], subject: bytes, now_s: float) -> str:
        """One fast-import: blobs, tree and commit in a single process."""
        ref = f"refs/pushtrain/new/{uuid.uuid4().hex}"
        head = f"commit {ref}\ncommitter {IDENTITY} {int(now_s)} +0000\ndata {len(subject)}\n".encode() + subject
        parts = [head, f"\nfrom {parent}\n".encode() if parent else b"\n"]
        for path, raw in files.items():
            parts.append(f"M 100644 inline {path}\ndata {len(raw)}\n".encode() + raw + b"\n")
        with self._alone() as lock:
            self._git(["fast-import", "--quiet", "--done"], stdin=b"".join(parts) + b"done\n", lock=lock)
            sha = self._git(["rev-parse", ref], lock=lock).decode().strip()
            self._git(["update-ref", "-d", ref], lock=lock)
        return sha

    def push(
        self, updates: Mapping[str, str], *, create_only: bool = False, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """A push that may be refused: the caller reads returncode and the output. Raises only on a time-out."""
        leases = ["--atomic", *(f"--force-with-lease={ref}:" for ref in updates)] if create_only else []
        specs = [f"{commit}:{ref}" for ref, commit in updates.items()]
        command = ["push", "--porcelain", "--no-verify", self.url, *leases, *specs]
        return self._run(command, timeout_s=timeout_s, ok=tuple(range(256)))

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
        """Contents of objects, in one process. Raises LedgerUnavailable when one of them is not here."""
        if not names:
            return []
        out = self._git(["cat-file", "--batch"], stdin="".join(f"{name}\n" for name in names).encode())
        found: list[bytes] = []
        at = 0
        for name in names:
            end = out.index(b"\n", at)
            header, at = out[at:end].split(), end + 1
            if header[-1] == b"missing":
                raise LedgerUnavailable(f"git cat-file: {name} is not in {self._folder}", hint="delete that folder")
            size = int(header[2])
            found.append(out[at : at + size])
            at += size + 1
        return found

    def _seen(self) -> dict[str, str]:
        """Ref → commit of what has come whole: git moves a ref only after everything below the commit is here."""
        out = self._git(["for-each-ref", "--format=%(refname) %(objectname)", _SEEN]).decode()
        return {ref: sha for ref, sha in (line.split() for line in out.splitlines())}

    def _fetch(self, specs: Sequence[str]) -> None:
        # Not shallow: a branch only grows, so its history holds hardly more than its tip, and a list of shallow commits
        # would be one more file to fight for.
        command = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", self.url, *specs]
        with self._alone() as lock:
            self._git(command, timeout_s=120, lock=lock)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """The right to write here, as an open file that git inherits: it lasts until also a killed caller's git ended.

        Lock files of git found then are a dead process's, and go. Raises LedgerUnavailable when it takes too long.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with self._folder.with_suffix(".writer").open("w") as file:
            end = time.monotonic() + _PATIENCE_S
            while not _taken(file.fileno()):
                if time.monotonic() > end:
                    raise LedgerUnavailable(f"another process has been writing to {self._folder} for {_PATIENCE_S} s")
                time.sleep(0.02)
            for stale in self._folder.rglob("*.lock"):
                stale.unlink(missing_ok=True)
            yield file.fileno()

    def _git(
        self, args: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0, lock: int | None = None
    ) -> bytes:
        return self._run(args, stdin=stdin, timeout_s=timeout_s, lock=lock).stdout

    def _run(
        self,
        args: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout_s: float = 60.0,
        ok: tuple[int, ...] = (0,),
        lock: int | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        if not self.exists:
            self._folder.mkdir(parents=True, exist_ok=True)
            git(["init", "--quiet", "--bare", str(self._folder)], env=self._env)
        held = () if lock is None else (lock,)
        return git(args, env=self._env, cwd=self._folder, stdin=stdin, timeout_s=timeout_s, ok=ok, pass_fds=held)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
