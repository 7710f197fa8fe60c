"""`volume:NAME/path` as a source or target of a copy, and a whole volume's way to another data center."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Volume
from pushtrain.errors import RequestRejected, UsageError
from pushtrain.run import KEPT_NAME
from pushtrain.volumes import folders
from pushtrain.volumes.account import Account, Row
from pushtrain.volumes.endpoints import Access, access_to, check_data_center
from pushtrain.volumes.folders import Report
from pushtrain.volumes.kept import in_words
from pushtrain.volumes.store import VolumeStore
from pushtrain.volumes.transfer import Transfer

SCHEME = "volume:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A path on a volume; `name` is whatever `Account.one` takes."""

    name: str
    path: str


def is_volume(text: str) -> bool:
    """Whether a source or target of `pushtrain cp` is a volume's, and so needs no pod."""
    return text.startswith(SCHEME)


def is_elsewhere(*texts: str) -> bool:
    """Whether one of them is a path of a run's pod, `RUN:path`."""
    return any(re.match(r"[a-z0-9][a-z0-9-]*:", text) and not is_volume(text) for text in texts)


def place(text: str) -> Place:
    """`volume:NAME/path`, with or without `volume:`. Raises UsageError without a name."""
    name, _, path = text.removeprefix(SCHEME).partition("/")
    if not name:
        raise UsageError(f"{text!r} names no volume", hint=f"{SCHEME}NAME/path, e.g. {SCHEME}models/base/")
    return Place(name=name, path=path)


def check_places(places: Sequence[str]) -> None:
    """Raises UsageError unless exactly one side of a copy, sources and then its target, is on a volume, and the
    other here."""
    *sources, target = places
    for source in sources or ["nowhere"]:
        if not sources or is_volume(source) == is_volume(target) or is_elsewhere(source, target):
            raise UsageError(
                f"cannot copy from {source} to {target}",
                hint=f"one side is {SCHEME}NAME/path, the other a file or folder here; `pushtrain volumes copy` is for "
                "a whole volume",
            )


def put(
    account: Account, local: Path, target: Place, transfer: Transfer, environ: Mapping[str, str] = os.environ
) -> Report:
    """A file or a folder's content onto a volume. Raises PushtrainError, CloudError."""
    return folders.put(transfer, open_store(account, target.name, environ), local, target.path)


def get(
    account: Account, source: Place, local: Path, transfer: Transfer, environ: Mapping[str, str] = os.environ
) -> Report:
    """A file, or what is below a path, from a volume. Raises PushtrainError, CloudError."""
    return folders.get(transfer, open_store(account, source.name, environ), source.path, local)


def remove(account: Account, where: Place, *, yes: bool, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Deletes the file at a path, or everything below it, and what was begun to be sent there; returns the paths.

    Raises RequestRejected (NeedsYes, NoSuchFile, NotOurs, or a path that is all of it), CloudError.
    """
    row = account.ours(where.name, "delete files of")
    store = VolumeStore(_access(row, environ))
    path = where.path.strip("/")
    if not path:
        raise RequestRejected(f"that is all of {row.name}", hint=f"pushtrain volumes delete {row.name} --yes")
    one = None if where.path.endswith("/") else store.find(path)
    found = [one] if one else list(store.files(f"{path}/"))
    begun = {key: it for key, it in store.unfinished(path).items() if key == path or key.startswith(f"{path}/")}
    if not found and not begun:
        raise RequestRejected(f"there is no {where.path} on {row.name}", reason="NoSuchFile")
    if not yes:
        size = sum(it.size for it in found) / 1e9
        used = f"; {row.name} is in use by {', '.join(row.users)}" if row.users else ""
        raise RequestRejected(
            f"{len(found)} files ({size:,.2f} GB) and {len(begun)} half sent ones are deleted only with --yes{used}",
            hint=f"pushtrain volumes rm {row.name}/{where.path} --yes",
            reason="NeedsYes",
        )
    for entry in found:
        store.delete(entry.key)
    for key, uploads in begun.items():
        for upload in uploads:
            store.abort(key, upload)
    return sorted({entry.key for entry in found} | set(begun))


def open_store(account: Account, name: str, environ: Mapping[str, str]) -> VolumeStore:
    return VolumeStore(_access(account.one(name), environ))


def _access(row: Row, environ: Mapping[str, str]) -> Access:
    """Raises RequestRejected (NoS3) at a cloud that shows no files of a volume without a pod."""
    can = CLOUDS[row.cloud]
    if not can.has_volume_files:
        raise RequestRejected(
            f"{row.name} is at {can.title}, where the files of a volume are reached from a pod alone",
            hint=can.files_instead,
            reason="NoS3",
        )
    return access_to(row.volume, environ)


def copy_volume(
    account: Account,
    name: str,
    data_center: str,
    *,
    new_name: str,
    transfer: Transfer,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Volume, Report]:
    """A kept volume with the same files in another data center; `new_name` empty: the old one and the data center.

    Everything that can be wrong is found out before the new one is made, and billed; said again it goes on. Raises
    UsageError, CloudError.
    """
    row = account.one(name)
    access = _access(row, environ)
    check_data_center(data_center)
    if row.volume.data_center == data_center:
        raise UsageError(f"{row.name} is in {data_center} already", hint="name another data center")
    called = new_name or f"{row.name}-{data_center.lower()}"
    if not KEPT_NAME.fullmatch(called):
        raise UsageError(f"{called!r} is no name for a volume", hint="--as NAME: small letters, digits, hyphens")
    source = VolumeStore(access)
    next(source.files(), None)  # the keys open it, or nothing is made
    if row.users:
        account.say(
            f"{row.name} is in use by {', '.join(row.users)}: what changes meanwhile may be missing in the copy"
        )
    made = account.create(called, row.volume.size_gb, data_center, row.cloud)
    report = folders.copy(transfer, source, VolumeStore(access_to(made, environ)))
    account.say(f"{in_words(row.volume, row.cloud)} stays as it is: delete it when nobody needs it any more")
    return made, report
