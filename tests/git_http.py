"""A git host on loopback: git's own smart HTTP backend, with a token, few places at once, and slowness on order."""

import base64
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class GitHost:
    """Serves every bare repository below `folder` as `url/NAME.git`. Whoever makes one calls `close`.

    `pushes` counts answered pushes (POST git-receive-pack), `busy` requests sent away with 503, `most` how many were
    served at once. Without `token` in the Authorization header the answer is 401; `status` answers everything with it;
    `reads_only` answers 403 to whoever wants to push.
    """

    def __init__(
        self, folder: Path, env: dict[str, str], *, token: str = "", at_once: int = 64, delay_s: float = 0.0
    ) -> None:
        self.pushes = self.busy = self.most = 0
        self.status = 0
        self.reads_only = False
        self._folder, self._env, self._delay_s = folder, env, delay_s
        self._expected = "Basic " + base64.b64encode(f"x-access-token:{token}".encode()).decode() if token else ""
        self._places, self._lock, self._serving = threading.Semaphore(at_once), threading.Lock(), 0
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host._answer(self, b"")

            def do_POST(self) -> None:
                host._answer(self, _body(self))

            def log_message(self, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if self.status:
            return _plain(request, self.status)
        if self._expected and request.headers.get("Authorization") != self._expected:
            return _plain(request, 401)
        if self.reads_only and "git-receive-pack" in request.path:
            return _plain(request, 403)
        if not self._places.acquire(blocking=False):
            with self._lock:
                self.busy += 1
            return _plain(request, 503)
        try:
            with self._lock:
                self._serving += 1
                self.most = max(self.most, self._serving)
                self.pushes += request.command == "POST" and urlsplit(request.path).path.endswith("/git-receive-pack")
            time.sleep(self._delay_s)
            self._backend(request, body)
        finally:
            with self._lock:
                self._serving -= 1
            self._places.release()

    def _backend(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        parts, headers = urlsplit(request.path), request.headers
        env = self._env | {
            "GIT_PROJECT_ROOT": str(self._folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.receivepack",
            "GIT_CONFIG_VALUE_0": "true",
            "REMOTE_USER": "token",
            "REMOTE_ADDR": "127.0.0.1",
            "REQUEST_METHOD": request.command,
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "CONTENT_TYPE": headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True, timeout=150)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [line.decode().split(": ", 1) for line in head.split(b"\r\n") if line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        request.send_response(status)
        for name, value in fields:
            if name != "Status":
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


def _plain(request: BaseHTTPRequestHandler, status: int) -> None:
    request.send_response(status)
    if status == 401:
        request.send_header("WWW-Authenticate", 'Basic realm="git"')
    request.send_header("Content-Length", "0")
    request.end_headers()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    parts = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(parts)
