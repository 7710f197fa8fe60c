"""A file of an object store, s3:// or gs://, copied to the volume under the SHA-256 of its bytes.

fsspec does the talking, with s3fs or gcsfs, installed for such a job only. Keys come from the environment alone:
PUSHTRAIN_DATA_AWS_ACCESS_KEY_ID, …_SECRET_ACCESS_KEY, …_SESSION_TOKEN, …_ENDPOINT_URL and …_REGION, or AWS_… as boto3
reads them; PUSHTRAIN_DATA_GOOGLE_CREDENTIALS (the JSON of a service account), or what Google's libraries find.
Needs no torch.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import constants

from trainer.failures import DatasetError, DataUnreachable, is_disk_full
from trainer.report import say_if_quiet, sync

RETRY_DELAYS_S = (1.0, 5.0, 20.0)

_CHUNK = 8 * 1024 * 1024
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}


def objects() -> Path:
    """The folder of the copies, beside the tokens that are made of them."""
    return Path(constants.HF_HOME).parent / "pushtrain" / "objects"


def copy_of(url: str, version: str) -> Path:
    """Where the object with these bytes (`sha256:…`) is kept, or will be."""
    return objects() / f"{version.removeprefix('sha256:')}{PurePosixPath(url).suffix}"


def fetch(url: str, sleep: Callable[[float], None] = time.sleep) -> str:
    """Copy the object at `url` to the volume; the version that `copy_of` takes.

    Raises DatasetError when it is not there, may not be read, or what reads it is not installed, and DataUnreachable
    when the store does not answer.
    """
    for delay_s in RETRY_DELAYS_S:
        try:
            return _fetch(url)
        except DataUnreachable:
            sleep(delay_s)
    return _fetch(url)


def _fetch(url: str) -> str:
    folder = objects()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _store(url).open(url, "rb") as source, tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
            try:
                digest = _copy(source, part, url)
                part.flush()
                os.fsync(part.fileno())
                version = f"sha256:{digest}"
                Path(part.name).replace(copy_of(url, version))
                sync(folder)
            finally:
                Path(part.name).unlink(missing_ok=True)
    except DatasetError:
        raise
    except Exception as error:
        raise _failure(url, error) from error
    return version


def _copy(source: Any, part: Any, url: str) -> str:
    digest, done = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        part.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        say_if_quiet(f"data: {done / 1e9:.1f} GB of {url} are here")
    return digest.hexdigest()


def _store(url: str, environ: Mapping[str, str] = os.environ) -> Any:
    import fsspec

    protocol = url.partition("://")[0]
    given = {name: environ.get(f"PUSHTRAIN_DATA_{name}") or None for name in ("AWS_REGION", "GOOGLE_CREDENTIALS")}
    names = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "ENDPOINT_URL")
    keys = [environ.get(f"PUSHTRAIN_DATA_AWS_{name}") or None for name in names]
    options: dict[str, Any] = {}
    if protocol == "s3":
        options = dict(zip(("key", "secret", "token", "endpoint_url"), keys, strict=True))
        options["client_kwargs"] = {"region_name": given["AWS_REGION"]} if given["AWS_REGION"] else {}
    elif protocol == "gs" and given["GOOGLE_CREDENTIALS"]:
        options["token"] = json.loads(given["GOOGLE_CREDENTIALS"])
    try:
        return fsspec.filesystem(protocol, **options)
    except (ImportError, ValueError) as error:
        package = _PACKAGES.get(protocol, protocol)
        hint = f"uv sync --extra {protocol} installs it; a pod gets it by itself"
        raise DatasetError(f"{url}: {package}, which reads {protocol}://, is not installed", hint=hint) from error


def _failure(url: str, error: Exception) -> Exception:
    """What the libraries of two clouds raise, by class and name, so that neither is imported to be asked."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, FileNotFoundError):
        return DatasetError(f"data.source {url} is not there", hint="the bucket, the name, and the endpoint, if any")
    hint = "the pod's environment needs keys that may read it: docs/data.md"
    if isinstance(error, PermissionError) or names & {"NoCredentialsError", "RefreshError", "DefaultCredentialsError"}:
        return DatasetError(f"data.source {url} may not be read: {type(error).__name__}", hint=hint)
    if is_disk_full(error):
        return error
    return DataUnreachable(f"data.source {url} cannot be read: {type(error).__name__}: {str(error)[:200]}")
