"""A bare git repository as a cache of somebody else's branches: read trees, write commits, push them.

Standard library only. One process per call, no work tree, no index. May be deleted at any time.
"""

import hashlib
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pushtrain.errors import LedgerUnavailable
from pushtrain.gitcmd import git, git_env

IDENTITY = "pushtrain <pushtrain@localhost>"
_SEEN = "refs/pushtrain/seen/"
_FETCH_TRIES = 5
_BUSY = re.compile(r"(?i)shallow|cannot lock ref|unable to create .*\.lock|file exists")


class GitStore:
    """`folder` is created on first use. Several processes may share it; every ref it keeps is unique or a cache."""

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
        self._git(["update-ref", _kept(ref), commit])

    def commit(self, parent: str | None, files: Mapping[str, bytes], subject: bytes, now_s: float) -> str:
        """One fast-import: blobs, tree and commit in a single process."""
        ref = f"refs/pushtrain/new/{uuid.uuid4().hex}"
        head = f"commit {ref}\ncommitter {IDENTITY} {int(now_s)} +0000\ndata {len(subject)}\n".encode() + subject
        parts = [head, f"\nfrom {parent}\n".encode() if parent else b"\n"]
        for path, raw in files.items():
            parts.append(f"M 100644 inline {path}\ndata {len(raw)}\n".encode() + raw + b"\n")
        self._git(["fast-import", "--quiet", "--done"], stdin=b"".join(parts) + b"done\n")
        sha = self._git(["rev-parse", ref]).decode().strip()
        self._git(["update-ref", "-d", ref])
        return sha

    def push(self, *args: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[bytes]:
        """A push that may be refused: the caller reads returncode and the output. Raises only on a time-out."""
        return self._run(
            ["push", "--porcelain", "--no-verify", self.url, *args], timeout_s=timeout_s, ok=tuple(range(256))
        )

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
        command = ["fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head", self.url, *specs]
        for attempt in range(1, _FETCH_TRIES + 1):
            try:
                self._git(command, timeout_s=120)
                return
            except LedgerUnavailable as failure:
                # Another process of this cache is at the same refs, or at the one file that lists shallow commits.
                if attempt == _FETCH_TRIES or not _BUSY.search(str(failure)):
                    raise
                time.sleep(0.05 * attempt)

    def _git(self, args: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0) -> bytes:
        return self._run(args, stdin=stdin, timeout_s=timeout_s).stdout

    def _run(
        self, args: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0, ok: tuple[int, ...] = (0,)
    ) -> subprocess.CompletedProcess[bytes]:
        if not self.exists:
            self._folder.mkdir(parents=True, exist_ok=True)
            git(["init", "--quiet", "--bare", str(self._folder)], env=self._env)
        return git(args, env=self._env, cwd=self._folder, stdin=stdin, timeout_s=timeout_s, ok=ok)


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
