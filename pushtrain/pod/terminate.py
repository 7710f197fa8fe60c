"""Terminate the pod this process runs on, with the pod-scoped key RunPod puts into its environment.

That key can terminate its own pod but was seen to get 403 on reads, so nothing is asked first; and the API refuses
Python's default User-Agent. An accepted request is no proof either: only the end of this process is.
"""

import http.client
import importlib
import json
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pushtrain import __version__
from pushtrain.pod.processes import within

PUBLIC_API = "https://api.runpod.io"
USER_AGENT = f"pushtrain-pod/{__version__}"
CALL_TIMEOUT_S = 20.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The pod to end. `base_url` has no /v2."""

    base_url: str
    pod_id: str
    api_key: str = field(repr=False)


def read_target(environ: Mapping[str, str]) -> Target:
    """Never raises: with a variable missing the remaining ways are still tried."""
    return Target(
        base_url=(environ.get("RUNPOD_API_BASE_URL") or PUBLIC_API).rstrip("/"),
        pod_id=environ.get("RUNPOD_POD_ID", "").strip(),
        api_key=environ.get("RUNPOD_API_KEY", "").strip(),
    )


def terminate_for_ever(target: Target, say: Say, *, tick_s: float = 1.0) -> NoReturn:
    """Try every 5 ticks, after 60 ticks every 60, until the cloud ends this very process."""
    began_s = time.monotonic()
    while True:
        elapsed_ticks = (time.monotonic() - began_s) / tick_s
        terminate_once(target, say, every_way=elapsed_ticks > 60)
        time.sleep(pause_ticks(elapsed_ticks) * tick_s)


def pause_ticks(elapsed_ticks: float) -> float:
    """Soon again in the first minute, then slowly enough for the account's rate limit."""
    return 5 if elapsed_ticks < 60 else 60


def terminate_once(target: Target, say: Say, *, every_way: bool = False) -> bool:
    """One round through the ways, until one is accepted (2xx, or 404: gone already); all of them with `every_way`.

    The last way only stops the pod: its GPU is no longer billed, and the control plane's sweep removes the rest.
    """
    pod = f"/v2/pods/{target.pod_id}"
    ways: list[tuple[str, Callable[[], str]]] = [
        ("action terminate", lambda: _call(target, "POST", f"{pod}/action", {"action": "terminate"})),
        ("delete", lambda: _call(target, "DELETE", pod, None)),
        ("runpodctl", lambda: _runpodctl(target.pod_id)),
        ("action stop", lambda: _call(target, "POST", f"{pod}/action", {"action": "stop"})),
    ]
    accepted = False
    for name, way in ways:
        answer = within(CALL_TIMEOUT_S + 5, way, "no answer")
        say(f"terminate pod {target.pod_id or '(RUNPOD_POD_ID is not set)'}: {name}: {answer}")
        accepted = accepted or answer == "accepted"
        if accepted and not every_way:
            break
    return accepted


def _call(target: Target, method: str, path: str, body: dict[str, str] | None) -> str:
    """One request. The answer's body is not looked at: it may hold the pod's environment in clear."""
    request = urllib.request.Request(
        target.base_url + path, method=method, data=None if body is None else json.dumps(body).encode()
    )
    request.add_header("User-Agent", USER_AGENT)
    request.add_header("Content-Type", "application/json")
    request.add_unredirected_header("Authorization", f"Bearer {target.api_key}")
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=_tls()), _NoRedirect())
    try:
        with opener.open(request, timeout=CALL_TIMEOUT_S):
            return "accepted"
    except urllib.error.HTTPError as error:
        error.close()
        return "accepted" if error.code == 404 else f"HTTP {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the API and nowhere else."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


def _tls() -> ssl.SSLContext:
    """The system's certificates; images without any mostly have pip, which brings its own."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and not (paths.capath and any(Path(paths.capath).iterdir())):
        try:
            certifi = importlib.import_module("pip._vendor.certifi")
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context


def _runpodctl(pod_id: str) -> str:
    """RunPod's own command, which its images bring with the pod's key set up."""
    command = shutil.which("runpodctl")
    if command is None:
        return "not installed"
    try:
        done = subprocess.run([command, "pod", "delete", pod_id], capture_output=True, timeout=CALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "no answer"
    if done.returncode == 0:
        return "accepted"
    return f"exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}"
