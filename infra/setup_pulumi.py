"""The Pulumi CLI for a machine with internet: the official release in the pinned version, checked, into one folder.

Facts (pulumi/pulumi, release.yml and sign.yml): releases lie at get.pulumi.com/releases/sdk as
`pulumi-vX.Y.Z-OS-ARCH.tar.gz` with one folder `pulumi/` in them, and `pulumi-X.Y.Z-checksums.txt` beside them holds the
SHA-256 of each. That file comes from the same place, so that it tells a broken download and not a forged one; against
the latter there is only TLS.
"""

import hashlib
import os
import platform
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from pushtrain import __version__
from pushtrain.errors import EngineError

# What the engine's contract suite was run with; the oldest the engine takes, and what the workflow installs.
VERSION = "3.259.0"
RELEASES = "https://get.pulumi.com/releases/sdk"

# A release has 130 MB and unpacks to 500: far above both, and no bomb.
_MAX_ARCHIVE_BYTES = 600 << 20
_MAX_UNPACKED_BYTES = 3 << 30
_TIMEOUT = httpx.Timeout(30.0, read=60.0)
_DEADLINE_S = 1800.0
_ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_OTHER_WAYS = "pulumi.com/docs/iac/download-install has other ways; PUSHTRAIN_ENGINE=embedded needs no CLI"


def setup_pulumi(folder: Path, *, url: str = RELEASES, say: Callable[[str], None]) -> Path:
    """The folder to put on PATH, with the CLI of version VERSION in it; one that is there already is left alone.

    What was in `folder` stays until the new one is checked and has said its version. Raises EngineError (reason
    SetupFailed) when it cannot be downloaded, is not what its checksum says or does not run, and for a folder that
    holds something else.
    """
    folder = folder.absolute()
    if _version_of(folder) == VERSION:
        say(f"pulumi {VERSION} is there already: {folder}")
        return folder
    if folder.exists() and not (folder / "pulumi").is_file() and any(folder.iterdir()):
        raise _failed(f"{folder} holds something else", hint="give an empty folder, or one that does not exist: --dir")
    archive = f"pulumi-v{VERSION}-{_platform()}.tar.gz"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".pulumi-", dir=folder.parent) as made, _client(url) as client:
        expected = _published_sha256(client, archive)
        say(f"downloading {url}/{archive}")
        _download(client, archive, Path(made, archive), expected)
        say(f"sha256 {expected}, as pulumi-{VERSION}-checksums.txt of the same release says")
        _unpack(Path(made, archive), Path(made))
        unpacked = Path(made, "pulumi")
        said = _version_of(unpacked)
        if said != VERSION:
            raise _failed(f"{archive}: its pulumi says version {said or 'nothing'}, not {VERSION}")
        if folder.exists():
            folder.rename(Path(made, "before"))
        unpacked.rename(folder)
    say(f"pulumi {VERSION} is in {folder}")
    return folder


def _version_of(folder: Path) -> str | None:
    """None when there is no CLI in `folder`, or none that runs."""
    program = folder / "pulumi"
    if not program.is_file():
        return None
    environ = os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "1"}
    try:
        done = subprocess.run([program, "version"], env=environ, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().removeprefix("v") if done.returncode == 0 else None


def _platform() -> str:
    """As releases are named: `linux-x64`, `darwin-arm64`."""
    system, machine = platform.system().lower(), platform.machine().lower()
    if system not in ("linux", "darwin") or machine not in _ARCHITECTURES:
        raise _failed(f"there is no release for {system} on {machine} that this command knows", hint=_OTHER_WAYS)
    return f"{system}-{_ARCHITECTURES[machine]}"


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    """Every failure of its requests as one of ours."""
    headers = {"User-Agent": f"pushtrain/{__version__}"}
    base = url.rstrip("/") + "/"
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as client:
            yield client
    except httpx.HTTPStatusError as error:
        what = f"{error.request.url} answered {error.response.status_code}"
        raise _failed(what, hint=_OTHER_WAYS) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = f"{url} cannot be reached: {error or type(error).__name__}"
        raise _failed(what, hint=f"try again with internet; {_OTHER_WAYS}") from None


def _published_sha256(client: httpx.Client, archive: str) -> str:
    name = f"pulumi-{VERSION}-checksums.txt"
    answer = client.get(name).raise_for_status()
    found = re.search(rf"^([0-9a-f]{{64}}) [ *]{re.escape(archive)}$", answer.text, re.MULTILINE)
    if found is None:
        raise _failed(f"{name} has no SHA-256 of {archive}")
    return found[1]


def _download(client: httpx.Client, archive: str, target: Path, expected: str) -> None:
    digest, size, gives_up_s = hashlib.sha256(), 0, time.monotonic() + _DEADLINE_S
    with client.stream("GET", archive) as answer, target.open("wb") as file:
        answer.raise_for_status()
        for chunk in answer.iter_raw():
            size += len(chunk)
            if size > _MAX_ARCHIVE_BYTES:
                raise _failed(f"{archive} is larger than {_MAX_ARCHIVE_BYTES >> 20} MiB: that is no release of Pulumi")
            if time.monotonic() > gives_up_s:
                raise _failed(f"{archive} is not here after {_DEADLINE_S / 60:.0f} minutes")
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != expected:
        raise _failed(
            f"{archive}: sha256 is {digest.hexdigest()}, {expected} was published",
            hint="nothing was installed; run it again, and if it stays like that, do not use that download",
        )


def _unpack(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise _failed("this Python cannot unpack archives safely", hint="Python 3.11.4 or newer can")
    try:
        with tarfile.open(archive, "r:gz") as files:
            if sum(member.size for member in files) > _MAX_UNPACKED_BYTES:
                raise _failed(f"{archive.name} unpacks to more than {_MAX_UNPACKED_BYTES >> 30} GiB")
            files.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _failed(f"{archive.name} cannot be unpacked: {error}") from None


def _failed(message: str, hint: str | None = None) -> EngineError:
    return EngineError(message, hint=hint, reason="SetupFailed")
