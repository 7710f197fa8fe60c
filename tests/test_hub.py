"""The simulated Hub against an unmodified huggingface_hub: repositories, revisions, reading, refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import ALICE, READER, SCOPED, STRANGER, USERS, Hub, Server, point_client_at, running_server
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, HfFileSystem
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from infra.simulator.hub_store import HubStore

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    point_client_at(server.url, tmp_path / "client", monkeypatch)
    return server.serve(HubStore(tmp_path / "hub", USERS))


def put(api: HfApi, repo_id: str, files: dict[str, bytes], **options: Any) -> str:
    """Commits the files; the id of the commit."""
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return str(api.create_commit(repo_id, operations, commit_message="files", **options).oid)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return int(error.value.response.status_code)


def test_whoami_names_the_user_the_organizations_and_the_role(hub: Hub) -> None:
    me = hub.alice.whoami()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("alice", ["demo"])
    assert me["auth"]["accessToken"]["role"] == "write"
    assert hub.api(READER).whoami()["auth"]["accessToken"]["role"] == "read"
    scoped = hub.api(SCOPED).whoami()["auth"]["accessToken"]
    assert scoped["role"] == "fineGrained"
    assert scoped["fineGrained"]["scoped"][0]["entity"]["name"] == "demo/adapter"


def test_an_unknown_token_is_refused_even_where_none_is_needed(hub: Hub) -> None:
    hub.alice.create_repo("demo/open")
    wrong = hub.api("canary-secret-unknown-token")
    with pytest.raises(HfHubHTTPError) as refused:
        wrong.whoami()
    assert status_of(refused) == 401
    with pytest.raises(HfHubHTTPError) as refused:
        wrong.model_info("demo/open")
    assert status_of(refused) == 401
    assert hub.api(False).model_info("demo/open").id == "demo/open"


def test_a_repository_is_created_once_in_a_namespace_of_ones_own(hub: Hub) -> None:
    url = hub.alice.create_repo("demo/adapter", private=True)
    assert (url.repo_id, url.repo_type, str(url)) == ("demo/adapter", "model", f"{hub.url}/demo/adapter")
    assert hub.alice.create_repo("demo/adapter", exist_ok=True).repo_id == "demo/adapter"
    with pytest.raises(HfHubHTTPError) as refused:
        hub.alice.create_repo("demo/adapter")
    assert status_of(refused) == 409
    assert hub.alice.create_repo("notes").repo_id == "alice/notes"
    for api, repo_id in ((hub.alice, "stranger/x"), (hub.api(READER), "demo/x"), (hub.api(STRANGER), "demo/x")):
        with pytest.raises(HfHubHTTPError) as refused:
            api.create_repo(repo_id)
        assert status_of(refused) == 403
    with pytest.raises(HfHubHTTPError) as refused:
        hub.alice.create_repo("demo/app", repo_type="space", space_sdk="static")
    assert status_of(refused) == 400


def test_models_and_datasets_of_one_name_are_two_repositories(hub: Hub) -> None:
    hub.alice.create_repo("demo/same")
    assert str(hub.alice.create_repo("demo/same", repo_type="dataset")) == f"{hub.url}/datasets/demo/same"
    put(hub.alice, "demo/same", {"rows.jsonl": b"{}\n"}, repo_type="dataset")
    assert hub.alice.list_repo_files("demo/same") == [".gitattributes"]
    assert hub.alice.list_repo_files("demo/same", repo_type="dataset") == [".gitattributes", "rows.jsonl"]
    hub.alice.delete_repo("demo/same")
    assert not hub.alice.repo_exists("demo/same")
    assert hub.alice.repo_exists("demo/same", repo_type="dataset")


def test_a_deleted_repository_is_gone_from_the_disk_and_can_be_created_again(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    put(hub.alice, "demo/adapter", {"a.txt": b"gone soon"})
    with pytest.raises(HfHubHTTPError) as refused:
        hub.api(READER).delete_repo("demo/adapter")
    assert status_of(refused) == 403
    hub.alice.delete_repo("demo/adapter")
    assert not any(path.is_file() for path in hub.store.root.rglob("*"))
    with pytest.raises(RepositoryNotFoundError):
        hub.alice.delete_repo("demo/adapter")
    hub.alice.delete_repo("demo/adapter", missing_ok=True)
    hub.alice.create_repo("demo/adapter")
    assert hub.alice.list_repo_files("demo/adapter") == [".gitattributes"]


def test_a_private_repository_does_not_exist_for_strangers(hub: Hub, tmp_path: Path) -> None:
    hub.alice.create_repo("demo/adapter", private=True)
    put(hub.alice, "demo/adapter", {"a.txt": b"private"})
    for outsider in (hub.api(STRANGER), hub.api(False)):
        for attempt in (
            lambda api=outsider: api.model_info("demo/adapter"),
            lambda api=outsider: api.list_repo_files("demo/adapter"),
            lambda api=outsider: api.hf_hub_download("demo/adapter", "a.txt", cache_dir=tmp_path),
            lambda api=outsider: api.model_info("demo/never-there"),
            lambda api=outsider: put(api, "demo/adapter", {"b.txt": b"x"}),
        ):
            with pytest.raises(RepositoryNotFoundError):
                attempt()
    assert hub.api(READER).model_info("demo/adapter").private is True
    hub.alice.update_repo_settings("demo/adapter", private=False)
    assert hub.api(False).model_info("demo/adapter").private is False


def test_a_gated_repository_shows_its_files_and_keeps_their_bytes(hub: Hub, tmp_path: Path) -> None:
    hub.alice.create_repo("demo/base")
    put(hub.alice, "demo/base", {"weights.safetensors": b"\0" * 100})
    hub.alice.update_repo_settings("demo/base", gated="manual")
    for outsider, status in ((hub.api(STRANGER), 403), (hub.api(False), 401)):
        assert outsider.model_info("demo/base").gated == "manual"
        for attempt in (
            lambda api=outsider: api.hf_hub_download("demo/base", "weights.safetensors", cache_dir=tmp_path),
            lambda api=outsider: api.auth_check("demo/base"),
        ):
            with pytest.raises(GatedRepoError) as refused:
                attempt()
            assert status_of(refused) == status
    hub.api(READER).auth_check("demo/base")
    hub.alice.auth_check("demo/base", write=True)
    with pytest.raises(HfHubHTTPError) as refused:
        hub.api(READER).auth_check("demo/base", write=True)
    assert status_of(refused) == 403


def test_a_fine_grained_token_reaches_its_repositories_only(hub: Hub) -> None:
    for name in ("adapter", "other"):
        hub.alice.create_repo(f"demo/{name}", private=True)
    scoped = hub.api(SCOPED)
    scoped.create_repo("demo/adapter", private=True, exist_ok=True)
    put(scoped, "demo/adapter", {"a.txt": b"mine"})
    for attempt in (
        lambda: scoped.model_info("demo/other"),
        lambda: put(scoped, "demo/other", {"a.txt": b"x"}),
        lambda: scoped.create_repo("demo/third"),
        lambda: scoped.delete_repo("demo/other"),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            attempt()
        assert status_of(refused) == 403


def test_branches_tags_and_commits_name_what_was_there_then(hub: Hub, tmp_path: Path) -> None:
    hub.alice.create_repo("demo/adapter")
    first = put(hub.alice, "demo/adapter", {"a.txt": b"first"})
    hub.alice.create_tag("demo/adapter", tag="v1.0", tag_message="one")
    hub.alice.create_branch("demo/adapter", branch="try/warm-up", revision=first[:7])
    second = put(hub.alice, "demo/adapter", {"a.txt": b"second"})
    third = put(hub.alice, "demo/adapter", {"a.txt": b"third"}, revision="try/warm-up")
    expected = {"main": b"second", "v1.0": b"first", first: b"first", first[:9]: b"first", "try/warm-up": b"third"}
    for revision, content in expected.items():
        got = hub.alice.hf_hub_download("demo/adapter", "a.txt", revision=revision, cache_dir=tmp_path / "cache")
        assert Path(got).read_bytes() == content
    refs = hub.alice.list_repo_refs("demo/adapter")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "try/warm-up": third}
    assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.tags] == [("v1.0", "refs/tags/v1.0", first)]
    assert [commit.commit_id for commit in hub.alice.list_repo_commits("demo/adapter")][:2] == [second, first]
    assert hub.alice.list_repo_commits("demo/adapter")[0].authors == ["alice"]


def test_a_reference_is_created_once_and_main_stays(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    hub.alice.create_branch("demo/adapter", branch="next")
    hub.alice.create_branch("demo/adapter", branch="next", exist_ok=True)
    hub.alice.create_tag("demo/adapter", tag="v1")
    hub.alice.create_tag("demo/adapter", tag="v1", exist_ok=True)
    for attempt in (
        lambda: hub.alice.create_branch("demo/adapter", branch="next"),
        lambda: hub.alice.create_tag("demo/adapter", tag="v1"),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            attempt()
        assert status_of(refused) == 409
    with pytest.raises(HfHubHTTPError) as refused:
        hub.alice.delete_branch("demo/adapter", branch="main")
    assert status_of(refused) == 403
    hub.alice.delete_branch("demo/adapter", branch="next")
    hub.alice.delete_tag("demo/adapter", tag="v1")
    refs = hub.alice.list_repo_refs("demo/adapter")
    assert ([ref.name for ref in refs.branches], refs.tags) == (["main"], [])
    with pytest.raises(RevisionNotFoundError):
        hub.alice.delete_tag("demo/adapter", tag="v1")


def test_what_is_not_there_has_its_own_error(hub: Hub, tmp_path: Path) -> None:
    hub.alice.create_repo("demo/adapter")
    cache = {"cache_dir": tmp_path / "cache"}
    for revision in ("nowhere", "0" * 40, "abcdef1"):
        with pytest.raises(RevisionNotFoundError):
            hub.alice.model_info("demo/adapter", revision=revision)
        with pytest.raises(RevisionNotFoundError):
            hub.alice.hf_hub_download("demo/adapter", "a.txt", revision=revision, **cache)
        with pytest.raises(RevisionNotFoundError):
            list(hub.alice.list_repo_tree("demo/adapter", revision=revision))
        with pytest.raises(RevisionNotFoundError):
            put(hub.alice, "demo/adapter", {"a.txt": b"x"}, revision=revision)
    with pytest.raises(EntryNotFoundError):
        hub.alice.hf_hub_download("demo/adapter", "missing.txt", **cache)
    with pytest.raises(EntryNotFoundError):
        list(hub.alice.list_repo_tree("demo/adapter", "missing"))
    for missing in ("demo/never", "gpt2"):
        with pytest.raises(RepositoryNotFoundError):
            hub.alice.model_info(missing)
        with pytest.raises(RepositoryNotFoundError):
            hub.alice.hf_hub_download(missing, "config.json", **cache)
    assert not hub.alice.file_exists("demo/adapter", "missing.txt")
    assert hub.alice.file_exists("demo/adapter", ".gitattributes")


def test_the_tree_lists_folders_files_and_identities(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    put(hub.alice, "demo/adapter", {"logs/1/a.txt": b"hello\n", "logs/b.txt": b"", "w.safetensors": b"\0" * 5000})
    tree = {entry.path: entry for entry in hub.alice.list_repo_tree("demo/adapter", recursive=True)}
    assert list(tree) == [".gitattributes", "logs", "logs/1", "logs/1/a.txt", "logs/b.txt", "w.safetensors"]
    assert tree["logs/1/a.txt"].blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object, "hello\n"
    lfs = tree["w.safetensors"].lfs
    assert (lfs.size, lfs.pointer_size) == (5000, 129)
    assert [entry.path for entry in hub.alice.list_repo_tree("demo/adapter", "logs")] == ["logs/1", "logs/b.txt"]
    found = hub.alice.get_paths_info("demo/adapter", ["logs", "w.safetensors", "missing"])
    assert [(type(entry).__name__, entry.path) for entry in found] == [
        ("RepoFolder", "logs"),
        ("RepoFile", "w.safetensors"),
    ]
    sizes = {file.rfilename: file.size for file in hub.alice.model_info("demo/adapter", files_metadata=True).siblings}
    assert sizes["logs/1/a.txt"] == 6


def test_a_long_tree_comes_in_pages(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    put(hub.alice, "demo/adapter", {f"f/{number}.txt": b"x" for number in range(5)})
    page = hub.request("GET", "/api/models/demo/adapter/tree/main/f?limit=2")
    seen = [entry["path"] for entry in page.json()]
    while "next" in page.links:
        page = hub.request("GET", page.links["next"]["url"].removeprefix(hub.url))
        seen += [entry["path"] for entry in page.json()]
    assert seen == [f"f/{number}.txt" for number in range(5)]


def test_files_and_folders_are_deleted_by_a_commit(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    put(hub.alice, "demo/adapter", {"old/a.txt": b"1", "old/b/c.txt": b"2", "older.txt": b"3", "keep.txt": b"4"})
    operations = [
        CommitOperationDelete("old/"),
        CommitOperationDelete("older.txt"),
        CommitOperationAdd("new.txt", b"5"),
    ]
    hub.alice.create_commit("demo/adapter", operations, commit_message="tidy")
    assert hub.alice.list_repo_files("demo/adapter") == [".gitattributes", "keep.txt", "new.txt"]
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        hub.alice.delete_file("older.txt", "demo/adapter")


def test_ranges_and_heads_are_answered_as_the_hub_does(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    content = bytes(range(256)) * 20
    sha = put(hub.alice, "demo/adapter", {"w.safetensors": content, "a.txt": b"hello\n"})
    head = hub.request("HEAD", "/demo/adapter/resolve/main/w.safetensors")
    tree = {entry.path: entry for entry in hub.alice.list_repo_tree("demo/adapter")}
    sha256 = tree["w.safetensors"].lfs.sha256
    assert head.headers["X-Repo-Commit"] == sha
    assert head.headers["ETag"] == head.headers["X-Linked-Etag"] == f'"{sha256}"'
    assert head.headers["X-Linked-Size"] == head.headers["Content-Length"] == str(len(content))
    small = hub.request("HEAD", "/demo/adapter/resolve/main/a.txt")
    assert small.headers["ETag"] == f'"{tree["a.txt"].blob_id}"'
    assert "X-Linked-Etag" not in small.headers
    part = hub.request("GET", "/demo/adapter/resolve/main/w.safetensors", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(content)}"
    rest = hub.request("GET", "/demo/adapter/resolve/main/w.safetensors", headers={"Range": "bytes=5000-"})
    assert rest.content == content[5000:]
    beyond = hub.request("GET", "/demo/adapter/resolve/main/w.safetensors", headers={"Range": "bytes=9999-"})
    assert beyond.status_code == 416
    missing = hub.request("HEAD", "/demo/adapter/resolve/main/missing")
    assert (missing.status_code, missing.headers["X-Error-Code"]) == (404, "EntryNotFound")
    assert missing.headers["X-Repo-Commit"] == sha


def test_the_file_system_of_the_client_lists_and_reads(hub: Hub) -> None:
    hub.alice.create_repo("demo/rows", repo_type="dataset")
    put(hub.alice, "demo/rows", {"data/train.jsonl": b'{"a": 1}\n{"a": 2}\n'}, repo_type="dataset")
    files = HfFileSystem(endpoint=hub.url, token=ALICE, skip_instance_cache=True)
    assert files.glob("datasets/demo/rows/**/*.jsonl") == ["datasets/demo/rows/data/train.jsonl"]
    assert files.info("datasets/demo/rows/data/train.jsonl")["size"] == 18
    with files.open("datasets/demo/rows/data/train.jsonl", "rb") as file:
        file.seek(9)
        assert file.read() == b'{"a": 2}\n'
    assert files.cat_file("datasets/demo/rows/data/train.jsonl", start=0, end=8) == b'{"a": 1}'
    assert not files.exists("datasets/demo/rows/missing")


def test_files_are_copied_by_a_commit(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    put(hub.alice, "demo/adapter", {"w.safetensors": b"\0" * 5000, "a.txt": b"hello\n"})
    copies = [CommitOperationCopy(name, f"copies/{name}") for name in ("w.safetensors", "a.txt")]
    hub.alice.create_commit("demo/adapter", copies, commit_message="copy")
    assert hub.request("GET", "/demo/adapter/resolve/main/copies/w.safetensors").content == b"\0" * 5000
    assert hub.request("GET", "/demo/adapter/resolve/main/copies/a.txt").content == b"hello\n"


@pytest.mark.parametrize("name", ["tree", "resolve", "datasets", "main"])
def test_a_repository_may_be_called_like_a_part_of_a_url(hub: Hub, name: str) -> None:
    hub.alice.create_repo(f"demo/{name}")
    put(hub.alice, f"demo/{name}", {"tree/resolve/main/a.txt": b"deep"})
    hub.alice.create_branch(f"demo/{name}", branch="resolve/tree")
    tree = hub.alice.list_repo_tree(f"demo/{name}", "tree/resolve", revision="resolve/tree", recursive=True)
    assert [entry.path for entry in tree] == ["tree/resolve/main", "tree/resolve/main/a.txt"]
    path = hub.alice.hf_hub_download(f"demo/{name}", "tree/resolve/main/a.txt", revision="resolve/tree")
    assert Path(path).read_bytes() == b"deep"


def test_a_pull_request_is_refused_not_committed_to_main(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    with pytest.raises(HfHubHTTPError, match="Pull requests are not served"):
        put(hub.alice, "demo/adapter", {"a.txt": b"x"}, create_pr=True)
    assert hub.alice.list_repo_files("demo/adapter") == [".gitattributes"]


@pytest.mark.parametrize("path", ["../up.txt", "/etc/passwd", "a/../../b", ".git/config", "a//b", "a\\b", "n\x00"])
def test_a_commit_cannot_name_a_path_outside_the_repository(hub: Hub, path: str) -> None:
    hub.alice.create_repo("demo/adapter")
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "file", "value": {"content": "eA==", "path": path, "encoding": "base64"}},
    ]
    body = "\n".join(json.dumps(line) for line in lines)
    answer = hub.request("POST", "/api/models/demo/adapter/commit/main", content=body)
    assert answer.status_code == 400, answer.text
    assert hub.alice.list_repo_files("demo/adapter") == [".gitattributes"]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a--b", "a..b", "x.git", "-x", "a b", "", "x" * 97, "%2e%2e"])
def test_a_repository_name_cannot_become_another_folder(hub: Hub, name: str) -> None:
    answer = hub.request("POST", "/api/repos/create", json={"name": name, "organization": "demo"})
    assert answer.status_code == 400, answer.text
    assert not hub.store.root.exists()


def test_what_is_not_served_says_404(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    for path in ("/api/models/demo/adapter/xet-write-token/main", "/api/models/demo/adapter/discussions"):
        answer = hub.request("GET", path)
        assert answer.status_code == 404
        assert "X-Error-Code" not in answer.headers


def test_a_readme_with_broken_metadata_is_refused_before_anything_is_sent(hub: Hub) -> None:
    hub.alice.create_repo("demo/adapter")
    with pytest.raises(ValueError, match="Invalid metadata"):
        put(hub.alice, "demo/adapter", {"README.md": b"---\ntags: [a, b\n---\n# Card\n"})
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        put(hub.alice, "demo/adapter", {"README.md": b"# Card\n"})
