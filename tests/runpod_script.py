"""A loopback RunPod that says exactly what a test scripted."""

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pushtrain.cloud import PodRequest, VolumeRequest

KEY = "canary-secret-account-key"
HF = 'canary-secret-"hub"-token'
GONE = {"title": "Not Found", "status": 404, "detail": "resource not found"}
PODS, VOLUMES = ("GET", "/v2/pods"), ("GET", "/v2/network-volumes")
LOGS = ("GET", "/v2/pods/pod1/logs")
CREATE_POD, CREATE_VOLUME = ("POST", "/v2/pods"), ("POST", "/v2/network-volumes")


@dataclass
class Reply:
    """One scripted answer. `effect` runs before it is sent; `cut` closes the socket where the answer would end;
    `drip_s` is the pause before each byte of the body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    effect: Callable[[], object] = lambda: None
    cut: bool = False
    delay_s: float = 0.0
    drip_s: float = 0.0

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else json.dumps(self.body).encode()


CUT = Reply(status=0, cut=True)


@dataclass
class Seen:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Script:
    """Answers in the order given for a method and path; the last one stays. An unscripted request gets a 418."""

    def __init__(self) -> None:
        self.replies: dict[tuple[str, str], list[Reply]] = defaultdict(list)
        self.seen: list[Seen] = []
        self.released = threading.Event()

    def on(self, route: tuple[str, str], *replies: Reply | dict[str, Any]) -> None:
        self.replies[route] = [reply if isinstance(reply, Reply) else Reply(body=reply) for reply in replies]

    def sent(self, *route: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == route]

    def next(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        queue = self.replies.get((seen.method, seen.path)) or [Reply(status=418)]
        return queue.pop(0) if len(queue) > 1 else queue[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    script: Script

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.script.next(Seen(self.command, url.path, dict(parse_qsl(url.query)), headers, body))
        reply.effect()
        self.script.released.wait(reply.delay_s)
        self.close_connection = reply.cut
        if not reply.status:
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        # A cut answer promises one byte more than it brings.
        self.send_header("Content-Length", str(len(reply.content) + reply.cut))
        with contextlib.suppress(OSError):  # the client may have given up, as some tests want it to
            self.end_headers()
            pieces = [bytes([byte]) for byte in reply.content] if reply.drip_s else [reply.content]
            for piece in pieces:
                self.script.released.wait(reply.drip_s)
                self.wfile.write(piece)

    do_GET = do_POST = do_DELETE = do_PATCH = answer


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds


def pod_json(pod_id: str = "pod1", name: str = "pt-a1", **changes: Any) -> dict[str, Any]:
    return {
        "id": pod_id,
        "name": name,
        "status": "RUNNING",
        "gpu": {"id": "NVIDIA A40", "count": 2},
        "cost": 0.8,
        "dataCenterId": "EU-SE-1",
        "runtime": None,
        "createdAt": "2026-11-20T12:00:00Z",
        "env": {"HF_TOKEN": HF},
        "mounts": {},
        **changes,
    }


def volume_json(volume_id: str = "vol1", name: str = "pt-v", center: str = "EU-SE-1") -> dict[str, Any]:
    return {"id": volume_id, "name": name, "size": 50, "dataCenter": center, "type": "STANDARD"}


def pod_request(**changes: Any) -> PodRequest:
    values: dict[str, Any] = {
        "name": "pt-a1",
        "image": "runpod/pytorch:1",
        "gpu": "NVIDIA A40",
        "gpu_count": 2,
        "tier": "SECURE",
        "disk_gb": 40,
        "args": "bash -c true",
        "data_center": "EU-SE-1",
        "volume_id": "vol1",
        "env": {"PUSHTRAIN_ATTEMPT": "1"},
        "secret_env": ("HF_TOKEN", "NOT_SET", "EMPTY"),
    }
    return PodRequest(**{**values, **changes})


VOLUME = VolumeRequest(name="pt-v", size_gb=50, data_center="EU-SE-1")


def problem(status: int, detail: str, **more: Any) -> Reply:
    body = {"title": "Problem", "status": status, "detail": detail, **more}
    return Reply(status=status, body=body, headers={"Content-Type": "application/problem+json"})


def pods(*listed: dict[str, Any]) -> dict[str, Any]:
    return {"pods": list(listed)}


def event(number: int, line: str = "") -> bytes:
    data = {"ts": "2026-11-20T12:00:00Z", "source": "container", "line": line or f"line {number}"}
    return f"id: 2026-11-20T12:00:00Z/{number:012}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
