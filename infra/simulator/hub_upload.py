"""How files get onto the Hub: preupload, the git-lfs batch API with basic transfers, and the commit."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from infra.simulator.hub_access import RepoId
from infra.simulator.hub_commit import (
    Add,
    CommitRequest,
    Delete,
    File,
    Refused,
    checked_sha256,
    lfs_file,
    regular_file,
    upload_mode,
)
from infra.simulator.hub_http import Call, CutConnection, field
from infra.simulator.hub_store import BlobWriter, HubStore

MAX_PREUPLOAD_FILES = 256
MAX_COMMIT_LINE_BYTES = 64 * 1024 * 1024
UPLOAD_URL_VALID_S = 3600
_WRITE_BYTES = 1024 * 1024


def preupload(call: Call) -> Response:
    """For each file: regular or LFS, and what the branch holds under that path now."""
    call.refuse_pull_request()
    repo = call.store.open(call.repo_id, call.user, write=True)
    head = call.store.commit_at(repo, call.revision)
    files = field(call.json(), "files", list)
    if len(files) > MAX_PREUPLOAD_FILES:
        raise Refused(400, f'"files" must contain less than or equal to {MAX_PREUPLOAD_FILES} items.')
    answers = []
    for file in files:
        path, sample = field(file, "path", str), _from_base64(field(file, "sample", str))
        known = head.files.get(path)
        mode = upload_mode(path, field(file, "size", int), sample)
        oid = known.etag if known else None
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return JSONResponse({"files": answers, "commitOid": head.id})


def lfs_batch(call: Call) -> Response:
    """Where to send each object. One that the repository has gets no actions, as git-lfs has it."""
    call.store.open(call.repo_id, call.user, write=True)
    body = call.json()
    if field(body, "operation", str) != "upload":
        raise Refused(400, "Only the operation 'upload' is served; files are read by their resolve URL.")
    objects = []
    for wanted in field(body, "objects", list):
        upload = _Upload(
            repo_id=call.repo_id, sha256=checked_sha256(field(wanted, "oid", str)), size=field(wanted, "size", int)
        )
        answer: dict[str, Any] = {"oid": upload.sha256, "size": upload.size}
        if not call.store.blob_path(call.repo_id, upload.sha256).exists():
            verify = f"{call.base_url}/{call.repo_id.url_path}.git/info/lfs/objects/verify"
            answer["actions"] = {
                "upload": {"href": call.base_url + upload.signed_url_path(call.store), "header": {}},
                "verify": {"href": verify, "header": {}},
            }
        objects.append(answer)
    return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")


def lfs_verify(call: Call) -> Response:
    call.store.open(call.repo_id, call.user, write=True)
    body = call.json()
    path = call.store.blob_path(call.repo_id, checked_sha256(field(body, "oid", str)))
    if not path.exists() or path.stat().st_size != field(body, "size", int):
        raise Refused(404, "The object is not there with this size.")
    return JSONResponse({})


async def lfs_put(call: Call) -> Response:
    """The bytes of one object. The URL is the permission: clients send no token here."""
    upload = _Upload.from_signed_url(call)
    await run_in_threadpool(call.store.require, upload.repo_id)
    if call.store.take_fault("hub_upload_down"):
        raise Refused(503, "Service Unavailable")
    is_cut = call.store.take_fault("hub_upload_cut")
    with await run_in_threadpool(call.store.receive, upload.repo_id) as blob:
        waiting = bytearray()
        async for chunk in call.chunks:
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                await run_in_threadpool(blob.write, bytes(waiting))
                waiting.clear()
            if is_cut and blob.size + len(waiting) > upload.size // 2:
                return CutConnection()
            if blob.size + len(waiting) > upload.size:
                raise Refused(400, f"More than the announced {upload.size} bytes.")
        await run_in_threadpool(_finish, blob, bytes(waiting), upload)
    return Response(headers={"ETag": f'"{upload.sha256}"'})


async def commit(call: Call) -> Response:
    """A commit as newline-separated JSON: a header, then one operation a line."""
    call.refuse_pull_request()
    if call.store.take_fault("hub_upload_down"):
        raise Refused(503, "Service Unavailable")
    await run_in_threadpool(call.store.open, call.repo_id, call.user, write=True)
    header: dict[str, Any] | None = None
    operations: list[Add | Delete] = []
    async for line in _lines(call.chunks):
        parsed = await run_in_threadpool(_commit_line, call.store, call.repo_id, line)
        if isinstance(parsed, dict):
            header = parsed
        else:
            operations.append(parsed)
    if header is None or call.user is None:
        raise Refused(400, "The commit has no header line.")
    request = CommitRequest(
        title=field(header, "summary", str),
        message=header.get("description") or "",
        author=call.user.name,
        operations=tuple(operations),
        expected_parent=str(header.get("parentCommit") or ""),
    )
    made = await run_in_threadpool(call.store.add_commit, call.repo_id, call.revision, request)
    if call.store.take_fault("hub_commit_lost"):
        return CutConnection()
    url = f"{call.base_url}/{call.repo_id.url_path}/commit/{made.id}"
    return JSONResponse({"success": True, "commitOid": made.id, "commitUrl": url, "hookOutput": ""})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Upload:
    """Permission to store one object in one repository, as a URL that ends after UPLOAD_URL_VALID_S seconds."""

    repo_id: RepoId
    sha256: str
    size: int

    def signed_url_path(self, store: HubStore) -> str:
        expires = int(store.clock()) + UPLOAD_URL_VALID_S
        query = urlencode({"size": self.size, "expires": expires, "signature": self._signature(store, expires)})
        return f"/_lfs/{'/'.join(self.repo_id)}/{self.sha256}?{query}"

    @classmethod
    def from_signed_url(cls, call: Call) -> "_Upload":
        query = call.request.query_params
        size, expires = query.get("size", ""), query.get("expires", "")
        if not (size.isdecimal() and expires.isdecimal()):
            raise Refused(403, "This is no upload URL.")
        upload = cls(repo_id=call.repo_id, sha256=call.request.path_params["oid"], size=int(size))
        if not hmac.compare_digest(upload._signature(call.store, int(expires)), query.get("signature", "")):
            raise Refused(403, "The signature of this upload URL is wrong.")
        if call.store.clock() > int(expires):
            raise Refused(403, "This upload URL has expired.")
        return upload

    def _signature(self, store: HubStore, expires: int) -> str:
        message = "\n".join([*self.repo_id, self.sha256, str(self.size), str(expires)])
        return hmac.new(store.signing_key, message.encode(), hashlib.sha256).hexdigest()


def _finish(blob: BlobWriter, rest: bytes, upload: _Upload) -> None:
    blob.write(rest)
    if (blob.size, blob.sha256) != (upload.size, upload.sha256):
        raise Refused(400, f"Not the announced content: {blob.size} bytes with SHA-256 {blob.sha256}.")
    blob.keep()


async def _lines(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    waiting = bytearray()
    async for chunk in stream:
        waiting += chunk
        if b"\n" in chunk:
            *whole, rest = bytes(waiting).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
            waiting = bytearray(rest)
        if len(waiting) > MAX_COMMIT_LINE_BYTES:
            raise Refused(413, "A regular file is too large for a commit line: upload it as LFS.")
    if waiting.strip():
        yield bytes(waiting)


def _commit_line(store: HubStore, repo_id: RepoId, line: bytes) -> Add | Delete | dict[str, Any]:
    """One line: the header as it came, or an operation whose content is stored by now."""
    try:
        parsed = json.loads(line)
    except ValueError:
        raise Refused(400, "A line of the commit is not JSON.") from None
    value = field(parsed, "value", dict)
    match parsed.get("key"):
        case "header":
            return value
        case "file":
            return Add(path=field(value, "path", str), file=_store_regular(store, repo_id, value))
        case "lfsFile":
            blob = store.blob_path(repo_id, checked_sha256(field(value, "oid", str)))
            if not blob.exists():
                raise Refused(400, f"LFS pointer pointed to a file that does not exist: {blob.name}.")
            return Add(path=field(value, "path", str), file=lfs_file(blob.name, blob.stat().st_size))
        case "deletedFile" | "deletedFolder" as key:
            return Delete(path=field(value, "path", str), is_folder=key == "deletedFolder")
        case key:
            raise Refused(400, f"Unknown commit operation {key!r}.")


def _store_regular(store: HubStore, repo_id: RepoId, value: dict[str, Any]) -> File:
    text = field(value, "content", str)
    content = _from_base64(text) if value.get("encoding") == "base64" else text.encode()
    with store.receive(repo_id) as blob:
        blob.write(content)
        blob.keep()
    return regular_file(content)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused(400, "The content of a file is not base64.") from None
