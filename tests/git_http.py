"""A git host on loopback: git's own smart HTTP backend, with a token, few places at once, and slowness on order."""

import base64
import subprocess
import threading
import time
from pathlib import Path

from infra.simulator.loopback import Listener, Reply, Request


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
        self._listener = Listener(self._answer)
        self.url = self._listener.url

    def close(self) -> None:
        self._listener.close()

    def _answer(self, request: Request) -> Reply:
        if self.status:
            return _plain(self.status)
        if self._expected and request.headers.get("authorization") != self._expected:
            return _plain(401)
        if self.reads_only and "git-receive-pack" in request.target:
            return _plain(403)
        if not self._places.acquire(blocking=False):
            with self._lock:
                self.busy += 1
            return _plain(503)
        try:
            with self._lock:
                self._serving += 1
                self.most = max(self.most, self._serving)
                self.pushes += request.method == "POST" and request.path.endswith("/git-receive-pack")
            time.sleep(self._delay_s)
            return self._backend(request)
        finally:
            with self._lock:
                self._serving -= 1
            self._places.release()

    def _backend(self, request: Request) -> Reply:
        body, headers = request.body, request.headers
        env = self._env | {
            "GIT_PROJECT_ROOT": str(self._folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.receivepack",
            "GIT_CONFIG_VALUE_0": "true",
            "REMOTE_USER": "token",
            "REMOTE_ADDR": "127.0.0.1",
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "CONTENT_TYPE": headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True, timeout=150)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [line.decode().split(": ", 1) for line in head.split(b"\r\n") if line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        return Reply(status=status, headers={name: value for name, value in fields if name != "Status"}, body=content)


def _plain(status: int) -> Reply:
    return Reply(status=status, headers={"WWW-Authenticate": 'Basic realm="git"'} if status == 401 else {})
