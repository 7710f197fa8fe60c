"""One ssh session to a run's pod: found, waited for, pinned, carried out."""

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pushtrain.cloud import Cloud
from pushtrain.errors import SshError
from pushtrain.fleet import member
from pushtrain.ledger import Ledger
from pushtrain.run import ledger_prefix
from pushtrain.settings import load_settings
from pushtrain.ssh import config
from pushtrain.ssh.client import SshFiles, alias, pin, ssh_argv
from pushtrain.ssh.endpoint import Endpoint
from pushtrain.ssh.reach import WAIT_S, Seams, check_key, reach
from pushtrain.wiring import open_clouds, open_ledger


@dataclass(frozen=True, kw_only=True)
class Line:
    """What every verb over ssh is made of: where runs are found, and how a person is told."""

    cloud: Cloud
    ledger: Ledger
    environ: Mapping[str, str]
    seams: Seams

    def reach(self, name: str, *, wait_s: float = WAIT_S, through_gaps: bool = False) -> tuple[Endpoint, SshFiles]:
        """The endpoint, answering and letting us in, and the files that pin it. Raises SshError."""
        found = reach(self.cloud, self.ledger, name, self.seams, wait_s=wait_s, through_gaps=through_gaps)
        check_key(found, self.environ)
        files = pin(found, self.environ)
        config.update(self.environ, {found.run_id: config.entry(found, files, ledger_prefix(self.ledger.url))})
        tidy(self.ledger, self.environ)
        return found, files


def tidy(ledger: Ledger, environ: Mapping[str, str]) -> None:
    """Take runs of this ledger that are over, or that it does not know any more, out of the managed ssh configuration.
    Another repository's stay."""
    written = config.hosts(environ, ledger_prefix(ledger.url))
    if not written:
        return
    tips = ledger.refs()
    records = ledger.read_all({run_id: tips[run_id] for run_id in written if run_id in tips})
    config.update(environ, {}, [it for it in written if it not in records or records[it].is_over])


def write_config(line: Line, names: Sequence[str]) -> list[str]:
    """The managed configuration with a host for each of these runs that has an answering pod; all active ones where
    none is named. What was done, as lines for a person."""
    added = config.include(line.environ)
    said = [f"{config.INCLUDE} is now the first line of ~/.ssh/config"] if added else []
    if not names:
        names = [run_id for run_id, it in line.ledger.read_all(line.ledger.refs()).items() if not it.is_over]
    for name in names:
        try:
            found, _ = line.reach(name, wait_s=0.0)
        except SshError as not_now:
            said.append(f"{name}: {not_now}")
        else:
            said.append(f"ssh {alias(found.run_id)}")
    tidy(line.ledger, line.environ)
    return said


def open_line(root: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> Line:
    settings = load_settings(root, environ)
    return Line(
        cloud=open_clouds(environ),
        ledger=open_ledger(settings, environ),
        environ=environ,
        seams=Seams(say=say),
    )


def run_ssh(
    root: Path,
    name: str,
    command: str,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    *,
    wait_s: float = WAIT_S,
) -> int:
    """A shell, or `command`; returns its exit code. Raises SshError."""
    line = open_line(root, environ, say)
    found, files = line.reach(name, wait_s=wait_s)
    if found.proxy:
        say("by RunPod's proxy: a terminal and nothing else")
    code = run_client(ssh_argv(found, files, command))
    if code == 255:
        say(lost(line, found))
    return code


def run_client(argv: list[str]) -> int:
    """A client in the foreground, with our terminal; Ctrl-C is its to answer. Raises SshError where there is none."""
    try:
        client = subprocess.Popen(argv)
    except FileNotFoundError:
        raise SshError(
            f"there is no {argv[0]} here", hint="apt-get install openssh-client", reason="NoClient"
        ) from None
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return client.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def lost(line: Line, found: Endpoint) -> str:
    """Why a connection may have broken: a look at the cloud, for whoever reads it."""
    pod = member(line.cloud, found.cloud).read_pod(found.pod_id)
    if pod is None or not pod.is_alive:
        return f"the pod is gone ({found.pod_id}); the run goes on with its next attempt, if it has one"
    return f"the connection to pod {found.pod_id} broke or was refused; the pod is still there"
