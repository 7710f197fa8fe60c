"""The part of S3 that Pulumi's state uses, on loopback: one bucket in memory, every request's signature checked.

Path style, signature version 4 with `access_key` and `secret_key`, bodies checked against the digest that was signed.
Whoever starts one stops it.
"""

import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

REGION = "auto"
_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass
class Bucket:
    """`requests` are (method, key) as they came; `refused` the reasons for every answer but success and not found."""

    name: str
    access_key: str
    secret_key: str
    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def backend_url(self) -> str:
        """As a person would write it for any S3-compatible store."""
        return f"s3://{self.name}?region={REGION}&endpoint={self.url}&s3ForcePathStyle=true"

    def environ(self) -> dict[str, str]:
        return {
            "PULUMI_BACKEND_URL": self.backend_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def written(self) -> list[str]:
        return [key for method, key in self.requests if method in ("PUT", "POST")]


@contextmanager
def bucket(name: str = "state", *, access_key: str, secret_key: str) -> Iterator[Bucket]:
    made = Bucket(name=name, access_key=access_key, secret_key=secret_key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a passing test is silent."""

    def _serve(self) -> None:
        self.close_connection = False
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        name, _, key = unquote(parts.path).removeprefix("/").partition("/")
        self.bucket.requests.append((self.command, key))
        try:
            self._check(parts.path, parts.query, body)
            if name != self.bucket.name:
                raise _Refused(404, "NoSuchBucket")
            status, headers, answer = self._answer(key, dict(parse_qsl(parts.query, keep_blank_values=True)), body)
        except _Refused as refused:
            if str(refused) != "NoSuchKey":
                self.bucket.refused.append(f"{self.command} {self.path}: {refused}")
            status, headers = refused.status, {}
            answer = f"<Error><Code>{refused}</Code><Message>{refused}</Message></Error>".encode()
        self.send_response(status)
        for header, value in ({"Content-Type": "application/xml"} | headers).items():
            self.send_header(header, value)
        if status != 204:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

    def _answer(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        objects = self.bucket.objects
        if self.command == "GET" and not key:
            return 200, {}, self._listing(query)
        if self.command in ("GET", "HEAD"):
            if key not in objects:
                raise _Refused(404, "NoSuchKey")
            return 200, _about(objects[key]), objects[key]
        if self.command == "DELETE":
            objects.pop(key, None)
            return 204, {}, b""
        if self.command == "PUT" and (source := self.headers.get("x-amz-copy-source")):
            objects[key] = objects[unquote(source).removeprefix("/").partition("/")[2]]
            copied = f"<CopyObjectResult {_XMLNS}><ETag>{_etag(objects[key])}</ETag></CopyObjectResult>"
            return 200, {}, copied.encode()
        if self.command == "PUT" and "uploadId" not in query:
            objects[key] = body
            return 200, {"ETag": _etag(body)}, b""
        raise _Refused(501, "NotImplemented")

    def _listing(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        files, folders = [], set()
        for key in sorted(self.bucket.objects):
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folders.add(prefix + head + delimiter)
            else:
                files.append(key)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{now}</LastModified>"
            f"<ETag>{_etag(self.bucket.objects[key])}</ETag><Size>{len(self.bucket.objects[key])}</Size></Contents>"
            for key in files
        )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(it)}</Prefix></CommonPrefixes>" for it in sorted(folders))
        return (
            f"<ListBucketResult {_XMLNS}><Name>{self.bucket.name}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(files)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
            f"{contents}{prefixes}</ListBucketResult>"
        ).encode()

    def _check(self, path: str, query: str, body: bytes) -> None:
        """Signature version 4, docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html."""
        signed = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d+)/([^/]+)/s3/aws4_request, ?"
            r"SignedHeaders=([^,]+), ?Signature=(\w+)",
            self.headers.get("Authorization", ""),
        )
        if signed is None:
            raise _Refused(403, "AccessDenied")
        access_key, day, region, names, signature = signed.groups()
        if access_key != self.bucket.access_key:
            raise _Refused(403, "InvalidAccessKeyId")
        digest = self.headers["x-amz-content-sha256"]
        if re.fullmatch(r"[0-9a-f]{64}", digest) and digest != hashlib.sha256(body).hexdigest():
            raise _Refused(400, "XAmzContentSHA256Mismatch")
        pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(query, True))
        headers = "".join(f"{name}:{' '.join((self.headers[name] or '').split())}\n" for name in names.split(";"))
        asked = "&".join(f"{k}={v}" for k, v in pairs)
        request = f"{self.command}\n{path}\n{asked}\n{headers}\n{names}\n{digest}"
        scope = f"{day}/{region}/s3/aws4_request"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.headers['x-amz-date']}\n{scope}\n{hashed}"
        key = f"AWS4{self.bucket.secret_key}".encode()
        for part in (day, region, "s3", "aws4_request", text):
            key = hmac.digest(key, part.encode(), "sha256")
        if not hmac.compare_digest(key.hex(), signature):
            raise _Refused(403, "SignatureDoesNotMatch")


def _about(content: bytes) -> dict[str, str]:
    now = format_datetime(datetime.now(timezone.utc), usegmt=True)
    return {"ETag": _etag(content), "Last-Modified": now, "Content-Type": "application/octet-stream"}


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
