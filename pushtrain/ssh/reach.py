"""Waiting, bounded, until the pod of a run really answers as the host that the ledger knows."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pushtrain.cloud import Cloud
from pushtrain.errors import CloudUnavailable, LedgerUnavailable, PushtrainError, SshError
from pushtrain.ledger import Ledger
from pushtrain.pod.ssh import MOST_KEYS, fingerprint
from pushtrain.ssh.client import home, private_key
from pushtrain.ssh.endpoint import Endpoint, endpoint

WAIT_S = 180.0
_LOOK_S, _SCAN_S = 1.0, 5
# A container that starts anew has another key, which its next event tells: so long a difference may be that.
_TELLS_S = 20.0
_GAPS = ("NoPod", "PodGone")


@dataclass(frozen=True, kw_only=True)
class Seams:
    """What waiting needs of the world. `scan(host, port)`: the host key that answers, None while nobody does."""

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    scan: Callable[[str, int], str | None] = lambda host, port: scan(host, port)


def reach(
    cloud: Cloud, ledger: Ledger, name: str, seams: Seams, *, wait_s: float = WAIT_S, through_gaps: bool = False
) -> Endpoint:
    """The endpoint of a run once its sshd has answered with the host key that the ledger tells.

    `through_gaps`: also while the run has no pod, between two attempts, or nobody can be asked: a laptop that wakes up
    has no network yet. Raises SshError at once for what waiting does not help, and after `wait_s` for the rest;
    HostKeyChanged when somebody else answers there for 20 seconds.
    """
    began_s, said, strange_s = seams.clock(), "", None
    while True:
        try:
            found = endpoint(cloud, ledger, name)
            _check_answer(found, seams)
        except (SshError, CloudUnavailable, LedgerUnavailable) as not_yet:
            now_s = seams.clock()
            if not_yet.reason == "HostKeyChanged":
                strange_s = now_s if strange_s is None else strange_s
            is_strange = strange_s is not None and now_s - strange_s >= _TELLS_S
            if not _may_pass(not_yet, through_gaps) or is_strange or now_s - began_s >= wait_s:
                raise
            if str(not_yet) != said:
                seams.say(f"{not_yet}; waiting up to {wait_s:.0f} s")
                said = str(not_yet)
            seams.sleep(_LOOK_S)
            continue
        return found


def _may_pass(not_yet: PushtrainError, through_gaps: bool) -> bool:
    if not isinstance(not_yet, SshError):
        return through_gaps
    return not_yet.may_pass or (through_gaps and not_yet.reason in _GAPS)


def check_key(found: Endpoint, environ: Mapping[str, str]) -> None:
    """Raises SshError (KeyRefused) where the pod is known to let none of our keys in: before ssh says 'denied'."""
    mine = our_fingerprints(environ)
    if not found.keys or len(found.keys) >= MOST_KEYS or not mine or set(found.keys) & set(mine):
        return
    raise SshError(
        f"the pod of run {found.run_id} lets in {len(found.keys)} keys of the account, and ours is not among them: "
        f"{mine[0]}",
        hint="a pod takes the keys of the moment it was made: pushtrain ssh-key registers ours for the next one",
        reason="KeyRefused",
    )


def our_fingerprints(environ: Mapping[str, str]) -> list[str]:
    """Of the keys that ssh would offer: our file's, the user's own, and those of a running agent."""
    files = [path.with_name(f"{path.name}.pub") for path in (private_key(environ),) if path]
    if not files:
        files = sorted((home(environ) / ".ssh").glob("id_*.pub"))
    lines = [path.read_text(errors="replace") for path in files if path.is_file()]
    if not lines and environ.get("SSH_AUTH_SOCK"):
        lines = _run(["ssh-add", "-L"], environ).splitlines()
    return [fingerprint(parts[1]) for line in lines if len(parts := line.split()) > 1 and parts[0].startswith(_KINDS)]


_KINDS = ("ssh-", "ecdsa-", "sk-")


def scan(host: str, port: int) -> str | None:
    """The ed25519 host key of whoever answers there, `ssh-ed25519 AAAA…`; None: nobody does, or not within 5 s."""
    if shutil.which("ssh-keyscan") is None:
        raise SshError("there is no OpenSSH client here", hint="apt-get install openssh-client", reason="NoClient")
    said = _run(["ssh-keyscan", "-T", str(_SCAN_S), "-t", "ed25519", "-p", str(port), host], None)
    rows = [line.split() for line in said.splitlines() if not line.startswith("#")]
    return next((f"{row[1]} {row[2]}" for row in rows if len(row) == 3), None)


def _check_answer(found: Endpoint, seams: Seams) -> None:
    if found.proxy:
        return
    answered = seams.scan(found.host, found.port)
    where = f"{found.host}:{found.port}"
    if answered is None:
        raise SshError(
            f"sshd of run {found.run_id} does not answer at {where} yet",
            hint="the pod is there: try again in a minute, or look at pushtrain logs",
            reason="NoAnswer",
            may_pass=True,
        )
    if answered != found.host_key:
        ours, theirs = (fingerprint(key.split()[1]) for key in (found.host_key, answered))
        raise SshError(
            f"somebody else answers at {where}: host key {theirs}, and the ledger says {ours}. Nothing was sent",
            hint="a container that was started again tells its new key within a minute; if it stays so, do not connect",
            reason="HostKeyChanged",
            may_pass=True,
        )


def _run(argv: list[str], environ: Mapping[str, str] | None) -> str:
    """Standard output of a client's tool, empty when it fails or takes too long."""
    try:
        done = subprocess.run(
            argv,
            env=None if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SCAN_S * 2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
