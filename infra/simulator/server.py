"""Starting and stopping the simulator: in the foreground, or as a process of its own."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from infra.simulator import processes, ssh_proxy, store
from infra.simulator.app import create_app
from infra.simulator.catalog import DEFAULT_CATALOG
from infra.simulator.doors import HOST, announced, listening, open_doors, url_of
from infra.simulator.faults import Faults
from infra.simulator.hub import hub_routes
from infra.simulator.hub_access import HubUser
from infra.simulator.hub_store import HubStore
from infra.simulator.others import OTHERS, others_env, serve_doors
from infra.simulator.service import Service, Settings
from infra.simulator.ssh_ports import write_runpodctl
from infra.simulator.state import Account
from pushtrain.errors import CloudError


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """`port` 0: the one used last in this state folder, else any free one. Keys None: stored ones, else new ones.

    `page_size` None: lists are not paged. `max_hours`: after so long the simulator stops itself and every pod.
    """

    state_dir: Path
    port: int = 0
    api_key: str | None = field(default=None, repr=False)
    hf_token: str | None = field(default=None, repr=False)
    page_size: int | None = 100
    requests_per_minute: int = 6000
    lend_python: bool = True
    keep_pods: bool = False
    max_hours: float = 12.0


@dataclass(frozen=True, kw_only=True)
class RunningSimulator:
    """A simulator process. Whoever started it calls `stop`, or its pods live until `max_hours`."""

    state_dir: Path
    url: str
    pid: int
    urls: Mapping[str, str]
    api_key: str = field(repr=False)
    hf_token: str = field(repr=False)
    keys: store.Keys = field(repr=False)
    process: "subprocess.Popen[bytes]" = field(repr=False)
    http: httpx.Client = field(repr=False)

    def env(self, cloud: str = "runpod") -> dict[str, str]:
        """With the Hub and RunPod, and the key of `cloud` where it is another."""
        return store.env(self.url, self.keys) | others_env(self.urls, self.keys.others, cloud)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request with the account key; `path` begins with a slash. Raises httpx.HTTPError."""
        return self.http.request(method, path, **options)

    def fault(self, kind: str, times: int | None = 1, seconds: float = 1.0, **match: str) -> None:
        body = {"kind": kind, "times": times, "match": match, "seconds": seconds}
        self.request("POST", "/_simulator/faults", json=body).raise_for_status()

    def state(self) -> dict[str, Any]:
        return dict(self.request("GET", "/_simulator/state").raise_for_status().json())

    def stop(self, stop_pods: bool = True, timeout_s: float = 20.0) -> None:
        """End the process, and with `stop_pods` every process of every pod, even if it does not answer. Repeatable."""
        if self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                self.request("POST", "/_simulator/shutdown", json={"stop_pods": stop_pods})
        try:
            self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.http.close()
        if stop_pods:
            for folder in (*self.state_dir.glob("pods/*"), *self.state_dir.glob("*/pods/*")):
                processes.stop(folder.name, grace_s=0)


def start(config: SimulatorConfig, timeout_s: float = 30.0) -> RunningSimulator:
    """Start the simulator as a process and wait until it answers. Raises CloudError with what it said otherwise."""
    state_dir = config.state_dir.resolve()
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = store.keys(state_dir, config.api_key, config.hf_token)
    log_path = state_dir / "simulator.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.simulator", *_arguments(config, state_dir)],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = _wait_for_url(process, state_dir, timeout_s)
    if url is not None:
        return RunningSimulator(
            state_dir=state_dir,
            url=url,
            pid=process.pid,
            urls=announced(state_dir)["urls"],
            api_key=keys.api_key,
            hf_token=keys.hf_token,
            keys=keys,
            process=process,
            http=_client(url, keys.api_key),
        )
    said = log_path.read_text(errors="replace").strip().splitlines()[-5:]
    raise CloudError("the simulator did not start: " + " / ".join(said), hint=f"its log: {log_path}")


def _wait_for_url(process: "subprocess.Popen[bytes]", state_dir: Path, timeout_s: float) -> str | None:
    """Where it listens; None when it did not start in time. A simulator nobody waits for any more is ended."""
    gives_up = time.monotonic() + timeout_s
    try:
        while time.monotonic() < gives_up and process.poll() is None:
            said = announced(state_dir)
            if said.get("pid") == process.pid:
                return str(said["url"])
            time.sleep(0.02)
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise
    process.kill()
    process.wait()
    return None


