"""What goes over a code: one file as it is, anything else as one tar. And the lines of sh that do the pod's half.

Pure but for `packed` and `unpacked`. runpodctl sends a folder as a zip, without modes and links, and leaves it beside;
so it never gets one.
"""

import contextlib
import hashlib
import os
import shlex
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pushtrain.errors import SshError
from pushtrain.ssh.places import Copy, here

TAR = "pushtrain.tar"
PARTIAL = ".pushtrain-partial"
# What the pod says before it sends, after a mark of this call.
FILE_KIND, TAR_KIND = "file", "tar"
NO_PROGRAM, NOT_THERE = 127, 66
_TO_VOLUME = 'set -e; cd "${PUSHTRAIN_WORKSPACE:-/workspace}"'
_HAS_PROGRAM = f"command -v runpodctl >/dev/null || exit {NO_PROGRAM}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """One file here to be sent. `is_tar`: it is to be unpacked where it comes out."""

    path: Path
    is_tar: bool


def goes_alone(names: Sequence[str]) -> bool:
    """Whether a name may be given to runpodctl, which takes `*` for a pattern."""
    return len(names) == 1 and not names[0].endswith("/") and "*" not in names[0]


@contextmanager
def packed(copy: Copy) -> Iterator[Parcel]:
    """The parcel of an upload; a tar of it lies in the machine's own temporary folder meanwhile."""
    first = Path(copy.here[0])
    if goes_alone(copy.here) and first.is_file() and not first.is_symlink():
        yield Parcel(path=first.absolute(), is_tar=False)
        return
    with tempfile.TemporaryDirectory(prefix="pushtrain-parcel-") as folder:
        target = Path(folder) / TAR
        with tarfile.open(target, "w") as tar:
            for path in copy.here:
                tar.add(path, arcname="." if path.endswith("/") else Path(path).resolve().name)
        yield Parcel(path=target, is_tar=True)


def take_in(copy: Copy, parcel: Parcel, code: str) -> str:
    """Lines of sh: receive what `code` stands for and put it where `copy` says. What came is kept for another try."""
    stage = _stage(copy)
    received = f"{stage}/{shlex.quote(parcel.path.name)}"
    target = copy.there[0] or "."
    into = shlex.quote(here(target))
    if parcel.is_tar:
        place = f"mkdir -p {into}; tar -xf {received} --no-same-owner -C {into}"
    else:
        folder = shlex.quote(here(target if target.endswith("/") else str(Path(target).parent)))
        place = f"mkdir -p {folder}; mv -f {received} {into}"
    receive = f"(cd {stage} && runpodctl receive {shlex.quote(code)})"
    return f"{_TO_VOLUME}; {_HAS_PROGRAM}; mkdir -p {stage}; {receive}; {place}; rm -rf {stage}"


def give_out(copy: Copy, mark: str) -> str:
    """Lines of sh: say which kind of parcel it is (`mark-kind`), and send it."""
    paths = [shlex.quote(here(path or ".")) for path in copy.there]
    missing = "; ".join(f"[ -e {it} ] || {{ echo {it} is not there; exit {NOT_THERE}; }}" for it in paths)
    stage, one = _stage(copy), paths[0]
    alone = f"[ -f {one} ] && [ ! -h {one} ]" if goes_alone(copy.there) else "false"
    # Each -C counts from the one before it.
    parts = " ".join(
        f'-C "$top"/{folder} {name}' if not path.startswith("/") else f"-C {folder} {name}"
        for path in copy.there
        for folder, name in [_split(path)]
    )
    tar = f"top=$PWD; mkdir -p {stage}; tar -cf {stage}/{TAR} {parts}; echo {mark}-{TAR_KIND}; cd {stage}"
    sent = f"if {alone}; then echo {mark}-{FILE_KIND}; runpodctl send -- {one}; else {tar}; runpodctl send -- {TAR}; fi"
    return f"{_TO_VOLUME}; {_HAS_PROGRAM}; {missing}; {sent}"


def tidy_up(copy: Copy) -> str:
    """Lines of sh: remove what `give_out` packed."""
    return f"{_TO_VOLUME}; rm -rf {_stage(copy)}"


def stage_here(copy: Copy) -> Path:
    """Where a download comes in, beside where it goes, so that it is only renamed and another try goes on."""
    target = Path(copy.here[0])
    is_folder = copy.here[0].endswith("/") or target.is_dir() or len(copy.there) > 1
    return (target if is_folder else target.parent) / _stage(copy)


def unpacked(copy: Copy, stage: Path, *, is_tar: bool) -> list[str]:
    """Put what came in where it belongs; what a tar has that would lead out of the folder is left out, and returned.

    Raises SshError (CopyFailed) where nothing came.
    """
    name = TAR if is_tar else Path(copy.there[0]).name
    received, target = stage / name, Path(copy.here[0])
    if not received.is_file():
        raise SshError(f"runpodctl ended well, and {name} did not come", hint="try again", reason="CopyFailed")
    if not is_tar:
        received.replace(target / name if copy.here[0].endswith("/") or target.is_dir() else target)
        _removed(stage)
        return []
    left_out: list[str] = []

    def inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        try:
            return tarfile.data_filter(member, folder)
        except tarfile.FilterError:
            left_out.append(member.name)
            return None

    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(received) as tar:
        tar.extractall(target, filter=inside)
    received.unlink()
    _removed(stage)
    return left_out


def _removed(stage: Path) -> None:
    with contextlib.suppress(OSError):  # another copy's may be beside it
        stage.rmdir()
        stage.parent.rmdir()


def _stage(copy: Copy) -> str:
    """The same for the same copy, so that the next try finds what the last one left."""
    said = "\0".join(("up" if copy.up else "down", *copy.here, "to", *copy.there))
    return f"{PARTIAL}/{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _split(path: str) -> tuple[str, str]:
    """Folder and name of what is packed; of a folder with a slash behind it, its content."""
    plain = path or "."
    if plain.endswith("/") or plain in (".", ".."):
        return shlex.quote(plain), "."
    folder, name = os.path.split(plain)
    return shlex.quote(folder or ("/" if plain.startswith("/") else ".")), shlex.quote(here(name))
