"""Many files at once: a folder to a volume or back, a whole volume to another; each file as `transfer` carries it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pushtrain.errors import PushtrainError, UsageError
from pushtrain.volumes.store import VolumeStore
from pushtrain.volumes.transfer import LocalFile, RemoteFile, Transfer


@dataclass(kw_only=True)
class Report:
    """What a transfer did: files and bytes that were sent, and files that were there already."""

    sent: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    bytes_sent: int = 0


def put(transfer: Transfer, store: VolumeStore, local: Path, path: str) -> Report:
    """A file to `path` (into it where it ends with / or is empty), or what a folder holds to below `path`.

    Links and what is no file are left out, and named. Raises PushtrainError where `local` is not there.
    """
    if not local.exists():
        raise UsageError(f"{local} is not there", reason="NoSuchFile")
    report, clean = Report(), _path(path)
    begun = store.unfinished(f"{clean}/" if clean and local.is_dir() else clean)
    for file, key in _files_of(local, path, report):
        sent = transfer.upload(store, key, LocalFile(file))
        _note(report, key, sent)
        _give_up(store, key, begun)
    return report


def get(transfer: Transfer, store: VolumeStore, path: str, local: Path) -> Report:
    """The file at `path` to `local` (into it where that is a folder), or what is below `path` to below `local`.

    Raises PushtrainError where nothing is there.
    """
    report = Report()
    clean = _path(path)
    entry = store.find(clean) if clean and not path.endswith("/") else None
    if entry is not None:
        target = local / PurePosixPath(clean).name if local.is_dir() else local
        _note(report, clean, transfer.download(store, entry, target))
        return report
    prefix = f"{clean}/" if clean else ""
    for found in store.files(prefix):
        inside = PurePosixPath(found.key.removeprefix(prefix))
        if inside.is_absolute() or ".." in inside.parts:
            raise PushtrainError(f"{found.key!r} would be written outside {local}", reason="UnsafePath")
        _note(report, found.key, transfer.download(store, found, local / inside))
    if not (report.sent or report.there):
        raise UsageError(f"there is no {path or 'file'} on the volume", reason="NoSuchFile")
    return report


def copy(transfer: Transfer, source: VolumeStore, target: VolumeStore, prefix: str = "") -> Report:
    """Every file below `prefix` from one volume to another, through this machine; the same paths there."""
    report, begun = Report(), target.unfinished(prefix)
    for entry in source.files(prefix):
        _note(report, entry.key, transfer.upload(target, entry.key, RemoteFile(source, entry)))
        _give_up(target, entry.key, begun)
    return report


def _give_up(store: VolumeStore, key: str, begun: Mapping[str, Sequence[str]]) -> None:
    """The file is there: what was begun of it before, and is not what became it, only takes room."""
    for upload in begun.get(key, ()):
        store.abort(key, upload)


def _note(report: Report, key: str, sent: int) -> None:
    (report.sent if sent else report.there).append(key)
    report.bytes_sent += sent


def _files_of(local: Path, path: str, report: Report) -> Iterator[tuple[Path, str]]:
    clean = _path(path)
    if not local.is_dir():
        into = path.endswith("/") or not clean
        yield local, f"{clean}/{local.name}".lstrip("/") if into else clean
        return
    for folder, folders, names in os.walk(local):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_symlink() or not file.is_file():
                report.left_out.append(str(file))
                continue
            inside = file.relative_to(local).as_posix()
            yield file, f"{clean}/{inside}".lstrip("/")


def _path(path: str) -> str:
    """Raises PushtrainError for a path that leaves the volume."""
    parts = PurePosixPath(path.strip("/")).parts
    if ".." in parts:
        raise PushtrainError(f"{path!r} leaves the volume", reason="UnsafePath")
    return "/".join(parts)
