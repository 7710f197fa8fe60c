"""What a Hub repository holds, as values: files, commits, operations, listings. No I/O.

Identities follow git where clients compare them: a regular file is named by its git blob SHA-1, an LFS file by the blob
SHA-1 of its pointer. Commits and folders are named by a SHA-1 of their own, because no git remote is served.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pushtrain.errors import HubError

# The Hub stores these as LFS whatever their size; other files from 10 MiB on, and binary ones.
LFS_SUFFIXES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".pb", ".msgpack", ".joblib"),
    *(".arrow", ".parquet", ".npy", ".npz", ".pickle", ".pkl", ".wasm"),
    *(".7z", ".bz2", ".gz", ".tar", ".tgz", ".xz", ".zip", ".zst"),
)
LFS_FROM_BYTES = 10 * 1024 * 1024
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()

_PATH = re.compile(r"[^\x00-\x1f\\]{1,1000}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Refused(HubError):
    """An answer of the Hub other than success: HTTP status, its `X-Error-Code` when it has one, and the message."""

    reason = "HubRefused"

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file of a commit: `size` in bytes and `sha256` are the content's; `blob_id` is what git would call it."""

    size: int
    sha256: str
    blob_id: str
    is_lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One immutable state of a repository. `id` is the SHA-1 of `manifest`; `date` is RFC 3339 UTC."""

    id: str
    manifest: bytes
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, File]

    @classmethod
    def from_manifest(cls, manifest: bytes) -> "Commit":
        value = json.loads(manifest)
        value["files"] = {path: File(**file) for path, file in value["files"].items()}
        return cls(id=hashlib.sha1(manifest).hexdigest(), manifest=manifest, **value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Add:
    path: str
    file: File


@dataclass(frozen=True, kw_only=True, slots=True)
class Delete:
    """Removes a file, or everything below a folder."""

    path: str
    is_folder: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitRequest:
    """A commit to be made; with `expected_parent` (a commit id or its first digits) only while the branch is there."""

    title: str
    message: str = ""
    author: str
    operations: tuple[Add | Delete, ...]
    expected_parent: str = ""


def new_commit(request: CommitRequest, parent: Commit | None, date: str) -> Commit:
    """The commit that `request` makes on top of `parent`. Raises Refused when a file to delete is not there."""
    files = dict(parent.files) if parent else {}
    for operation in request.operations:
        match operation:
            case Add(path=path, file=file):
                files[checked_path(path)] = file
            case Delete(path=path, is_folder=is_folder):
                gone = [known for known in files if _is_deleted(known, path, is_folder)]
                if not gone:
                    raise Refused(404, f"A file with this name doesn't exist: {path!r}.", code="EntryNotFound")
                for known in gone:
                    del files[known]
    value = {
        "parent": parent.id if parent else None,
        "title": request.title,
        "message": request.message,
        "author": request.author,
        "date": date,
        "files": {path: asdict(files[path]) for path in sorted(files)},
    }
    return Commit.from_manifest(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())


def regular_file(content: bytes) -> File:
    return File(
        size=len(content), sha256=hashlib.sha256(content).hexdigest(), blob_id=git_blob_id(content), is_lfs=False
    )


def lfs_file(sha256: str, size: int) -> File:
    return File(size=size, sha256=sha256, blob_id=git_blob_id(_lfs_pointer(sha256, size)), is_lfs=True)


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def upload_mode(path: str, size: int, sample: bytes) -> str:
    """`lfs` or `regular`, from the name, the size in bytes and the first bytes of the content."""
    is_large = path.lower().endswith(LFS_SUFFIXES) or size >= LFS_FROM_BYTES or b"\0" in sample
    return "lfs" if is_large else "regular"


def checked_path(path: str) -> str:
    """`path` when it is relative and stays inside the repository. Raises Refused otherwise."""
    parts = path.split("/")
    if not _PATH.fullmatch(path) or any(part in ("", ".", "..") for part in parts) or parts[0] == ".git":
        raise Refused(400, f"Invalid path in the repository: {path!r}.")
    return path


def checked_sha256(oid: str) -> str:
    if not _SHA256.fullmatch(oid):
        raise Refused(422, "An LFS oid is the SHA-256 of the content, 64 lower-case hex digits.")
    return oid


def tree(files: Mapping[str, File], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Entries below `folder` ("" for the root) as the tree endpoint words them, sorted by path."""
    prefix = f"{folder}/" if folder else ""
    below = [path for path in files if path.startswith(prefix)]
    if folder and not below:
        raise Refused(404, f"{folder!r} does not exist on this revision.", code="EntryNotFound")
    folders: set[str] = set()
    for path in below:
        steps = path[len(prefix) :].split("/")[:-1]
        for depth in range(1, (len(steps) if recursive else min(1, len(steps))) + 1):
            folders.add(prefix + "/".join(steps[:depth]))
    shown = [path for path in below if recursive or "/" not in path[len(prefix) :]]
    return sorted(
        [folder_entry(files, path) for path in folders] + [file_entry(path, files[path]) for path in shown],
        key=lambda entry: entry["path"],
    )


def paths_info(files: Mapping[str, File], paths: Iterable[str]) -> list[dict[str, Any]]:
    """Entries of the paths that exist, files or folders; the others are left out."""
    entries = []
    for path in paths:
        if path in files:
            entries.append(file_entry(path, files[path]))
        elif any(known.startswith(f"{path}/") for known in files):
            entries.append(folder_entry(files, path))
    return entries


def file_entry(path: str, file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.blob_id, "size": file.size, "path": path}
    if file.is_lfs:
        pointer_size = len(_lfs_pointer(file.sha256, file.size))
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": pointer_size}
    return entry


def folder_entry(files: Mapping[str, File], folder: str) -> dict[str, Any]:
    below = sorted((path, file.blob_id) for path, file in files.items() if path.startswith(f"{folder}/"))
    return {"type": "directory", "oid": hashlib.sha1(repr(below).encode()).hexdigest(), "size": 0, "path": folder}


def _is_deleted(known: str, path: str, is_folder: bool) -> bool:
    return known.startswith(path.rstrip("/") + "/") if is_folder else known == path


def _lfs_pointer(sha256: str, size: int) -> bytes:
    """git-lfs specification v1: the text that stands in git for the content."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
