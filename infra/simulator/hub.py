"""The Hugging Face Hub on loopback: the endpoints an unmodified huggingface_hub uses with HF_ENDPOINT and
HF_HUB_DISABLE_XET=1 (wire shapes observed with huggingface_hub 2.4.0).

Models and datasets. Not served: spaces, Xet, pull requests, git remotes, bare repository names, search.
"""

import hashlib
from dataclasses import replace
from mimetypes import guess_type
from typing import Any
from urllib.parse import parse_qs

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from infra.simulator.hub_access import Kind, RepoId, no_repo
from infra.simulator.hub_commit import Commit, Refused, paths_info, tree
from infra.simulator.hub_http import Call, Handler, endpoint, field, refusal
from infra.simulator.hub_store import HubStore
from infra.simulator.hub_upload import commit, lfs_batch, lfs_put, lfs_verify, preupload

MAX_TREE_PAGE = 1000

_REPO = "/{namespace}/{name}"
_KINDS: tuple[Kind, ...] = ("models", "datasets")


def hub_routes(store: HubStore) -> list[BaseRoute]:
    """Every Hub route over one store; mount them at the root of an app, after its own."""
    routes: list[BaseRoute] = []

    def add(path: str, handler: Handler, *methods: str, kind: Kind | None = None) -> None:
        served = endpoint(store, handler, kind)
        routes.append(Route(path, served, methods=list(methods or ("GET",)), include_in_schema=False))

    add("/api/whoami-v2", whoami)
    add("/api/validate-yaml", validate_yaml, "POST")
    add("/api/repos/create", create_repo, "POST")
    add("/api/repos/delete", delete_repo, "DELETE")
    add("/_lfs/{kind}/{namespace}/{name}/{oid}", lfs_put, "PUT")
    for kind in _KINDS:
        api, page = f"/api/{kind}{_REPO}", _REPO if kind == "models" else f"/{kind}{_REPO}"
        add(f"{page}.git/info/lfs/objects/batch", lfs_batch, "POST", kind=kind)
        add(f"{page}.git/info/lfs/objects/verify", lfs_verify, "POST", kind=kind)
        add(f"{page}/resolve/{{rest:path}}", resolve, "GET", "HEAD", kind=kind)
        add(api, repo_info, kind=kind)
        add(f"{api}/revision/{{revision:path}}", repo_info, kind=kind)
        add(f"{api}/settings", update_settings, "PUT", kind=kind)
        add(f"{api}/auth-check", auth_check, kind=kind)
        add(f"{api}/auth-check/write", auth_check, kind=kind)
        add(f"{api}/refs", list_refs, kind=kind)
        add(f"{api}/commits/{{revision:path}}", list_commits, kind=kind)
        add(f"{api}/tree/{{rest:path}}", list_tree, kind=kind)
        add(f"{api}/paths-info/{{revision:path}}", list_paths, "POST", kind=kind)
        add(f"{api}/branch/{{ref:path}}", change_branch, "POST", "DELETE", kind=kind)
        add(f"{api}/tag/{{ref:path}}", change_tag, "POST", "DELETE", kind=kind)
        add(f"{api}/preupload/{{revision:path}}", preupload, "POST", kind=kind)
        add(f"{api}/commit/{{revision:path}}", commit, "POST", kind=kind)
        add(f"{api}/{{rest:path}}", not_served, "GET", "POST", "PUT", "DELETE", kind=kind)
        add(f"/api/{kind}/{{name}}", bare_name, kind=kind)
    add("/{name}/resolve/{rest:path}", bare_name, "GET", "HEAD")
    return routes


