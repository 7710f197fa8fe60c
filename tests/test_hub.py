"""The simulated Hub against an unmodified huggingface_hub: repositories, uploads, downloads, refusals."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from huggingface_hub import HfApi, constants
from starlette.applications import Starlette

from infra.simulator.hub import hub_routes
from infra.simulator.hub_store import HubStore, HubUser

ALICE, READER, STRANGER, SCOPED = (f"canary-secret-{who}-token" for who in ("alice", "reader", "stranger", "scoped"))
USERS = {
    ALICE: HubUser("alice", ("demo",)),
    READER: HubUser("rita", ("demo",), "read"),
    STRANGER: HubUser("stranger"),
    SCOPED: HubUser("alice", ("demo",), "write", ("demo/adapter",)),
}
_URL_TEMPLATE = constants.HUGGINGFACE_CO_URL_TEMPLATE


class Hub:
    """A served store and clients for it."""

    def __init__(self, store: HubStore, url: str) -> None:
        self.store = store
        self.url = url
        self.alice = self.api(ALICE)

    def api(self, token: str | bool) -> HfApi:
        return HfApi(endpoint=self.url, token=token)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {ALICE}", **headers}, timeout=30)


@contextmanager
def serving(store: HubStore) -> Iterator[Hub]:
    """A real server in a thread on a free port; it is gone when the block is left."""
    config = uvicorn.Config(Starlette(routes=hub_routes(store)), host="127.0.0.1", port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Hub(store, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(HubStore(tmp_path / "hub", USERS)) as hub:
        # The client reads these at import, from the environment of whoever runs the tests.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", _URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        )
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "AGENT_HARNESSES_PATH"):
            monkeypatch.setattr(constants, name, str(tmp_path / "client" / name))
        yield hub


def test_a_folder_uploads_as_one_commit_and_comes_back_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    (folder / "logs").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Adapter\n")
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 400)
    (folder / "logs" / "empty.txt").write_bytes(b"")
    hub.alice.create_repo("demo/adapter", private=True)
    info = hub.alice.upload_folder(repo_id="demo/adapter", folder_path=folder, commit_message="a run")
    assert [commit.title for commit in hub.alice.list_repo_commits("demo/adapter")] == ["a run", "initial commit"]
    got = Path(hub.alice.snapshot_download("demo/adapter", revision=info.oid, cache_dir=tmp_path / "cache"))
    for path in folder.rglob("*.*"):
        assert (got / path.relative_to(folder)).read_bytes() == path.read_bytes()
