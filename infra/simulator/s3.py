"""S3 as far as network volumes and Pulumi's state need it: signatures, answers, listings. Pure but for `Objects`.

Path style, signature version 4, bodies checked against the digest that was signed. Operations are those that RunPod
names in its table of October 2026 (docs.runpod.io/storage/s3-api): no DeleteObjects, no versions, no ACLs.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Protocol
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from infra.simulator.loopback import Request

_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_XML = {"Content-Type": "application/xml"}
_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d+)/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)"
)
_MOST_KEYS = 1000


class Refused(Exception):
    """`code` is S3's own word; clients show it."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: dict(_XML))
    body: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """`etag` without quotes."""

    size: int
    etag: str
    modified_s: float


class Objects(Protocol):
    """One bucket. Keys are checked by the member; what is not there raises Refused(404, NoSuchKey, or NoSuchUpload)."""

    def names(self) -> Sequence[str]: ...
    def about(self, key: str) -> About: ...
    def read(self, key: str, begin: int, end: int) -> bytes: ...
    def write(self, key: str, content: bytes) -> str: ...
    def delete(self, key: str) -> None: ...
    def start_upload(self, key: str) -> str: ...
    def uploads(self) -> Mapping[str, str]:
        """Upload id → key."""
        ...

    def put_part(self, upload_id: str, number: int, content: bytes) -> str: ...
    def parts(self, upload_id: str) -> Mapping[int, About]: ...
    def complete(self, upload_id: str, numbers: Sequence[int]) -> str: ...
    def abort(self, upload_id: str) -> None: ...