def whoami(call: Call) -> Response:
    user = call.user
    if user is None:
        raise Refused(401, "Invalid username or password.")
    access: dict[str, Any] = {"displayName": "simulator", "role": user.role}
    if user.repos is not None:
        scoped = [{"entity": {"name": name}, "permissions": ["repo.content.read", "repo.write"]} for name in user.repos]
        access |= {"role": "fineGrained", "fineGrained": {"global": [], "scoped": scoped}}
    return JSONResponse(
        {
            "type": "user",
            "id": _object_id(user.name),
            "name": user.name,
            "fullname": user.name,
            "orgs": [{"type": "org", "id": _object_id(org), "name": org, "fullname": org} for org in user.orgs],
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


def validate_yaml(call: Call) -> Response:
    """Whether a README's metadata block is YAML; a README without one gets a warning, as on the Hub."""
    content = field(call.json(), "content", str).replace("\r\n", "\n")
    if not content.startswith("---\n") or "\n---" not in content[3:]:
        warning = {"message": "empty or missing yaml metadata in repo card"}
        return JSONResponse({"errors": [], "warnings": [warning]})
    try:
        YAML(typ="safe", pure=True).load(content[4:].split("\n---", 1)[0])
    except YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, status_code=400)
    return JSONResponse({"errors": [], "warnings": []})


def create_repo(call: Call) -> Response:
    body = call.json()
    repo_id = _named_repo(call, body)
    private = body.get("visibility") == "private" or body.get("private") is True
    url = f"{call.base_url}/{repo_id.url_path}"
    try:
        call.store.create_repo(repo_id, call.user, private=private)
    except Refused as refused:
        if refused.status != 409:
            raise
        return JSONResponse({"error": str(refused), "url": url}, status_code=409)
    return JSONResponse({"url": url, "name": repo_id.full_name, "id": _object_id(repo_id.url_path)})


def delete_repo(call: Call) -> Response:
    repo_id = _named_repo(call, call.json())
    call.store.open(repo_id, call.user, write=True)
    call.store.delete_repo(repo_id)
    return JSONResponse({})


def update_settings(call: Call) -> Response:
    body = call.json()
    changes: dict[str, Any] = {}
    if "visibility" in body or "private" in body:
        changes["private"] = body.get("visibility") == "private" or body.get("private") is True
    if "gated" in body:
        if body["gated"] not in ("auto", "manual", False):
            raise Refused(400, "'gated' is auto, manual or false.")
        changes["gated"] = body["gated"]
    call.store.open(call.repo_id, call.user, write=True)
    call.store.update_repo(call.repo_id, lambda repo: replace(repo, **changes))
    return JSONResponse(changes)


def repo_info(call: Call) -> Response:
    repo = call.store.open(call.repo_id, call.user)
    at = call.store.commit_at(repo, call.revision)
    with_blobs = call.request.query_params.get("blobs", "").lower() in ("1", "true")
    info = {
        "_id": _object_id(repo.id.url_path),
        "id": repo.id.full_name,
        "author": repo.id.namespace,
        "sha": at.id,
        "createdAt": repo.created_at,
        "lastModified": at.date,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [_sibling(at, path, with_blobs) for path in sorted(at.files)],
    }
    return JSONResponse(info | ({"modelId": repo.id.full_name} if repo.id.kind == "models" else {}))


def auth_check(call: Call) -> Response:
    repo = call.store.open_content(call.repo_id, call.user)
    if call.request.url.path.endswith("/write"):
        call.store.open(repo.id, call.user, write=True)
    return JSONResponse({})


def list_refs(call: Call) -> Response:
    repo = call.store.open(call.repo_id, call.user)
    groups = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags), "converts": ("convert", {})}
    answer: dict[str, Any] = {
        group: [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": at} for name, at in sorted(refs.items())]
        for group, (folder, refs) in groups.items()
    }
    return JSONResponse(answer | {"pullRequests": []})


def list_commits(call: Call) -> Response:
    repo = call.store.open(call.repo_id, call.user)
    commits = [
        {"id": at.id, "title": at.title, "message": at.message, "date": at.date, "authors": [{"user": at.author}]}
        for at in call.store.history(repo, call.revision)
    ]
    return JSONResponse(commits)


def list_tree(call: Call) -> Response:
    """One page; `Link: <…>; rel="next"` names the next."""
    repo = call.store.open(call.repo_id, call.user)
    revision, folder = call.revision_and_path()
    query = call.request.query_params
    at = call.store.commit_at(repo, revision)
    entries = tree(at.files, folder.strip("/"), recursive=query.get("recursive", "").lower() in ("1", "true"))
    limit = min(_positive(query.get("limit"), MAX_TREE_PAGE), MAX_TREE_PAGE)
    start = _positive(query.get("cursor"), 0)
    headers = {}
    if start + limit < len(entries):
        following = call.request.url.include_query_params(cursor=start + limit)
        headers["Link"] = f'<{following}>; rel="next"'
    return JSONResponse(entries[start : start + limit], headers=headers)


def list_paths(call: Call) -> Response:
    """The form holds `paths` once or more; paths that do not exist are left out."""
    repo = call.store.open(call.repo_id, call.user)
    paths = parse_qs(call.body.decode("utf-8", "replace")).get("paths", [])
    return JSONResponse(paths_info(call.store.commit_at(repo, call.revision).files, paths))


def change_branch(call: Call) -> Response:
    call.store.open(call.repo_id, call.user, write=True)
    name = call.request.path_params["ref"]
    if call.request.method == "DELETE":
        call.store.delete_ref(call.repo_id, "branches", name)
    else:
        call.store.create_ref(call.repo_id, "branches", name, str(call.json().get("startingPoint", "main")))
    return JSONResponse({})


def change_tag(call: Call) -> Response:
    """POST names the revision to tag in the URL, DELETE the tag."""
    call.store.open(call.repo_id, call.user, write=True)
    name = call.request.path_params["ref"]
    if call.request.method == "DELETE":
        call.store.delete_ref(call.repo_id, "tags", name)
    else:
        call.store.create_ref(call.repo_id, "tags", field(call.json(), "tag", str), name)
    return JSONResponse({})


def resolve(call: Call) -> Response:
    """The bytes of a file at a revision, whole or a range; sent from disk piece by piece."""
    repo = call.store.open_content(call.repo_id, call.user)
    revision, path = call.revision_and_path()
    at = call.store.commit_at(repo, revision)
    headers = {"X-Repo-Commit": at.id}
    file = at.files.get(path)
    if file is None:
        return refusal(Refused(404, "Entry not found", code="EntryNotFound"), headers)
    headers["ETag"] = f'"{file.etag}"'
    if file.is_lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    media_type = guess_type(path)[0] or "application/octet-stream"
    return _Blob(call.store.blob_path(repo.id, file.sha256), headers=headers, media_type=media_type)


def not_served(call: Call) -> Response:
    """What the Hub has and this does not, Xet tokens among them; a repository that is not there says so first."""
    call.store.open(call.repo_id, call.user)
    raise Refused(404, "Sorry, we can't find the page you are looking for.")


def bare_name(call: Call) -> Response:
    raise no_repo(call.user)


class _Blob(FileResponse):
    chunk_size = 1024 * 1024


def _named_repo(call: Call, body: dict[str, Any]) -> RepoId:
    """The repository a create or delete names; the user's own namespace unless an organization is given."""
    kind = f"{body.get('type') or 'model'}s"
    if kind not in _KINDS:
        raise Refused(400, f"Repositories of type {body.get('type')!r} are not served.")
    if call.user is None:
        raise Refused(401, "Invalid username or password.")
    return RepoId(kind, str(body.get("organization") or call.user.name), field(body, "name", str))


def _sibling(at: Commit, path: str, with_blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": path}
    if with_blobs:
        [entry] = paths_info(at.files, [path])
        sibling |= {"size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            sibling["lfs"] = {**entry["lfs"], "sha256": entry["lfs"]["oid"]}
    return sibling


def _positive(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and int(text) > 0 else default


def _object_id(name: str) -> str:
    """24 hex digits, as the Hub names its objects; here a function of the name."""
    return hashlib.sha1(name.encode()).hexdigest()[:24]
