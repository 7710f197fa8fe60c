"""A plain HTTP server on loopback, for what needs no more than the standard library: a function that answers."""

import json
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any
from urllib.parse import parse_qsl


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """`path` as sent (percent-encoded), `headers` by lower-case name."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def target(self) -> str:
        """Path and query, as sent."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def asked(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """`body` goes out piece by piece, where it is pieces: then `headers` have its length."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""

    @classmethod
    def of(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Reply":
        """As JSON."""
        said = {"Content-Type": "application/json", **(headers or {})}
        return cls(status=status, headers=said, body=json.dumps(value).encode())


class Listener:
    """Answers every request by `answer`, each in a thread of its own, from the moment it is made; connections are kept.
    Whoever makes one calls `close`. `port` 0: any that is free."""

    def __init__(self, answer: Callable[[Request], Reply], port: int = 0) -> None:
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", port), type("Handler", (_Handler,), {"to": staticmethod(answer)})
        )
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def wrap(self, tls: ssl.SSLContext) -> None:
        """From now on by TLS alone."""
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    to: Callable[[Request], Reply]

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = _body(self.headers, self.rfile)
        reply = self.to(Request(method=self.command, path=path, query=query, headers=headers, body=body))
        try:
            self._send(reply)
        except OSError:  # whoever asked has given up
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _send(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        own = {name.lower() for name in reply.headers}
        if "date" not in own:
            self.send_header("Date", formatdate(usegmt=True))
        if "content-length" not in own and reply.status != 204 and isinstance(reply.body, bytes):
            self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for piece in [reply.body] if isinstance(reply.body, bytes) else reply.body:
                self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: whoever wants to know looks at what it answered."""


def _body(headers: Message, stream: BufferedIOBase) -> bytes:
    """Whole, also where it comes in chunks (RFC 9112, 7.1)."""
    if headers.get("Transfer-Encoding", "").lower() != "chunked":
        return stream.read(int(headers.get("Content-Length") or 0))
    parts = []
    while size := int(stream.readline().split(b";")[0], 16):
        parts.append(stream.read(size))
        stream.readline()
    stream.readline()
    return b"".join(parts)
