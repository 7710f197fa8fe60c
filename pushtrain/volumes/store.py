"""One volume's files through S3, over botocore: what is there, ranges of it, whole small files, large ones in parts.

Every request has a deadline and is repeated when nobody knows its outcome; keys come from `Access` alone, never from
the files and variables that AWS's own tools read. Blocking; safe from several threads.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pushtrain.errors import CloudAuthFailed, CloudError, CloudUnavailable, PushtrainError, RequestRejected
from pushtrain.redact import redact
from pushtrain.volumes.endpoints import ACCESS_KEY, Access

T = TypeVar("T")
# Of unfinished uploads; RunPod keeps their parts there, on the volume itself.
UPLOADS = ".s3compat_uploads/"

CONNECT_S, READ_S, ATTEMPTS = 10.0, 120.0, 6
_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "Forbidden")
_FULL = ("InsufficientStorage", "EntityTooLarge", "QuotaExceeded")


class VolumeFull(RequestRejected):
    reason = "VolumeFull"


class Changed(CloudError):
    """A file became another one while it was read."""

    reason = "FileChanged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file on a volume. `etag` without quotes: the MD5 of its bytes, or of its parts' MD5s with their number."""

    key: str
    size: int
    etag: str


class VolumeStore:
    """`attempts` is how often a request goes out before it counts as failed."""

    def __init__(self, access: Access, *, attempts: int = ATTEMPTS) -> None:
        self._access, self._client = access, _client(access, attempts)

    def files(self, prefix: str = "") -> Iterator[Entry]:
        """Every file whose path begins with `prefix`, in order; unfinished uploads left out."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._access.bucket, Prefix=prefix)
        for page in self._each(pages, f"listing {prefix or 'the volume'}"):
            for it in page.get("Contents", ()):
                if not it["Key"].startswith(UPLOADS) and not it["Key"].endswith("/"):
                    yield Entry(key=it["Key"], size=int(it["Size"]), etag=str(it.get("ETag", "")).strip('"'))

    def find(self, key: str) -> Entry | None:
        """None where there is no file of that path."""
        try:
            found = self._call(f"looking at {key}", self._client.head_object, Key=key)
        except FileNotFoundError:
            return None
        return Entry(key=key, size=int(found["ContentLength"]), etag=str(found.get("ETag", "")).strip('"'))

    def read(self, entry: Entry, begin: int, length: int) -> bytes:
        """Bytes of the very file that `entry` says. Raises Changed where it is another one by now."""
        wanted = {"Range": f"bytes={begin}-{begin + length - 1}", "IfMatch": f'"{entry.etag}"'}

        def whole() -> bytes:
            said = self._client.get_object(Bucket=self._access.bucket, Key=entry.key, **wanted)
            return bytes(said["Body"].read())

        try:
            content = self._patiently(f"reading {entry.key}", whole)
        except FileNotFoundError:
            content = b""
        if len(content) != length:
            raise Changed(f"{entry.key} is not the file any more that was listed", hint="repeat the command")
        return content

    def put(self, key: str, content: bytes) -> str:
        """The ETag it got."""
        said = self._call(f"writing {key}", self._client.put_object, Key=key, Body=content)
        return str(said.get("ETag", "")).strip('"')

    def delete(self, key: str) -> None:
        """Absent is success."""
        try:
            self._call(f"deleting {key}", self._client.delete_object, Key=key)
        except FileNotFoundError:
            return

    def unfinished(self, prefix: str) -> dict[str, list[str]]:
        """Ids, in order, of the uploads that were never finished, by the paths that begin with `prefix`."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._access.bucket, Prefix=prefix)
        found: dict[str, list[str]] = {}
        for page in self._each(pages, f"looking for uploads of {prefix or 'the volume'}"):
            for it in page.get("Uploads", ()):
                found.setdefault(str(it["Key"]), []).append(str(it["UploadId"]))
        return {key: sorted(uploads) for key, uploads in found.items()}

    def abort(self, key: str, upload: str) -> None:
        """Its parts take no room any more. Absent is success."""
        try:
            self._call(f"giving up {key}", self._client.abort_multipart_upload, Key=key, UploadId=upload)
        except FileNotFoundError:
            return

    def start(self, key: str) -> str:
        return str(self._call(f"beginning {key}", self._client.create_multipart_upload, Key=key)["UploadId"])

    def parts(self, key: str, upload: str) -> Mapping[int, str]:
        """ETag of each part that is there."""
        pages = self._client.get_paginator("list_parts").paginate(Bucket=self._access.bucket, Key=key, UploadId=upload)
        found = [part for page in self._each(pages, f"listing parts of {key}") for part in page.get("Parts", ())]
        return {int(part["PartNumber"]): str(part["ETag"]).strip('"') for part in found}

    def put_part(self, key: str, upload: str, number: int, content: bytes) -> str:
        asked = {"Key": key, "UploadId": upload, "PartNumber": number, "Body": content}
        said = self._call(f"writing {key}, part {number}", self._client.upload_part, **asked)
        return str(said.get("ETag", "")).strip('"')

    def finish(self, key: str, upload: str, etags: Sequence[str]) -> None:
        """Makes a file of all parts, 1 to the last."""
        parts = [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in enumerate(etags, 1)]
        asked = {"Key": key, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
        self._call(f"finishing {key}", self._client.complete_multipart_upload, **asked)

    def _call(self, doing: str, operation: Callable[..., Any], **asked: Any) -> Any:
        return self._patiently(doing, lambda: operation(Bucket=self._access.bucket, **asked))

    def _each(self, pages: Any, doing: str) -> Iterator[Any]:
        following = iter(pages)
        while (page := self._patiently(doing, lambda: next(following, None))) is not None:
            yield page

    def _patiently(self, doing: str, ask: Callable[[], T]) -> T:
        """botocore repeats what got no answer; a body that is cut off it does not. Raises FileNotFoundError for 404."""
        from botocore import exceptions

        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                return ask()
            except exceptions.ClientError as error:
                raise self._meaning(doing, error) from None
            except (exceptions.HTTPClientError, exceptions.IncompleteReadError) as error:
                if not left:
                    raise CloudUnavailable(
                        f"{doing}: {type(error).__name__}: {self._clean(error)}",
                        hint="repeat the command: it goes on where it was",
                    ) from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _meaning(self, doing: str, error: Any) -> Exception:
        code, status = (
            str(error.response["Error"].get("Code", "")),
            error.response["ResponseMetadata"]["HTTPStatusCode"],
        )
        said = f"{doing}: {status} {code}"
        if code == "NoSuchBucket":
            return RequestRejected(
                f"{said}: {self._access.bucket} is gone, or not in {self._access.region}", reason="UnknownVolume"
            )
        if status == 404:
            return FileNotFoundError(said)
        if status == 412:
            return Changed(f"{said}: it was changed meanwhile", hint="repeat the command")
        if status in (401, 403) or code in _REFUSED:
            return self._refused(said)
        if status == 507 or code in _FULL:
            return VolumeFull(f"{said}: the volume is full", hint="`pushtrain volumes grow`, then repeat the command")
        if status >= 500 or status == 429:
            return CloudUnavailable(said, hint="repeat the command: it goes on where it was")
        return RequestRejected(f"{said}: {self._clean(error)}")

    def _refused(self, said: str) -> CloudAuthFailed:
        names = self._access.key_names
        if ACCESS_KEY in names:
            hint = "they are an S3 API key (user_… and rps_…) of the account the volume is in, not its API key"
            return CloudAuthFailed(f"{said}: RunPod's S3 API does not take {' and '.join(names)}", hint=hint)
        hint = "they have to list, read, write and delete there"
        return CloudAuthFailed(f"{said}: {self._access.bucket} does not take {' and '.join(names)}", hint=hint)

    def _clean(self, error: object) -> str:
        return redact(str(error), extra=[self._access.secret_key, self._access.session_token])[:300]


def _client(access: Access, attempts: int) -> Any:
    """Raises PushtrainError where botocore is not installed."""
    try:
        from botocore.config import Config
        from botocore.session import Session
    except ImportError:
        raise PushtrainError(
            "botocore, which speaks S3, is not installed", hint="uv sync --extra volumes", reason="MissingExtra"
        ) from None
    # Neither a profile nor AWS's variables and files have anything to do with these volumes.
    session = Session(session_vars={"profile": (None, None, None, None)})
    for name in ("config_file", "credentials_file"):
        session.set_config_variable(name, os.devnull)
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=16,
        # RunPod's table names no checksum header; MD5 and size are compared here.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="pushtrain",
    )
    return session.create_client(
        "s3",
        region_name=access.region,
        endpoint_url=access.url or None,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        aws_session_token=access.session_token or None,
        config=config,
    )
