"""A bare git repository as a cache of somebody else's branches: read trees, write commits, push them.

Standard library only. One process per call, no work tree, no index. May be deleted at any time.
"""

import hashlib
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from pushtrain.gitcmd import git, git_env

IDENTITY = "pushtrain <pushtrain@localhost>"


class GitStore:
    """`folder` is created on first use. Several processes may share it; every ref it keeps is unique or a cache."""

    def __init__(self, url: str, folder: Path, *, token: str | None, environ: Mapping[str, str]) -> None:
        self.url = url
        self._folder = folder / (hashlib.sha256(url.encode()).hexdigest()[:16] + ".git")
        self._env = git_env(url, token, environ)

    def remote_refs(self, pattern: str) -> dict[str, str]:
        """Ref → commit of every ref at the remote that matches; one round trip, nothing fetched."""
        out = self._git(["ls-remote", "--refs", self.url, pattern]).decode()
        return {ref: sha for sha, ref in (line.split("\t", 1) for line in out.splitlines())}

    def fetch(self, tips: Mapping[str, str]) -> dict[str, str]:
        """Bring refs (ref → commit the caller saw) here; returns what came: newer commits where a ref moved."""
        refs = list(tips)
        if not refs:
            return {}
        asked = "".join(f"{tips[ref]}\n" for ref in refs).encode()
        known = self._git(["cat-file", "--batch-check"], stdin=asked).decode().splitlines()
        missing = [ref for ref, line in zip(refs, known, strict=True) if line.endswith("missing")]
        for start in range(0, len(missing), 200):
            specs = [f"+{ref}:{_kept(ref)}" for ref in missing[start : start + 200]]
            command = ["fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head", self.url, *specs]
            self._git(command, timeout_s=120)
        came = dict(tips)
        if missing:
            shas = self._git(["rev-parse", *(_kept(ref) for ref in missing)]).decode().split()
            came |= zip(missing, shas, strict=True)
        return came

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

    def tree(self, commit: str) -> dict[str, str]:
        """Path → blob id of every file."""
        lines = self._git(["ls-tree", "-r", "-z", commit]).decode().split("\0")
        return {line.split("\t", 1)[1]: line.split()[2] for line in lines if line}

    def blobs(self, names: Sequence[str]) -> list[bytes | None]:
        """Contents by `<commit>:<path>`; None for what is not there."""
        if not names:
            return []
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

    def _git(self, args: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0) -> bytes:
        return self._run(args, stdin=stdin, timeout_s=timeout_s).stdout

    def _run(
        self, args: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0, ok: tuple[int, ...] = (0,)
    ) -> subprocess.CompletedProcess[bytes]:
        if not (self._folder / "HEAD").exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            git(["init", "--quiet", "--bare", str(self._folder)], env=self._env)
        return git(args, env=self._env, cwd=self._folder, stdin=stdin, timeout_s=timeout_s, ok=ok)


def blob_id(raw: bytes) -> str:
    """Git's name of a blob: SHA-1 over a header and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()


def _kept(ref: str) -> str:
    return "refs/pushtrain/seen/" + ref.removeprefix("refs/")
