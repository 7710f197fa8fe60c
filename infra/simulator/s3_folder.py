"""A network volume's folder as a bucket: object names are paths, what pods write is there, and the other way round.

Unfinished uploads lie in `.s3compat_uploads/`, as RunPod has it: `<id>/key`, `<id>/<number>`, and beside each part its
MD5. An upload outlives its client and the simulator.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from infra.simulator.s3 import About, Refused, md5

UPLOADS = ".s3compat_uploads"
_CHUNK = 1 << 20


class FolderObjects:
    """A member of `infra.simulator.s3.Objects`. `room_bytes` is what the volume may hold; beyond it a write is refused.

    The ETag is the MD5 of the whole file however it came there: RunPod computes it for files that pods wrote.
    """

    def __init__(self, root: Path, room_bytes: int) -> None:
        self._root, self._room = root, room_bytes

    def names(self) -> Sequence[str]:
        found = []
        for folder, folders, names in os.walk(self._root):
            if Path(folder) == self._root:
                folders[:] = [name for name in folders if name != UPLOADS]
            here = PurePosixPath(Path(folder).relative_to(self._root))
            found += [str(here / name) for name in names if (Path(folder) / name).is_file()]
        return found

    def about(self, key: str) -> About:
        path = self._path(key)
        if not path.is_file():
            raise Refused(404, "NoSuchKey")
        return _about(path)

    def read(self, key: str, begin: int, end: int) -> bytes:
        with self._path(key).open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    def write(self, key: str, content: bytes) -> str:
        path = self._path(key)
        self._make_room(len(content))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise Refused(400, "InvalidRequest")
        path.write_bytes(content)
        return md5(content)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def start_upload(self, key: str) -> str:
        self._path(key)
        upload_id = secrets.token_hex(16)
        folder = self._root / UPLOADS / upload_id
        folder.mkdir(parents=True)
        (folder / "key").write_text(key)
        return upload_id

    def uploads(self) -> Mapping[str, str]:
        return {path.parent.name: path.read_text() for path in (self._root / UPLOADS).glob("*/key")}

    def put_part(self, upload_id: str, number: int, content: bytes) -> str:
        if not 1 <= number <= 10_000:
            raise Refused(400, "InvalidArgument")
        self._make_room(len(content))
        part = self._root / UPLOADS / upload_id / str(number)
        part.write_bytes(content)
        return md5(content)

    def parts(self, upload_id: str) -> Mapping[int, About]:
        folder = self._root / UPLOADS / upload_id
        return {int(path.name): _about(path) for path in folder.iterdir() if path.name.isdigit()}

    def complete(self, upload_id: str, numbers: Sequence[int]) -> str:
        folder = self._root / UPLOADS / upload_id
        target = self._path((folder / "key").read_text())
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = folder / "whole"
        with whole.open("wb") as out:
            for number in numbers:
                with (folder / str(number)).open("rb") as part:
                    shutil.copyfileobj(part, out, _CHUNK)
        whole.replace(target)
        self.abort(upload_id)
        return _about(target).etag

    def abort(self, upload_id: str) -> None:
        shutil.rmtree(self._root / UPLOADS / upload_id, ignore_errors=True)

    def _path(self, key: str) -> Path:
        """Raises Refused for a key that leaves the volume, by name or by a link a pod made."""
        parts = PurePosixPath(key).parts
        path = self._root.joinpath(*parts)
        outside = not path.resolve().is_relative_to(self._root.resolve())
        if outside or key.startswith("/") or ".." in parts or parts[:1] == (UPLOADS,):
            raise Refused(403, "AccessDenied")
        return path

    def _make_room(self, more: int) -> None:
        used = sum(path.lstat().st_size for path in self._root.rglob("*") if path.is_file())
        if used + more > self._room:
            raise Refused(507, "InsufficientStorage")


def _about(path: Path) -> About:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    found = path.stat()
    return About(size=found.st_size, etag=digest.hexdigest(), modified_s=found.st_mtime)
