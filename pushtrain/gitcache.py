"""The folder of a bare repository that only repeats what a remote has: begun anew whenever it is found damaged.

Standard library only. Several processes may share it: whoever writes holds its lock (`alone`).
"""

import contextlib
import fcntl
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pushtrain.errors import LedgerUnavailable
from pushtrain.gitcmd import failure, git, said

_PATIENCE_S = 150
_ANY = tuple(range(-64, 256))
# These touch the cache alone: when one fails, the cache is what is wrong.
_LOCAL = ("fast-import", "update-ref", "for-each-ref", "cat-file", "log")
# What git says of a repository whose files were cut off or mixed up.
_DAMAGED = re.compile(
    r"(?im)^(?!remote:).*(is corrupt|object file .* is empty|bad object|bad tree object|bad sha1|hash mismatch|"
    r"inflate:|unable to unpack|far too short|index file .* is too small|unable to resolve reference|"
    r"reference broken|not a git repository: |not a git repository \(or|missing (blob|tree|commit) object|"
    r"bad config line|invalid (object|gitfile)|did not send all necessary objects|not our ref|unadvertised object|"
    r"cannot read existing object|header for \S+ too long|unable to parse)"
)
# What a killed git leaves behind.
_LITTER = ("*.lock", "fast_import_crash_*", "tmp_*")


class CacheBroken(LedgerUnavailable):
    """The cache was damaged. The next call throws it away and begins a new one: call again at once."""


class GitCache:
    """`folder` is created on first use and may be deleted at any time. `env` is git's environment."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self._env = dict(env)
        # The folder that was found damaged, by its inode: another process may have made a new one since.
        self._broken: int | None = None

    @property
    def exists(self) -> bool:
        """Whether anything may be here yet, or still."""
        return self._broken is None and (self.folder / "HEAD").exists()

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout_s: float = 60.0,
        may_fail: bool = False,
        lock: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """One git command in the folder; with `may_fail` the caller looks at the returncode. `env`: not the usual one.

        Raises CacheBroken when the folder is what is wrong, else LedgerUnavailable or LedgerError as `gitcmd.git`.
        """
        if not self.exists:
            self._begin(lock)
        held = () if lock is None else (lock,)
        done = git(
            args, env=env or self._env, cwd=self.folder, stdin=stdin, timeout_s=timeout_s, ok=_ANY, pass_fds=held
        )
        if done.returncode and (args[0] in _LOCAL or _DAMAGED.search(said(done))):
            raise self.damage(str(failure(args[0], done)))
        if done.returncode and not may_fail:
            raise failure(args[0], done)
        return done

    def damage(self, what: str) -> CacheBroken:
        """Note that the folder as it is now cannot be used, and give the error to raise."""
        with contextlib.suppress(OSError):
            self._broken = self.folder.stat().st_ino
        return CacheBroken(f"the ledger's cache {self.folder} is damaged: {what}", hint="it is made anew")

    @contextlib.contextmanager
    def alone(self) -> Iterator[int]:
        """The right to write here, as an open file that git inherits: it lasts until also a killed caller's git ended.

        The file holds a word as long as somebody writes: found by the next writer it means that the last one died, and
        git's lock files and half-written files are swept up. Raises LedgerUnavailable when it takes too long.
        """
        with self._on_disk():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            file = self.folder.with_suffix(".writer").open("a+")
        with file:
            end = time.monotonic() + _PATIENCE_S
            while not _taken(file.fileno()):
                if time.monotonic() > end:
                    raise LedgerUnavailable(f"another process has been writing to {self.folder} for {_PATIENCE_S} s")
                time.sleep(0.02)
            with self._on_disk():
                if file.seek(0, 2):
                    self._sweep()
                file.write("writing")
                file.flush()
            yield file.fileno()
            file.truncate(0)  # not after an exception: whatever failed may have left something

    def _sweep(self) -> None:
        for pattern in _LITTER:
            for stale in self.folder.rglob(pattern):
                stale.unlink(missing_ok=True)

    def _begin(self, lock: int | None) -> None:
        """An empty repository where there is none, or a damaged one."""
        with contextlib.ExitStack() as stack:
            if lock is None:
                stack.enter_context(self.alone())
            stack.enter_context(self._on_disk())
            if self._broken is not None and self.folder.exists() and self.folder.stat().st_ino == self._broken:
                away = self.folder.with_suffix(f".{uuid.uuid4().hex}.broken")
                self.folder.rename(away)
                shutil.rmtree(away, ignore_errors=True)
            self._broken = None
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.exists:
                git(["init", "--quiet", "--bare", str(self.folder)], env=self._env)
                # What is lost in a power cut is fetched again: nothing here is worth a wait for the disk.
                with (self.folder / "config").open("a") as config:
                    config.write("[core]\n\tfsync = none\n")

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """A disk that is full or gone is no reason to end anything: what is written here can be written later."""
        try:
            yield
        except OSError as error:
            message = f"the ledger's cache {self.folder}: {error.strerror or error}"
            raise LedgerUnavailable(message, hint="free some space there; it is tried again") from None


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
