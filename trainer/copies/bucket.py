"""Checkpoints in a bucket that speaks S3 (AWS, R2, MinIO …): `publish.checkpoints: s3://BUCKET/PREFIX`.

PREFIX/RUN-ID/checkpoint-N/ holds what the folder on the disk holds. COMPLETE.json goes last and vouches for every file
by size and SHA-256, so a copy without it, or one that does not match it, is never taken; it is removed first. Keys come
from PUSHTRAIN_CHECKPOINTS_AWS_… alone. Needs no torch.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pushtrain.copies.bucket import KEYS, access_to, prefix_of
from pushtrain.errors import CloudAuthFailed, CloudError, CloudUnavailable
from pushtrain.spec.names import inside
from pushtrain.volumes.store import Entry, VolumeStore
from trainer.checkpoint import MARKER, newest_whole
from trainer.failures import CheckpointsRefused, CheckpointsUnreachable
from trainer.job import Job
from trainer.report import say, say_if_quiet

# Whole checkpoints that stay: the newest, and one to fall back on.
MOST_KEPT = 2
# S3 takes 10,000 parts of a file at most.
_PART_BYTES, _MOST_PARTS = 64 * 1024 * 1024, 9_000
_FOLDER = re.compile(r"checkpoint-(\d+)/(.+)", re.S)


def is_wanted(job: Job, environ: Mapping[str, str] = os.environ) -> bool:
    """Always for a run of the control plane, else where there is a key."""
    has_key = bool(environ.get(f"{KEYS}ACCESS_KEY_ID"))
    return job.spec.publish.checkpoints is not None and (has_key or "PUSHTRAIN_RUN_ID" in environ)


class BucketCopies:
    """The copies of one run. Methods raise CheckpointsUnreachable (to be tried again) and CheckpointsRefused."""

    def __init__(self, job: Job, environ: Mapping[str, str] = os.environ) -> None:
        url = str(job.spec.publish.checkpoints)
        self._job = job
        self._url = f"{url.rstrip('/')}/{job.run_id}"
        self._prefix = prefix_of(url, job.run_id)
        self._store = VolumeStore(access_to(url, environ))

    @property
    def words(self) -> str:
        return self._url

    def check(self) -> None:
        """Whether the keys may write and remove there: found out now, and not when the machine is gone."""
        with _errors(self._url):
            self._store.put(f"{self._prefix}may-write", b"")
            self._store.delete(f"{self._prefix}may-write")

    def fetch(self, scratch: Path) -> Path | None:
        """The newest whole copy of this recipe as a folder below `scratch`; None where there is none."""
        with _errors(self._url):
            found = self._copies()
            for step in sorted(found, reverse=True):
                if MARKER not in found[step]:
                    continue
                self._download(found[step], scratch / f"checkpoint-{step}")
                whole = newest_whole(scratch, self._job.recipe)
                if whole is not None:
                    return whole.path
                say(f"checkpoint: checkpoint-{step} in {self._url} is not whole, or of another recipe")
        return None

    def put(self, folder: Path) -> None:
        """Copies a whole checkpoint, its marker last, and removes what is older than those that stay."""
        with _errors(self._url):
            self._drop_unfinished()
            files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
            for path in [*files, folder / MARKER]:
                self._upload(path, f"{self._prefix}{folder.name}/{path.relative_to(folder).as_posix()}")
            self._prune()

    def forget(self) -> None:
        with _errors(self._url):
            self._drop_unfinished()
            for copy in self._copies().values():
                self._remove(copy)

    def _copies(self) -> dict[int, dict[str, Entry]]:
        """Step → path below its folder → file."""
        found: dict[int, dict[str, Entry]] = {}
        for entry in self._store.files(self._prefix):
            if named := _FOLDER.fullmatch(entry.key.removeprefix(self._prefix)):
                found.setdefault(int(named[1]), {})[named[2]] = entry
        return found

    def _prune(self) -> None:
        """Beside the newest whole ones nothing older stays; what is newer may be a copy that is under way."""
        found = self._copies()
        whole = sorted((step for step in found if MARKER in found[step]), reverse=True)
        for step in found:
            if whole and step < whole[0] and step not in whole[:MOST_KEPT]:
                self._remove(found[step])

    def _remove(self, copy: Mapping[str, Entry]) -> None:
        """The marker first: what is left of a removal that was cut short is no whole copy."""
        for name in sorted(copy, key=lambda name: name != MARKER):
            self._store.delete(copy[name].key)

    def _drop_unfinished(self) -> None:
        for key, uploads in self._store.unfinished(self._prefix).items():
            for upload in uploads:
                self._store.abort(key, upload)

    def _upload(self, path: Path, key: str) -> None:
        size = path.stat().st_size
        if size <= _PART_BYTES:
            self._store.put(key, path.read_bytes())
            return
        part_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
        upload, etags = self._store.start(key), list[str]()
        with path.open("rb") as file:
            while content := file.read(part_bytes):
                etags.append(self._store.put_part(key, upload, len(etags) + 1, content))
        self._store.finish(key, upload, etags)

    def _download(self, copy: Mapping[str, Entry], folder: Path) -> None:
        """What the marker names, and nothing else that may lie there."""
        marker = self._bytes(copy[MARKER])
        try:
            names = [inside(name) for name in json.loads(marker)["files"]]
        except (ValueError, KeyError, TypeError):
            say(f"checkpoint: {folder.name} in {self._url} has no marker that can be read")
            return
        for name in names:
            if name not in copy:
                return
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for begin in range(0, copy[name].size, _PART_BYTES):
                    length = min(_PART_BYTES, copy[name].size - begin)
                    file.write(self._store.read(copy[name], begin, length))
                    say_if_quiet(f"checkpoint: {name} of {folder.name} comes back from {self._url}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_bytes(marker)

    def _bytes(self, entry: Entry) -> bytes:
        return self._store.read(entry, 0, entry.size) if entry.size else b""


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """What the store raises, as this run's failure."""
    try:
        yield
    except CloudUnavailable as error:
        raise CheckpointsUnreachable(f"publish.checkpoints {url}: {error}") from error
    except CloudError as error:
        hint = error.hint if isinstance(error, CloudAuthFailed) else "the bucket, its region, and the endpoint, if any"
        raise CheckpointsRefused(f"publish.checkpoints {url}: {error}", hint=hint) from error
