"""Terminate the pod this process runs on, with the pod-scoped key its cloud puts into its environment.

RunPod's can terminate its own pod but was seen to get 403 on reads, so nothing is asked first; and the API refuses
Python's default User-Agent. An accepted request is no proof either, nor is an answer that there is no such pod: only
the end of this process is.
"""

import http.client
import importlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NoReturn

from pushtrain import __version__
from pushtrain.pod.place import END_FILE, RUNPOD, Words, words
from pushtrain.pod.processes import within

USER_AGENT = f"pushtrain-pod/{__version__}"
QUICK_TICKS = 60
Say = Callable[[str], None]
# What is tried, in this order: its name, and what carries it out and says `accepted`, `refused` or what happened.
Ways = list[tuple[str, Callable[[], str]]]
# Where images keep the certificates they trust, should Python look elsewhere (conda's and hand-built ones do).
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/opt/conda/ssl/cacert.pem",
)
_GRAPHQL = "mutation ($input: PodTerminateInput!) { podTerminate(input: $input) }"


@dataclass(frozen=True, kw_only=True)
class Target:
    """The pod to end. `base_url` has no /v2; `patience_s` is for one request. Of a pod that is not told its id `pod_id`
    is the name of its launch, and `end_file` what its machine waits for."""

    base_url: str
    pod_id: str
    api_key: str = field(repr=False)
    patience_s: float = 20.0
    words: Words = RUNPOD
    end_file: str = ""


def read_target(environ: Mapping[str, str], first: Path = Path("/proc/1/environ")) -> Target:
    """Never raises: with a variable missing the remaining ways are still tried.

    The cloud's own variables reach the first process only; an entry point that starts us with a clean environment loses
    them, so what is missing is looked up at `first`.
    """
    said = words(environ)
    needed = (said.pod_id, said.api_key, said.launch, said.launch and END_FILE)
    if any(name and not environ.get(name) for name in needed):
        environ = _environ_of(first) | dict(environ)
        said = words(environ)
    return Target(
        base_url=(environ.get(said.base_url) or said.public_api).rstrip("/"),
        pod_id=environ.get(said.pod_id or said.launch, "").strip(),
        api_key=environ.get(said.api_key, "").strip(),
        words=said,
        end_file=environ.get(END_FILE, ""),
    )


def terminate_for_ever(target: Target, say: Say, *, tick_s: float = 1.0) -> NoReturn:
    """Try every 5 ticks, after 60 ticks every 60, until the cloud ends this very process."""
    began_s = time.monotonic()
    while True:
        elapsed_ticks = (time.monotonic() - began_s) / tick_s
        try:
            terminate_once(target, say, last_resorts=elapsed_ticks > QUICK_TICKS)
        except Exception as error:  # noqa: BLE001 — whatever it was, the pod is billed until one try works
            say(f"terminate: {type(error).__name__}: {error}")
        time.sleep(pause_ticks(elapsed_ticks) * tick_s)


def pause_ticks(elapsed_ticks: float) -> float:
    """Soon again in the first minute, then slowly enough for the account's rate limit."""
    return 5 if elapsed_ticks < QUICK_TICKS else 60


def terminate_once(target: Target, say: Say, *, last_resorts: bool = False) -> bool:
    """One round through the ways, until one is accepted (2xx); with `last_resorts` all of them.

    The last way only stops the pod: its GPU is no longer billed, and the control plane's sweep removes the rest.
    """
    accepted = False
    for name, way in _WAYS[target.words.cloud](target, last_resorts):
        answer = within(2 * target.patience_s + 5, way, "no answer")
        say(f"terminate pod {target.pod_id or f'({target.words.pod_id} is not set)'}: {name}: {answer}")
        accepted = accepted or answer == "accepted"
        if accepted and not last_resorts:
            break
    return accepted


def _runpod_ways(target: Target, last_resorts: bool) -> Ways:
    pod = f"/v2/pods/{target.pod_id}"
    mutation = {"query": _GRAPHQL, "variables": {"input": {"podId": target.pod_id}}}
    return [
        ("action terminate", lambda: _call(target, "POST", f"{pod}/action", {"action": "terminate"}, last_resorts)),
        ("delete", lambda: _call(target, "DELETE", pod, None, last_resorts)),
        ("runpodctl", lambda: _runpodctl(target)),
        ("graphql", lambda: _call(target, "POST", "/graphql", mutation, last_resorts)),
        ("action stop", lambda: _call(target, "POST", f"{pod}/action", {"action": "stop"}, last_resorts)),
    ]


def _vast_ways(target: Target, last_resorts: bool) -> Ways:
    """A destroyed instance is gone with its disk; a stopped one is billed for its disk until the sweep."""
    instance = f"/api/v0/instances/{target.pod_id}/"
    return [
        ("destroy", lambda: _call(target, "DELETE", instance, None, last_resorts)),
        ("stop", lambda: _call(target, "PUT", instance, {"state": "stopped"}, last_resorts)),
    ]