def check_signature(request: Request, secrets: Mapping[str, str]) -> str:
    """The region it was signed for. `secrets`: access key → secret. Raises Refused.

    docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    headers = request.headers
    signed = _SIGNED.fullmatch(headers.get("authorization", ""))
    if signed is None:
        raise Refused(403, "AccessDenied")
    access_key, day, region, names, signature = signed.groups()
    if access_key not in secrets:
        raise Refused(403, "InvalidAccessKeyId")
    digest = headers.get("x-amz-content-sha256", "")
    if re.fullmatch(r"[0-9a-f]{64}", digest) and digest != hashlib.sha256(request.body).hexdigest():
        raise Refused(400, "XAmzContentSHA256Mismatch")
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(request.query, True))
    lines = "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in names.split(";"))
    query = "&".join(f"{k}={v}" for k, v in pairs)
    canonical = f"{request.method}\n{request.path}\n{query}\n{lines}\n{names}\n{digest}"
    scope = f"{day}/{region}/s3/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers.get('x-amz-date', '')}\n{scope}\n{hashed}"
    key = f"AWS4{secrets[access_key]}".encode()
    for part in (day, region, "s3", "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(key.hex(), signature):
        raise Refused(403, "SignatureDoesNotMatch")
    return region


def refusal(refused: Refused) -> Answer:
    body = f"<Error><Code>{refused.code}</Code><Message>{refused.code}</Message></Error>"
    return Answer(status=refused.status, body=body.encode())


def answer(request: Request, bucket: str, key: str, objects: Objects) -> Answer:
    """What the bucket says. Raises Refused."""
    asked = request.asked
    if not key:
        return _of_bucket(request, bucket, objects, asked)
    if "uploads" in asked or "uploadId" in asked:
        return _of_upload(request, bucket, key, objects, asked)
    if request.method in ("GET", "HEAD"):
        return _read(request, key, objects)
    if request.method == "DELETE":
        objects.delete(key)
        return Answer(status=204)
    if request.method != "PUT":
        raise Refused(501, "NotImplemented")
    if source := request.headers.get("x-amz-copy-source"):
        other = unquote(source).removeprefix("/").partition("/")[2]
        etag = objects.write(key, objects.read(other, 0, objects.about(other).size))
        return _xml(f"<CopyObjectResult {_XMLNS}><ETag>{_quoted(etag)}</ETag></CopyObjectResult>")
    return Answer(status=200, headers={"ETag": _quoted(objects.write(key, request.body))})


def _of_bucket(request: Request, bucket: str, objects: Objects, asked: Mapping[str, str]) -> Answer:
    if request.method == "HEAD":
        return Answer(status=200)
    if request.method != "GET":
        raise Refused(501, "NotImplemented")
    if "uploads" in asked:
        running = [(key, it) for it, key in objects.uploads().items() if key.startswith(asked.get("prefix", ""))]
        listed = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{it}</UploadId></Upload>" for key, it in sorted(running)
        )
        return _xml(
            f"<ListMultipartUploadsResult {_XMLNS}><Bucket>{bucket}</Bucket><IsTruncated>false</IsTruncated>"
            f"{listed}</ListMultipartUploadsResult>"
        )
    return _listing(bucket, objects, asked)


def _listing(bucket: str, objects: Objects, asked: Mapping[str, str]) -> Answer:
    """Files and common prefixes in order of key, a page at a time."""
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    after = asked.get("marker") or asked.get("start-after") or ""
    if token := asked.get("continuation-token"):
        after = base64.urlsafe_b64decode(token.encode()).decode()
    most = min(int(asked.get("max-keys") or _MOST_KEYS), _MOST_KEYS)
    files: list[str] = []
    folders: set[str] = set()
    more = False
    for key in sorted(key for key in objects.names() if key.startswith(prefix) and key > after):
        if len(files) + len(folders) >= most:
            more = True
            break
        head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        if found:
            folders.add(prefix + head + delimiter)
        else:
            files.append(key)
        after = key
    next_page = ""
    if more:
        token = base64.urlsafe_b64encode(after.encode()).decode()
        next_page = f"<NextContinuationToken>{token}</NextContinuationToken><NextMarker>{escape(after)}</NextMarker>"
    contents = "".join(_entry(key, objects.about(key)) for key in files)
    prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(it)}</Prefix></CommonPrefixes>" for it in sorted(folders))
    return _xml(
        f"<ListBucketResult {_XMLNS}><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(files)}"
        f"</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{next_page}"
        f"{contents}{prefixes}</ListBucketResult>"
    )


def _entry(key: str, about: About) -> str:
    modified = datetime.fromtimestamp(about.modified_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>{_quoted(about.etag)}</ETag><Size>{about.size}</Size></Contents>"
    )


def _of_upload(request: Request, bucket: str, key: str, objects: Objects, asked: Mapping[str, str]) -> Answer:
    method, upload_id = request.method, asked.get("uploadId", "")
    if method == "POST" and "uploads" in asked:
        names = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
        made = objects.start_upload(key)
        started = f"{names}<UploadId>{made}</UploadId>"
        return _xml(f"<InitiateMultipartUploadResult {_XMLNS}>{started}</InitiateMultipartUploadResult>")
    if objects.uploads().get(upload_id) != key:
        raise Refused(404, "NoSuchUpload")
    if method == "PUT":
        etag = objects.put_part(upload_id, int(asked.get("partNumber", "0")), request.body)
        return Answer(status=200, headers={"ETag": _quoted(etag)})
    if method == "GET":
        return _parts(objects.parts(upload_id), int(asked.get("part-number-marker") or 0))
    if method == "DELETE":
        objects.abort(upload_id)
        return Answer(status=204)
    if method != "POST":
        raise Refused(501, "NotImplemented")
    there = objects.parts(upload_id)
    numbers = []
    for part in ElementTree.fromstring(request.body):
        said = {child.tag.rpartition("}")[2]: (child.text or "") for child in part}
        number = int(said["PartNumber"])
        if number not in there or there[number].etag != said["ETag"].strip('"'):
            raise Refused(400, "InvalidPart")
        numbers.append(number)
    etag = objects.complete(upload_id, numbers)
    done = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><ETag>{_quoted(etag)}</ETag>"
    return _xml(f"<CompleteMultipartUploadResult {_XMLNS}>{done}</CompleteMultipartUploadResult>")


def _parts(parts: Mapping[int, About], after: int) -> Answer:
    later = [(number, parts[number]) for number in sorted(parts) if number > after]
    page, more = later[:_MOST_KEYS], len(later) > _MOST_KEYS
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{_quoted(it.etag)}</ETag><Size>{it.size}</Size></Part>"
        for number, it in page
    )
    marker = f"<NextPartNumberMarker>{page[-1][0]}</NextPartNumberMarker>" if page else ""
    return _xml(
        f"<ListPartsResult {_XMLNS}><IsTruncated>{str(more).lower()}</IsTruncated>{marker}{listed}</ListPartsResult>"
    )


def _read(request: Request, key: str, objects: Objects) -> Answer:
    about = objects.about(key)
    if (wanted := request.headers.get("if-match")) and wanted.strip('"') != about.etag:
        raise Refused(412, "PreconditionFailed")
    headers = {
        "ETag": _quoted(about.etag),
        "Last-Modified": format_datetime(datetime.fromtimestamp(about.modified_s, timezone.utc), usegmt=True),
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
    }
    if request.method == "HEAD":
        return Answer(status=200, headers=headers | {"Content-Length": str(about.size)})
    ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if ranged is None:
        return Answer(status=200, headers=headers, body=objects.read(key, 0, about.size))
    begin, end = int(ranged[1]), min(int(ranged[2] or about.size - 1) + 1, about.size)
    if begin >= about.size:
        raise Refused(416, "InvalidRange")
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{about.size}"
    return Answer(status=206, headers=headers, body=objects.read(key, begin, end))


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _quoted(etag: str) -> str:
    return f'"{etag}"'


def _xml(body: str) -> Answer:
    return Answer(status=200, body=body.encode())
