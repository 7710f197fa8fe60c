"""A client of the simulator that lets RunPod's OpenAPI document judge every exchange, and ways to look behind it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from openapi import OpenApi

from infra.simulator.server import RunningSimulator

T = TypeVar("T")
USER_AGENT = "pushtrain-tests"
JUDGE = OpenApi.load()


class Client:
    """Requests with one key. Every answer, and every request that was accepted, is checked where the document is."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        # One client: loading the machine's certificates for each request would be most of the test's time.
        self._http = httpx.Client(base_url=url, timeout=150, trust_env=False, verify=False)

    def __call__(self, method: str, path: str, body: Any = None, **query: str) -> httpx.Response:
        response = self.raw(
            method, path, **{"json": body} if body is not None else {}, **{"params": query} if query else {}
        )
        if JUDGE is not None:
            JUDGE.check_response(method, path, response.status_code, response.json() if response.content else None)
            if response.is_success:
                JUDGE.check_request(method, path, query, body)
        return response

    def raw(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        sent = {"Authorization": f"Bearer {self.key}", "User-Agent": USER_AGENT, **(headers or {})}
        return self._http.request(method, path, headers=sent, **options)

    def create_pod(self, args: str = "sleep 600", **body: Any) -> str:
        order = {"name": "pt-pod", "image": "acme/train:1", "gpu": {"id": "NVIDIA A40"}, "args": args, **body}
        response = self("POST", "/v2/pods", order)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def create_volume(self, data_center: str = "EU-SE-1", **body: Any) -> str:
        order = {"name": "pt-volume", "size": 10, "dataCenter": data_center, **body}
        response = self("POST", "/v2/network-volumes", order)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def wait_running(self, pod_id: str) -> dict[str, Any]:
        def shown() -> dict[str, Any] | None:
            pod = dict(self("GET", f"/v2/pods/{pod_id}").json())
            return pod if pod["runtime"] is not None else None

        return wait_for(shown)


def wait_for(look: Callable[[], T | None], timeout_s: float = 150.0) -> T:
    """What `look` returns as soon as it is neither None nor False nor empty."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        if found := look():
            return found
        time.sleep(0.03)
    raise AssertionError(f"nothing came in {timeout_s} s")


def pod_state(simulator: RunningSimulator, pod_id: str) -> dict[str, Any]:
    return next(pod for pod in simulator.state()["pods"] if pod["id"] == pod_id)


def pod_file(simulator: RunningSimulator, pod_id: str, name: str) -> Path:
    return simulator.state_dir / "pods" / pod_id / "root" / name