def _lambda_ways(target: Target, last_resorts: bool) -> Ways:
    """The machine powers itself off. It is billed until the control plane terminates it: no key here could."""
    return [("power off", lambda: _made(target.end_file))]


def _made(path: str) -> str:
    try:
        Path(path).touch()
    except OSError as error:
        return f"{END_FILE}: {error}"
    return "accepted"


def _modal_ways(target: Target, last_resorts: bool) -> Ways:
    """Nobody is asked: when this process ends, bash does, and with the first process the sandbox."""
    return [("leave", _leave)]


def _leave() -> str:
    print("terminate: this process ends, and the sandbox with it", file=sys.stderr, flush=True)
    os._exit(0)


def _no_way(target: Target, last_resorts: bool) -> Ways:
    """A machine without a key of its own: its work has ended, and it is billed until the control plane ends it."""
    return [("this machine has no key to end itself with", lambda: "the next reconcile destroys it")]


_WAYS: Mapping[str, Callable[[Target, bool], Ways]] = {
    "runpod": _runpod_ways,
    "vast": _vast_ways,
    "lambda": _lambda_ways,
    "modal": _modal_ways,
    "jarvislabs": _no_way,
}


def cloud_epoch_s(base_url: str, patience_s: float) -> float | None:
    """The time by the cloud's clock, from the Date of whatever it answers to a request without a key; None when it
    does not answer in time, or not with a date."""
    try:
        request = urllib.request.Request(base_url + "/", method="HEAD", headers={"User-Agent": USER_AGENT})
        with _opener(base_url, {}, False).open(request, timeout=patience_s) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
        error.close()
    except (OSError, ValueError, http.client.HTTPException):
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None


def _call(target: Target, method: str, path: str, body: object, unverified: bool) -> str:
    """One request; without a way to the API once more by the proxy that the image's variables name.

    Of the answer's body only what may be a refusal is looked at: others may hold the pod's environment in clear.
    """
    answers = []
    for proxies in _proxies():
        try:
            request = _request(target, method, path, body)
            with _opener(target.base_url, proxies, unverified).open(request, timeout=target.patience_s) as answer:
                body_of = answer.read(65536) if path == "/graphql" or target.words.refuses_in_200 else b""
                refused = b'"errors"' in body_of or b'"success":false' in body_of.replace(b" ", b"")
                return "refused" if refused else "accepted"
        except urllib.error.HTTPError as error:
            error.close()
            return f"HTTP {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            answers.append(f"{type(error).__name__}: {error}")
    return "; ".join(answers)


def _request(target: Target, method: str, path: str, body: object) -> urllib.request.Request:
    request = urllib.request.Request(
        target.base_url + path, method=method, data=None if body is None else json.dumps(body).encode()
    )
    request.add_header("User-Agent", USER_AGENT)
    request.add_header("Content-Type", "application/json")
    request.add_unredirected_header("Authorization", f"Bearer {target.api_key}")
    return request


def _proxies() -> Iterator[dict[str, str]]:
    """Straight first: a pod has its own way out, and what an image was built behind may not exist here."""
    yield {}
    if named := urllib.request.getproxies():
        yield named


def _opener(base_url: str, proxies: dict[str, str], unverified: bool) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect(), urllib.request.ProxyHandler(proxies)]
    if base_url.startswith("https"):
        handlers.append(urllib.request.HTTPSHandler(context=_tls(unverified)))
    return urllib.request.build_opener(*handlers)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the API and nowhere else."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


def _tls(unverified: bool) -> ssl.SSLContext:
    """The system's certificates, or any others that the image holds.

    Where it holds none, nobody can be verified. Then, with `unverified`, the pod's key goes out all the same: it is
    good for this pod only and ends with it, and the other way is a pod that nothing here can end.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None or (paths.capath is not None and any(Path(paths.capath).iterdir())):
        return context
    bundles = [bundle for bundle in (*BUNDLES, *_certifi()) if Path(bundle).is_file()]
    for bundle in bundles:
        context.load_verify_locations(bundle)
    if not bundles and unverified:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _certifi() -> Iterator[str]:
    for name in ("certifi", "pip._vendor.certifi"):
        try:
            yield str(importlib.import_module(name).where())
        except ImportError:
            continue


def _environ_of(path: Path) -> dict[str, str]:
    try:
        raw = path.read_bytes()
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in raw.decode(errors="replace").split("\0") if "=" in entry)


def _runpodctl(target: Target) -> str:
    """RunPod's own command, which its images bring with the pod's key set up."""
    command = shutil.which("runpodctl")
    if command is None:
        return "not installed"
    try:
        done = subprocess.run([command, "pod", "delete", target.pod_id], capture_output=True, timeout=target.patience_s)
    except subprocess.TimeoutExpired:
        return "no answer"
    if done.returncode == 0:
        return "accepted"
    return f"exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}"
