"""Files to a volume, back, and from one volume to another: in parts, resumable without any state kept here, verified.

What was begun and cut off is found on the other side (S3's unfinished uploads) or in a `.part` file beside the target.
A part that is there already is compared by its MD5 and sent only where that differs. A file that is there whole is not
sent again.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pushtrain.errors import CloudError, CloudUnavailable, PushtrainError
from pushtrain.volumes.store import Changed, Entry, VolumeStore

# RunPod takes parts of up to 500 MB and files of up to 10,000 parts.
PART_BYTES, MOST_PART_BYTES, MOST_PARTS = 64 * 1024**2, 500 * 10**6, 10_000
AT_ONCE = 4
Progress = Callable[[str, int, int], None]
"""(path, bytes of it that are there, its size): called as they arrive, from several threads."""


class Source(Protocol):
    """Bytes that can be asked for in any order. `md5` is None where only reading it all would tell."""

    size: int
    md5: str | None

    def read(self, begin: int, length: int) -> bytes: ...


class LocalFile:
    """A file here. Raises Changed when it became another one while it was read."""

    def __init__(self, path: Path) -> None:
        self.path, self._was = path, path.stat()
        self.size = self._was.st_size
        self.md5: str | None = None

    def read(self, begin: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(begin)
            content = file.read(length)
        now = self.path.stat()
        if len(content) != length or (now.st_size, now.st_mtime_ns) != (self.size, self._was.st_mtime_ns):
            raise Changed(f"{self.path} was changed while it was read", hint="repeat the command")
        return content


class RemoteFile:
    """A file on a volume."""

    def __init__(self, store: VolumeStore, entry: Entry) -> None:
        self._store, self._entry = store, entry
        self.size = entry.size
        self.md5: str | None = None if "-" in entry.etag else entry.etag

    def read(self, begin: int, length: int) -> bytes:
        return self._store.read(self._entry, begin, length)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How files travel. `sleep(seconds)` pauses."""

    sleep: Callable[[float], None]
    progress: Progress = lambda path, done, size: None
    part_bytes: int = PART_BYTES

    def upload(self, store: VolumeStore, key: str, source: Source) -> int:
        """The file at `key` is `source` when this returns: bytes that had to be sent, 0 where it was there.

        Raises CloudError (then repeating goes on where it was), Changed.
        """
        there = store.find(key)
        if there is not None and there.size == source.size and self._same(there, source):
            self.progress(key, source.size, source.size)
            return 0
        if source.size <= self.part_bytes:
            content = source.read(0, source.size) if source.size else b""
            _must_be(_md5(content), store.put(key, content), key)
            self.progress(key, source.size, source.size)
            return source.size
        return self._upload_in_parts(store, key, source)

    def download(self, store: VolumeStore, entry: Entry, target: Path) -> int:
        """`target` is the file when this returns: bytes that had to be fetched. What is half here stays for next time.

        Raises CloudError, Changed, PushtrainError (DiskFull).
        """
        if target.is_file() and target.stat().st_size == entry.size and self._same(entry, LocalFile(target)):
            self.progress(entry.key, entry.size, entry.size)
            return 0
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{entry.etag[:12]}.part")
        fetched, digest = 0, hashlib.md5(usedforsecurity=False)
        try:
            with part.open("ab+") as file:
                have = min(file.seek(0, os.SEEK_END), entry.size)
                file.truncate(have)
                for begin, length in _ranges(have, self.part_bytes):
                    file.seek(begin)
                    digest.update(file.read(length))
                for content in self._in_order(RemoteFile(store, entry), have):
                    file.write(content)
                    digest.update(content)
                    fetched += len(content)
                    self.progress(entry.key, have + fetched, entry.size)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _disk_trouble(error, target) from error
        if "-" not in entry.etag and digest.hexdigest() != entry.etag:
            part.unlink()
            raise Changed(f"{entry.key}: what arrived is not what the volume has", hint="repeat the command")
        part.replace(target)
        return fetched

    def _upload_in_parts(self, store: VolumeStore, key: str, source: Source) -> int:
        part_bytes = max(self.part_bytes, -(-source.size // (MOST_PARTS - 1)))
        ranges = [(begin, min(part_bytes, source.size - begin)) for begin in range(0, source.size, part_bytes)]
        upload = next(reversed(store.unfinished(key).get(key, ())), None)
        there = store.parts(key, upload) if upload else {}
        upload = upload or store.start(key)
        etags, sent, done = [""] * len(ranges), [0] * len(ranges), [0] * len(ranges)

        def one(number: int) -> None:
            begin, length = ranges[number]
            content = source.read(begin, length)
            etags[number] = _md5(content)
            if there.get(number + 1) != etags[number]:
                _must_be(etags[number], store.put_part(key, upload, number + 1, content), key)
                sent[number] = length
            done[number] = length
            self.progress(key, sum(done), source.size)

        try:
            _all(one, range(len(ranges)))
            store.finish(key, upload, etags)
        except (CloudUnavailable, FileNotFoundError) as failure:
            # RunPod puts large files together for minutes: the answer may be lost, the upload gone, and the file there.
            if not (all(done) and self._appears(store, key, source.size)):
                raise CloudUnavailable(str(failure), hint="repeat the command: it goes on where it was") from None
        found = store.find(key)
        if found is None or found.size != source.size:
            raise CloudUnavailable(f"{key} is not whole on the volume", hint="repeat the command")
        return sum(sent)

    def _appears(self, store: VolumeStore, key: str, size: int) -> bool:
        for pause_s in (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0):
            found = store.find(key)
            if found is not None and found.size == size:
                return True
            self.sleep(pause_s)
        return False

    def _same(self, entry: Entry, source: Source) -> bool:
        """Whether they have the same bytes, sizes being equal. An ETag of parts is compared with parts of this size."""
        if source.md5 is not None and "-" not in entry.etag:
            return source.md5 == entry.etag
        whole, parts = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
        number = 0
        for content in self._in_order(source, 0):
            whole.update(content)
            parts.update(hashlib.md5(content, usedforsecurity=False).digest())
            number += 1
        return entry.etag in (whole.hexdigest(), f"{parts.hexdigest()}-{number}")

    def _in_order(self, source: Source, begin: int) -> Iterator[bytes]:
        """The rest of a source in parts, a few of them being read ahead."""
        ranges = [(at, min(self.part_bytes, source.size - at)) for at in range(begin, source.size, self.part_bytes)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            ahead: list[Future[bytes]] = []
            try:
                for begin_at, length in ranges:
                    ahead.append(pool.submit(source.read, begin_at, length))
                    if len(ahead) >= AT_ONCE:
                        yield ahead.pop(0).result()
                while ahead:
                    yield ahead.pop(0).result()
            finally:
                for waiting in ahead:
                    waiting.cancel()


def _all(work: Callable[[int], None], numbers: range) -> None:
    """A few at a time; the first failure ends it, and what has not begun by then does not."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [pool.submit(work, number) for number in numbers]
        try:
            for one in begun:
                one.result()
        finally:
            for one in begun:
                one.cancel()


def _ranges(size: int, step: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(step, size - begin)) for begin in range(0, size, step))


def _must_be(wanted: str, found: str, key: str) -> None:
    if found != wanted:
        raise CloudError(
            f"{key}: the volume has other bytes than were sent (MD5 {found}, not {wanted})",
            hint="repeat the command",
            reason="Corrupted",
        )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _disk_trouble(error: OSError, target: Path) -> PushtrainError:
    hint = "make room and repeat the command: it goes on where it was"
    return PushtrainError(f"{target}: {error.strerror or error}", hint=hint, reason="DiskFull")
