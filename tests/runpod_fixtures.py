"""Fixtures over `runpod_script`; a module takes them with `pytest_plugins = ("runpod_fixtures",)`."""

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from runpod_script import HF, KEY, Handler, Script, Time

from infra.clouds.runpod.client import RunPod
from infra.clouds.wire import Limits


@pytest.fixture(scope="module")
def scripted_server() -> Iterator[ThreadingHTTPServer]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Scripted", (Handler,), {}))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join(10)
    httpd.server_close()


@pytest.fixture
def script(scripted_server: ThreadingHTTPServer) -> Iterator[Script]:
    fresh = Script()
    scripted_server.RequestHandlerClass.script = fresh  # type: ignore[attr-defined]
    yield fresh
    fresh.released.set()


@pytest.fixture
def timer() -> Time:
    return Time()


@pytest.fixture
def runpod(scripted_server: ThreadingHTTPServer, script: Script, timer: Time) -> Iterator[RunPod]:
    client = RunPod(
        KEY,
        f"http://127.0.0.1:{scripted_server.server_port}",
        environ={"HF_TOKEN": HF, "EMPTY": ""},
        limits=Limits(jitter=lambda: 0.5),
        sleep=timer.sleep,
        clock=lambda: timer.now_s,
    )
    yield client
    client.close()
