"""A bucket in memory on loopback, for what talks to S3 and not to the simulator: Pulumi's state, data of a bucket.

The protocol is the simulator's own, `infra.simulator.s3`: every signature is checked. Whoever starts one stops it.
"""

import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from infra.simulator import s3

REGION = "auto"


@dataclass
class Bucket:
    """`requests` are (method, key) as they came; `refused` the reasons for every answer but success and not found.

    A member of `infra.simulator.s3.Objects`.
    """

    name: str
    access_key: str
    secret_key: str
    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unfinished: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)

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

    def names(self) -> Sequence[str]:
        return list(self.objects)

    def about(self, key: str) -> s3.About:
        if key not in self.objects:
            raise s3.Refused(404, "NoSuchKey")
        return _about(self.objects[key])

    def read(self, key: str, begin: int, end: int) -> bytes:
        self.about(key)
        return self.objects[key][begin:end]

    def write(self, key: str, content: bytes) -> str:
        self.objects[key] = content
        return s3.md5(content)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def start_upload(self, key: str) -> str:
        upload_id = secrets.token_hex(8)
        self.unfinished[upload_id] = (key, {})
        return upload_id

    def uploads(self) -> Mapping[str, str]:
        return {upload_id: key for upload_id, (key, _) in self.unfinished.items()}

    def put_part(self, upload_id: str, number: int, content: bytes) -> str:
        self.unfinished[upload_id][1][number] = content
        return s3.md5(content)

    def parts(self, upload_id: str) -> Mapping[int, s3.About]:
        return {number: _about(content) for number, content in self.unfinished[upload_id][1].items()}

    def complete(self, upload_id: str, numbers: Sequence[int]) -> str:
        key, parts = self.unfinished.pop(upload_id)
        return self.write(key, b"".join(parts[number] for number in numbers))

    def abort(self, upload_id: str) -> None:
        self.unfinished.pop(upload_id, None)


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


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a passing test is silent."""

    def _serve(self) -> None:
        self.close_connection = False
        parts = urlsplit(self.path)
        request = s3.Request(
            method=self.command,
            path=parts.path,
            query=parts.query,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
        )
        name, _, key = unquote(parts.path).removeprefix("/").partition("/")
        self.bucket.requests.append((self.command, key))
        try:
            s3.check_signature(request, {self.bucket.access_key: self.bucket.secret_key})
            if name != self.bucket.name:
                raise s3.Refused(404, "NoSuchBucket")
            said = s3.answer(request, name, key, self.bucket)
        except s3.Refused as refused:
            if refused.code != "NoSuchKey":
                self.bucket.refused.append(f"{self.command} {self.path}: {refused}")
            said = s3.refusal(refused)
        self.send_response(said.status)
        headers = dict(said.headers)
        if said.status != 204:
            headers.setdefault("Content-Length", str(len(said.body)))
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve


def _about(content: bytes) -> s3.About:
    return s3.About(size=len(content), etag=s3.md5(content), modified_s=time.time())
