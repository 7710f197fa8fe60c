"""Uploads to the simulated Hub: large files, conflicts, restarts, faults, and what never reaches the disk."""

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hub_server import ALICE, HTTP, SCOPED, STRANGER, USERS, Hub, Server, point_client_at, running_server
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError

from infra.simulator.hub_commit import Refused
from infra.simulator.hub_store import HubStore

# httpx2 deprecates how huggingface_hub 2.4 hands it the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

MB = 1_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    point_client_at(server.url, tmp_path / "client", monkeypatch)
    hub = server.serve(HubStore(tmp_path / "hub", USERS))
    hub.alice.create_repo("demo/adapter", private=True)
    return hub


def content_of(size: int, seed: int = 0) -> bytes:
    block = hashlib.sha512(b"%d" % seed).digest()
    return (block * (size // len(block) + 1))[:size]


def batch(hub: Hub, content: bytes, token: str = ALICE) -> httpx.Response:
    objects = [{"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}]
    body = {"operation": "upload", "transfers": ["basic"], "objects": objects, "hash_algo": "sha256"}
    headers = {"Authorization": f"Bearer {token}"}
    return hub.request("POST", "/demo/adapter.git/info/lfs/objects/batch", json=body, headers=headers)


def upload_url(hub: Hub, content: bytes) -> str:
    return str(batch(hub, content).json()["objects"][0]["actions"]["upload"]["href"])


def commit_lfs(hub: Hub, path: str, content: bytes) -> httpx.Response:
    value = {"path": path, "algo": "sha256", "oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    lines = [{"key": "header", "value": {"summary": "large"}}, {"key": "lfsFile", "value": value}]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    return hub.request("POST", "/api/models/demo/adapter/commit/main", content=body)


def files_on_disk(hub: Hub) -> list[Path]:
    return [path for path in hub.store.root.rglob("*") if path.is_file()]


def test_a_folder_uploads_as_one_commit_and_comes_back_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    (folder / "logs").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Adapter\n")
    (folder / "adapter_model.safetensors").write_bytes(content_of(12 * MB))
    (folder / "vocab.json").write_bytes(b" " * (11 * 1024 * 1024))
    (folder / "logs" / "empty.txt").write_bytes(b"")
    info = hub.alice.upload_folder(repo_id="demo/adapter", folder_path=folder, commit_message="a run")
    titles = [commit.title for commit in hub.alice.list_repo_commits("demo/adapter")]
    assert titles == ["a run", "initial commit"]
    got = Path(hub.alice.snapshot_download("demo/adapter", revision=info.oid, cache_dir=tmp_path / "cache"))
    sent = [path for path in folder.rglob("*") if path.is_file()]
    assert len(sent) == 4
    for path in sent:
        assert _sha256(got / path.relative_to(folder)) == _sha256(path)
    paths = ["adapter_model.safetensors", "vocab.json", "README.md"]
    listed = {entry.path: entry.lfs for entry in hub.alice.get_paths_info("demo/adapter", paths)}
    assert listed["adapter_model.safetensors"].sha256 == _sha256(folder / "adapter_model.safetensors")
    assert listed["vocab.json"] is not None, "text of 10 MiB and more is LFS"
    assert listed["README.md"] is None


def test_the_same_folder_again_sends_nothing_and_makes_no_commit(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content_of(5000))
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    once = hub.alice.upload_folder(repo_id="demo/adapter", folder_path=tmp_path, allow_patterns=["w.*", "a.txt"])
    hub.store.set_fault("hub_upload_down", 100)
    again = hub.alice.upload_folder(repo_id="demo/adapter", folder_path=tmp_path, allow_patterns=["w.*", "a.txt"])
    assert again.oid == once.oid
    assert "actions" not in batch(hub, content_of(5000)).json()["objects"][0]


@pytest.mark.parametrize("wrong", [b"other bytes of a length", b"short", b"longer than what was announced"])
def test_bytes_other_than_the_announced_ones_are_refused(hub: Hub, wrong: bytes) -> None:
    content = b"these bytes of a length"
    before = files_on_disk(hub)
    assert HTTP.put(upload_url(hub, content), content=wrong).status_code == 400
    assert files_on_disk(hub) == before
    assert commit_lfs(hub, "w.bin", content).status_code == 400
    verify = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    assert hub.request("POST", "/demo/adapter.git/info/lfs/objects/verify", json=verify).status_code == 404
    assert HTTP.put(upload_url(hub, content), content=content).status_code == 200
    assert hub.request("POST", "/demo/adapter.git/info/lfs/objects/verify", json=verify).status_code == 200
    assert commit_lfs(hub, "w.bin", content).status_code == 200


def test_an_upload_url_is_good_for_one_object_one_repository_and_one_hour(server: Server, tmp_path: Path) -> None:
    now = [1_000_000.0]
    content, other = b"one object", b"another one"
    hub = server.serve(HubStore(tmp_path, USERS, clock=lambda: now[0]))
    hub.alice.create_repo("demo/adapter")
    hub.alice.create_repo("alice/elsewhere")
    url = upload_url(hub, content)
    sha256, other_sha256 = (hashlib.sha256(value).hexdigest() for value in (content, other))
    for forged in (
        url.replace(sha256, other_sha256),
        url.replace("demo/adapter", "alice/elsewhere"),
        url.replace("expires=100", "expires=900"),
        url.split("?")[0],
    ):
        assert forged != url
        assert HTTP.put(forged, content=content).status_code == 403
    now[0] += 3601
    assert HTTP.put(url, content=content).status_code == 403
    url = upload_url(hub, content)
    assert HTTP.put(url, content=content).status_code == 200
    hub.alice.delete_repo("demo/adapter")
    assert HTTP.put(url, content=content).status_code == 404


def test_only_a_token_that_may_write_gets_an_upload_url(hub: Hub) -> None:
    assert batch(hub, b"x", STRANGER).status_code == 404
    assert batch(hub, b"x", SCOPED).status_code == 200


def test_an_object_of_one_repository_is_unknown_in_another(hub: Hub) -> None:
    content = b"secret weights"
    HTTP.put(upload_url(hub, content), content=content)
    hub.api(STRANGER).create_repo("stranger/copy")
    value = {"path": "w.bin", "algo": "sha256", "oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    lines = [{"key": "header", "value": {"summary": "take"}}, {"key": "lfsFile", "value": value}]
    answer = hub.request(
        "POST",
        "/api/models/stranger/copy/commit/main",
        content="\n".join(map(json.dumps, lines)),
        headers={"Authorization": f"Bearer {STRANGER}"},
    )
    assert (answer.status_code, "does not exist" in answer.text) == (400, True)


def test_a_commit_on_a_stale_parent_is_refused_and_changes_nothing(hub: Hub) -> None:
    base = hub.alice.model_info("demo/adapter").sha
    assert base is not None
    hub.alice.create_commit("demo/adapter", [CommitOperationAdd("a.txt", b"first")], commit_message="1")
    with pytest.raises(HfHubHTTPError) as refused:
        late = [CommitOperationAdd("b.txt", b"late")]
        hub.alice.create_commit("demo/adapter", late, commit_message="2", parent_commit=base)
    assert refused.value.response.status_code == 412
    assert "b.txt" not in hub.alice.list_repo_files("demo/adapter")


def test_of_concurrent_commits_on_one_parent_exactly_one_is_made(hub: Hub) -> None:
    base = hub.alice.model_info("demo/adapter").sha

    def attempt(number: int) -> int:
        operation = [CommitOperationAdd(f"{number}.txt", b"%d" % number)]
        try:
            hub.alice.create_commit("demo/adapter", operation, commit_message=str(number), parent_commit=base)
        except HfHubHTTPError as refused:
            return int(refused.response.status_code)
        return 200

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == [200, 412, 412, 412]
    assert len(hub.alice.list_repo_commits("demo/adapter")) == 2


def test_concurrent_commits_without_a_parent_all_arrive(hub: Hub) -> None:
    def attempt(number: int) -> None:
        operation = [CommitOperationAdd(f"{number}.txt", b"%d" % number)]
        hub.alice.create_commit("demo/adapter", operation, commit_message=str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, range(12)))
    assert len(hub.alice.list_repo_files("demo/adapter")) == 13
    assert len(hub.alice.list_repo_commits("demo/adapter")) == 13


def test_everything_outlives_a_restart_even_an_upload_that_has_begun(server: Server, tmp_path: Path) -> None:
    content = content_of(200_000)
    root = tmp_path / "hub"
    before = server.serve(HubStore(root, USERS))
    before.alice.create_repo("demo/adapter", private=True)
    first = before.alice.upload_file(path_or_fileobj=b"one", path_in_repo="a.txt", repo_id="demo/adapter").oid
    before.alice.create_tag("demo/adapter", tag="v1")
    url = upload_url(before, content)
    left = root / "models" / "demo" / "adapter" / "blobs" / "0123456789abcdef.part"
    left.write_bytes(b"half an upload")

    after = server.serve(HubStore(root, USERS))
    assert not left.exists()
    assert HTTP.put(url, content=content).status_code == 200
    assert commit_lfs(after, "w.bin", content).status_code == 200
    info = after.alice.model_info("demo/adapter", revision="v1")
    assert (info.sha, info.private) == (first, True)
    assert after.request("GET", "/demo/adapter/resolve/main/w.bin").content == content
    assert after.request("GET", f"/demo/adapter/resolve/{first}/a.txt").content == b"one"


def test_no_token_reaches_the_disk(hub: Hub) -> None:
    for token in USERS:
        hub.api(token).whoami()
    hub.alice.upload_file(path_or_fileobj=content_of(5000), path_in_repo="w.bin", repo_id="demo/adapter")
    written = files_on_disk(hub)
    assert len(written) >= 5
    for path in written:
        assert b"canary-secret" not in path.read_bytes()
        assert "canary-secret" not in str(path)


def test_a_large_upload_and_download_do_not_pass_through_memory(hub: Hub) -> None:
    piece, count = content_of(MB), 40
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)
    objects = [{"oid": digest.hexdigest(), "size": MB * count}]
    body = {"operation": "upload", "objects": objects}
    answer = hub.request("POST", "/demo/adapter.git/info/lfs/objects/batch", json=body).json()
    url = answer["objects"][0]["actions"]["upload"]["href"]
    tracemalloc.start()
    try:
        assert HTTP.put(url, content=(piece for _ in range(count))).status_code == 200
        commit = {"path": "w.bin", "algo": "sha256", "oid": digest.hexdigest()}
        lines = [{"key": "header", "value": {"summary": "large"}}, {"key": "lfsFile", "value": commit}]
        hub.request("POST", "/api/models/demo/adapter/commit/main", content="\n".join(map(json.dumps, lines)))
        got = hashlib.sha256()
        headers = {"Authorization": f"Bearer {ALICE}"}
        with HTTP.stream("GET", f"{hub.url}/demo/adapter/resolve/main/w.bin", headers=headers) as stream:
            for chunk in stream.iter_bytes():
                got.update(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.hexdigest() == digest.hexdigest()
    assert peak < 20 * MB


def test_the_hub_being_down_passes_and_the_client_retries(hub: Hub) -> None:
    hub.store.set_fault("hub_down", 2)
    assert hub.request("GET", "/api/whoami-v2").status_code == 503
    assert [entry.path for entry in hub.alice.list_repo_tree("demo/adapter")] == [".gitattributes"]
    hub.store.set_fault("hub_down", 5)
    hub.store.set_fault("hub_down", 0)
    assert hub.request("GET", "/api/whoami-v2").status_code == 200


@pytest.mark.parametrize("fault", ["hub_upload_down", "hub_upload_cut"])
def test_a_failed_transfer_is_sent_again_and_arrives_whole(hub: Hub, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content_of(3 * MB))
    hub.store.set_fault(fault, 1)
    hub.alice.upload_file(path_or_fileobj=path, path_in_repo="w.safetensors", repo_id="demo/adapter")
    assert not hub.store.take_fault(fault)
    assert hub.request("GET", "/demo/adapter/resolve/main/w.safetensors").content == path.read_bytes()
    assert not list(hub.store.root.rglob("*.part"))


def test_a_commit_that_fails_leaves_the_branch_where_it_was(hub: Hub) -> None:
    hub.store.set_fault("hub_upload_down", 1)
    with pytest.raises(HfHubHTTPError) as refused:
        hub.alice.upload_file(path_or_fileobj=b"text", path_in_repo="a.txt", repo_id="demo/adapter")
    assert refused.value.response.status_code == 503
    assert hub.alice.list_repo_files("demo/adapter") == [".gitattributes"]


def test_a_lost_answer_hides_a_commit_that_was_made(hub: Hub) -> None:
    hub.store.set_fault("hub_commit_lost", 1)
    with pytest.raises(Exception, match=r"disconnected|incomplete|peer closed"):
        hub.alice.upload_file(path_or_fileobj=b"text", path_in_repo="a.txt", repo_id="demo/adapter")
    assert "a.txt" in hub.alice.list_repo_files("demo/adapter")


def test_an_unknown_fault_is_refused(hub: Hub) -> None:
    with pytest.raises(Refused, match="hub_upload_cut"):
        hub.store.set_fault("hub_melted", 1)


def test_more_files_than_the_hub_takes_in_one_preupload_are_refused(hub: Hub) -> None:
    def preupload(count: int) -> httpx.Response:
        files = [{"path": f"{number}.txt", "sample": "", "size": 0} for number in range(count)]
        return hub.request("POST", "/api/models/demo/adapter/preupload/main", json={"files": files})

    assert preupload(257).status_code == 400
    assert preupload(256).status_code == 200


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({"key": "file", "value": {"content": "!", "path": "a", "encoding": "base64"}}, 400),
        ({"key": "file", "value": {"path": "a"}}, 400),
        ({"key": "lfsFile", "value": {"path": "a", "oid": "../../repo.json"}}, 422),
        ({"key": "lfsFile", "value": {"path": "a", "oid": "0" * 64}}, 400),
        ({"key": "renamed", "value": {}}, 400),
        ({"value": {}}, 400),
    ],
)
def test_a_malformed_commit_is_refused_with_a_reason(hub: Hub, line: dict[str, Any], status: int) -> None:
    header = {"key": "header", "value": {"summary": "x"}}
    body = f"{json.dumps(header)}\n{json.dumps(line)}\n"
    answer = hub.request("POST", "/api/models/demo/adapter/commit/main", content=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert hub.request("POST", "/api/models/demo/adapter/commit/main", content="not json\n").status_code == 400
    assert hub.request("POST", "/api/models/demo/adapter/commit/main", content="").status_code == 400


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
