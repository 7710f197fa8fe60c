"""A bucket in memory on loopback, for what talks to S3 and not to the simulator: Pulumi's state, data of a bucket.

The protocol is the simulator's own, `infra.simulator.s3`: every signature is checked. Whoever starts one stops it.
"""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import unquote

from infra.simulator import s3
from infra.simulator.loopback import Listener, Reply, Request

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
    with Listener(partial(_answer, made)) as listener:
        made.url = listener.url
        yield made


def _answer(bucket: Bucket, request: Request) -> Reply:
    name, _, key = unquote(request.path).removeprefix("/").partition("/")
    bucket.requests.append((request.method, key))
    try:
        s3.check_signature(request, {bucket.access_key: bucket.secret_key})
        if name != bucket.name:
            raise s3.Refused(404, "NoSuchBucket")
        said = s3.answer(request, name, key, bucket)
    except s3.Refused as refused:
        if refused.code != "NoSuchKey":
            bucket.refused.append(f"{request.method} {request.target}: {refused}")
        said = s3.refusal(refused)
    return Reply(status=said.status, headers=said.headers, body=said.body)


def _about(content: bytes) -> s3.About:
    return s3.About(size=len(content), etag=s3.md5(content), modified_s=time.time())