def serve(config: SimulatorConfig, announce: Callable[[str, Mapping[str, str]], None]) -> None:
    """Run in the foreground until a signal, a shutdown request or `max_hours`; then stop every pod.

    `announce(url, env)` is called once it listens. Raises CloudError when the port or the state folder is taken.
    """
    state_dir = config.state_dir.resolve()
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not Path("/proc/self/stat").exists():
        raise CloudError(
            "the simulator runs pods as processes and needs Linux's /proc", hint="run it on Linux or in WSL"
        )
    with _locked(state_dir), listening(config.port or announced(state_dir).get("port", 0), config.port) as listener:
        asyncio.run(_serve(config, state_dir, listener, announce))


class _EveryOrg(HubUser):
    """The simulated Hub is one user's own: whatever ORG a job spec publishes to, a rehearsal may write there."""

    def owns(self, namespace: str) -> bool:
        return True


async def _serve(
    config: SimulatorConfig,
    state_dir: Path,
    listener: socket.socket,
    announce: Callable[[str, Mapping[str, str]], None],
) -> None:
    keys = store.keys(state_dir, config.api_key, config.hf_token)
    port = listener.getsockname()[1]
    url = f"http://{HOST}:{port}"
    proxy = ssh_proxy.listening()
    settings = _settings(config, state_dir, url, keys, proxy)
    account = Account(DEFAULT_CATALOG, store.new_id)
    store.load(account, state_dir)
    hub = HubStore(state_dir / "hub", {keys.hf_token: _EveryOrg("simulator", ("demo",))})
    faults = Faults(store.new_id)
    service = Service(settings, account, faults, hub)
    doors = open_doors(state_dir, [name for name, other in OTHERS.items() if other.serve])
    urls = dict.fromkeys(OTHERS, url) | {name: url_of(door) for name, door in doors.items()}
    others = {name: other.service(settings, keys.others[name], faults, hub) for name, other in OTHERS.items()}
    stop_pods = not config.keep_pods
    transports: dict[Any, asyncio.Transport] = {}

    def shut_down(stop: bool) -> None:
        nonlocal stop_pods
        stop_pods = stop
        for each in (service, *others.values()):
            each.shut_down_soon()
        server.should_exit = True

    app = create_app(service, others, transports, shut_down, hub_routes(hub))
    server = uvicorn.Server(_server_config(app, transports))
    _arrange_the_end(config, shut_down)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        store.write_json(state_dir / "server.json", {"pid": os.getpid(), "port": port, "url": url, "urls": urls})
        ssh_proxy.serve_when_asked(service, proxy, state_dir)
        write_runpodctl(state_dir / "bin", state_dir / "codes")
        serve_doors(others, doors)
        announce(url, store.env(url, keys) | others_env(urls, keys.others, *OTHERS))
        await serving
    finally:
        for each in (service, *others.values()):
            each.close(stop_pods)


def _server_config(app: Starlette, transports: dict[Any, asyncio.Transport]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_protocol(transports),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )


def _arrange_the_end(config: SimulatorConfig, shut_down: Callable[[bool], None]) -> None:
    """At a signal, and after the longest time. uvicorn raises the signal again after it has shut down; the pods still
    have to be stopped then."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, shut_down, not config.keep_pods)
    loop.call_later(config.max_hours * 3600, shut_down, True)


def _settings(config: SimulatorConfig, state_dir: Path, url: str, keys: store.Keys, proxy: socket.socket) -> Settings:
    return Settings(
        state_dir=state_dir,
        base_url=url,
        api_key=keys.api_key,
        s3_access_key=keys.s3_access_key,
        s3_secret_key=keys.s3_secret_key,
        expires_at=time.time() + config.max_hours * 3600,
        page_size=config.page_size,
        requests_per_minute=config.requests_per_minute,
        lend_python=config.lend_python,
        ssh_proxy_port=proxy.getsockname()[1],
    )


def _client(url: str, api_key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {api_key}", "User-Agent": "pushtrain-simulator"}
    # Loopback without TLS: reading the machine's certificates would only cost time.
    return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False, verify=False)


def _protocol(transports: dict[Any, asyncio.Transport]) -> type[H11Protocol]:
    """uvicorn's HTTP protocol, which also tells us the transport of each client: a lost answer aborts it."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = transport.get_extra_info("peername")
            transports[self._address] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            transports.pop(self._address, None)
            super().connection_lost(exc)

    return Protocol


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """One simulator per state folder; the kernel releases the lock however the process ends."""
    with (state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CloudError(
                f"another simulator uses {state_dir}", hint="stop it, or name another state folder with --state"
            ) from error
        yield


def _arguments(config: SimulatorConfig, state_dir: Path) -> list[str]:
    arguments = ["--state", str(state_dir), "--port", str(config.port), "--max-hours", str(config.max_hours)]
    arguments += ["--page-size", str(config.page_size or 0)]
    arguments += ["--requests-per-minute", str(config.requests_per_minute)]
    arguments += ["--keep-pods"] if config.keep_pods else []
    return arguments + ([] if config.lend_python else ["--no-trainer-python"])
