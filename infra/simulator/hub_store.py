"""The Hub's repositories on disk, and who may do what with them.

`root/{models,datasets}/NAMESPACE/NAME/` holds `repo.json` (settings, branches, tags), `commits/<40 hex>.json` and
`blobs/<sha256>`. Blobs and commits never change and are written before the `repo.json` that names them; every file is
moved into place whole. So a killed process loses at most the request it was in. One process serves a root.
Tokens are compared in memory and never written.
"""

import hashlib
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from infra.simulator.hub_access import HubUser, RepoId, check_scope, check_write, no_repo
from infra.simulator.hub_commit import GITATTRIBUTES, Add, Commit, CommitRequest, Refused, new_commit, regular_file

FAULTS = {
    "hub_down": "every request answers 503",
    "hub_upload_down": "LFS uploads and commits answer 503",
    "hub_upload_cut": "the connection is cut in the middle of an LFS upload",
    "hub_commit_lost": "the commit is made, its answer is lost",
}

RefGroup = Literal["branches", "tags"]

_REF_NAME = re.compile(r"(?!.*(\.\.|//|\.lock$|/$))[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Repo:
    """Settings and refs of a repository at one moment; `branches` and `tags` map names to commit ids."""

    id: RepoId
    private: bool
    created_at: str
    branches: Mapping[str, str]
    tags: Mapping[str, str]
    gated: Literal["auto", "manual", False] = False


class BlobWriter:
    """Receives one blob: a temporary file beside its hash. Leaving the block without `keep` deletes what came."""

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / f"{secrets.token_hex(8)}.part"
        self._file = self._path.open("xb")

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def keep(self) -> None:
        self._file.close()
        self._path.replace(self._folder / self.sha256)


class HubStore:
    """Thread-safe; readers never wait. Methods raise Refused with the status and code the Hub answers."""

    def __init__(self, root: Path, users: Mapping[str, HubUser], clock: Callable[[], float] = time.time) -> None:
        """`users` by token; `clock` gives epoch seconds. What a killed process left half received is removed."""
        self.root = root
        self.clock = clock
        self._users = dict(users)
        self._locks: dict[RepoId, threading.Lock] = {}
        self._faults: dict[str, int] = {}
        self._faults_lock = threading.Lock()
        # The same after a restart, on no disk: upload URLs outlive the process as they do on the Hub's object storage.
        self.signing_key = hashlib.sha256("\0".join(sorted(users)).encode()).digest()
        for part in root.glob("*/*/*/blobs/*.part"):
            part.unlink(missing_ok=True)

    def set_fault(self, kind: str, times: int) -> None:
        """Let the next `times` requests that `kind` (a key of FAULTS) concerns fail; 0 switches it off."""
        if kind not in FAULTS:
            raise Refused(400, f"Unknown Hub fault {kind!r}; known: {', '.join(FAULTS)}.")
        with self._faults_lock:
            self._faults[kind] = max(0, times)

    def take_fault(self, kind: str) -> bool:
        """Whether this request is one of those that fail."""
        with self._faults_lock:
            left = self._faults.get(kind, 0)
            self._faults[kind] = max(0, left - 1)
        return left > 0

    def user(self, token: str | None) -> HubUser | None:
        """None without a token."""
        if token is None:
            return None
        if token not in self._users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self._users[token]

    def open(self, repo_id: RepoId, user: HubUser | None, *, write: bool = False) -> Repo:
        """The repository, when this user may see it (and change it, with `write`)."""
        repo = self._load(repo_id)
        is_own = user is not None and user.owns(repo_id.namespace)
        if repo is None or (repo.private and not is_own):
            raise no_repo(user)
        if user is not None and (write or repo.private):
            check_scope(repo_id, user)
        if write:
            check_write(repo_id, user)
        return repo

    def open_content(self, repo_id: RepoId, user: HubUser | None) -> Repo:
        """Like `open`, for the bytes of files: those of a gated repository are for its owners."""
        repo = self.open(repo_id, user)
        if repo.gated and not (user is not None and user.owns(repo_id.namespace)):
            who = "You must have access to it and be authenticated." if user is None else "Ask for access on its page."
            message = f"Access to {repo_id.full_name} is restricted. {who}"
            raise Refused(401 if user is None else 403, message, code="GatedRepo")
        return repo

    def create_repo(self, repo_id: RepoId, user: HubUser | None, *, private: bool) -> Repo:
        """A new repository with one commit. Refused 409 when it exists."""
        if not repo_id.is_valid:
            raise Refused(400, f"Invalid repository name {repo_id.full_name!r}.")
        check_write(repo_id, user)
        with self._lock(repo_id):
            if self._load(repo_id) is not None:
                raise Refused(409, f"You already created this {repo_id.kind[:-1]} repo")
            with self.receive(repo_id) as blob:
                blob.write(GITATTRIBUTES)
                blob.keep()
            first = Add(path=".gitattributes", file=regular_file(GITATTRIBUTES))
            request = CommitRequest(title="initial commit", author="system", operations=(first,))
            commit = self._write_commit(repo_id, request, None)
            repo = Repo(id=repo_id, private=private, created_at=commit.date, branches={"main": commit.id}, tags={})
            self._save(repo)
        return repo

    def update_repo(self, repo_id: RepoId, change: Callable[[Repo], Repo]) -> Repo:
        """Replace settings or refs by what `change` makes of them, under the repository's lock."""
        with self._lock(repo_id):
            repo = change(self.require(repo_id))
            self._save(repo)
        return repo

    def delete_repo(self, repo_id: RepoId) -> None:
        with self._lock(repo_id):
            (self._folder(repo_id) / "repo.json").unlink(missing_ok=True)
            shutil.rmtree(self._folder(repo_id), ignore_errors=True)

    def add_commit(self, repo_id: RepoId, branch: str, request: CommitRequest) -> Commit:
        """Put a commit on a branch. Refused 412 when the branch has moved on from the expected parent."""
        with self._lock(repo_id):
            repo = self.require(repo_id)
            if branch not in repo.branches:
                raise _no_revision(branch)
            head = self._read_commit(repo_id, repo.branches[branch])
            if not head.id.startswith(request.expected_parent):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            commit = self._write_commit(repo_id, request, head)
            self._save(replace(repo, branches={**repo.branches, branch: commit.id}))
        return commit

    def commit_at(self, repo: Repo, revision: str) -> Commit:
        """The commit a branch, tag, commit id or its first 7 digits or more names."""
        commit_id = repo.branches.get(revision) or repo.tags.get(revision)
        if commit_id is None and _COMMIT_PREFIX.fullmatch(revision):
            found = list((self._folder(repo.id) / "commits").glob(f"{revision}*.json"))
            commit_id = found[0].stem if len(found) == 1 else None
        if commit_id is None:
            raise _no_revision(revision)
        return self._read_commit(repo.id, commit_id)

    def history(self, repo: Repo, revision: str) -> Iterator[Commit]:
        """The commit at `revision` and its ancestors, newest first."""
        commit = self.commit_at(repo, revision)
        yield commit
        while commit.parent is not None:
            commit = self._read_commit(repo.id, commit.parent)
            yield commit

    def create_ref(self, repo_id: RepoId, group: RefGroup, name: str, revision: str) -> None:
        """Name the commit at `revision`. Refused 409 when the name is taken."""
        if not _REF_NAME.fullmatch(name) or _COMMIT_PREFIX.fullmatch(name):
            raise Refused(400, f"Invalid reference name {name!r}.")

        def added(repo: Repo) -> Repo:
            if name in repo.branches or name in repo.tags:
                raise Refused(409, f"Reference already exists: {name}")
            names = {**getattr(repo, group), name: self.commit_at(repo, revision).id}
            return _with_refs(repo, group, names)

        self.update_repo(repo_id, added)

    def delete_ref(self, repo_id: RepoId, group: RefGroup, name: str) -> None:
        def removed(repo: Repo) -> Repo:
            names = getattr(repo, group)
            if name == "main" and group == "branches":
                raise Refused(403, "The branch 'main' cannot be deleted.")
            if name not in names:
                raise _no_revision(name)
            return _with_refs(repo, group, {key: value for key, value in names.items() if key != name})

        self.update_repo(repo_id, removed)

    def require(self, repo_id: RepoId) -> Repo:
        """The repository, whoever asks."""
        repo = self._load(repo_id)
        if repo is None:
            raise Refused(404, "Repository not found", code="RepoNotFound")
        return repo

    def blob_path(self, repo_id: RepoId, sha256: str) -> Path:
        return self._folder(repo_id) / "blobs" / sha256

    def receive(self, repo_id: RepoId) -> BlobWriter:
        return BlobWriter(self._folder(repo_id) / "blobs")

    def _folder(self, repo_id: RepoId) -> Path:
        return self.root.joinpath(*repo_id)

    def _lock(self, repo_id: RepoId) -> threading.Lock:
        return self._locks.setdefault(repo_id, threading.Lock())

    def _load(self, repo_id: RepoId) -> Repo | None:
        if not repo_id.is_valid:
            return None
        try:
            value = json.loads((self._folder(repo_id) / "repo.json").read_bytes())
        except FileNotFoundError:
            return None
        return Repo(**{**value, "id": repo_id})

    def _save(self, repo: Repo) -> None:
        _write_whole(self._folder(repo.id) / "repo.json", json.dumps(asdict(repo), indent=1).encode())

    def _read_commit(self, repo_id: RepoId, commit_id: str) -> Commit:
        return _read_manifest(self._folder(repo_id) / "commits" / f"{commit_id}.json")

    def _write_commit(self, repo_id: RepoId, request: CommitRequest, parent: Commit | None) -> Commit:
        date = datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        commit = new_commit(request, parent, date)
        _write_whole(self._folder(repo_id) / "commits" / f"{commit.id}.json", commit.manifest)
        return commit


def _with_refs(repo: Repo, group: RefGroup, names: Mapping[str, str]) -> Repo:
    return replace(repo, branches=names) if group == "branches" else replace(repo, tags=names)


def _no_revision(revision: str) -> Refused:
    return Refused(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


@lru_cache(maxsize=256)
def _read_manifest(path: Path) -> Commit:
    return Commit.from_manifest(path.read_bytes())


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    part.write_bytes(content)
    part.replace(path)
