"""A simulated Hub behind a real server, and clients for it."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from huggingface_hub import HfApi, constants
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from infra.simulator.hub import hub_routes
from infra.simulator.hub_access import HubUser
from infra.simulator.hub_store import HubStore

ALICE, READER, STRANGER, SCOPED = (f"canary-secret-{who}-token" for who in ("alice", "reader", "stranger", "scoped"))
USERS = {
    ALICE: HubUser("alice", ("demo",)),
    READER: HubUser("rita", ("demo",), "read"),
    STRANGER: HubUser("stranger"),
    SCOPED: HubUser("alice", ("demo",), "write", ("demo/adapter",)),
}

# Plain HTTP on loopback: loading certificates takes 0.1 s.
HTTP = httpx.Client(timeout=150, trust_env=False, verify=False)

_URL_TEMPLATE = constants.HUGGINGFACE_CO_URL_TEMPLATE
_ENDPOINT = constants.ENDPOINT


class Hub:
    """A served store. `alice` may write to the namespaces alice and demo."""

    def __init__(self, store: HubStore, url: str) -> None:
        self.store = store
        self.url = url
        self.alice = self.api(ALICE)

    def api(self, token: str | bool) -> HfApi:
        return HfApi(endpoint=self.url, token=token)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {ALICE}", **options.pop("headers", {})}
        return HTTP.request(method, self.url + path, headers=headers, **options)


class Server:
    """A server whose store can be exchanged while it runs."""

    def __init__(self) -> None:
        self.app = Starlette()
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def serve(self, store: HubStore) -> Hub:
        """From now on the routes of this store, and of no other."""
        self.app = Starlette(routes=hub_routes(store))
        return Hub(store, self.url)


@contextmanager
def running_server() -> Iterator[Server]:
    """A server in a thread, on a free port; it is gone when the block is left."""
    served = Server()
    server = uvicorn.Server(uvicorn.Config(served, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        served.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield served
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def point_client_at(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT, HF_HOME and HF_HUB_DISABLE_XET do, for a huggingface_hub that has read them long ago."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", _URL_TEMPLATE.replace(_ENDPOINT, url))
    monkeypatch.setattr(constants, "ENDPOINT", url)
    if (hub := sys.modules.get("transformers.utils.hub")) is not None:
        monkeypatch.setattr(hub, "_hf_api", None)  # made for the Hub of an earlier file of tests
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "AGENT_HARNESSES_PATH"):
        monkeypatch.setattr(constants, name, str(home / name))
