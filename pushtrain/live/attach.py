"""`pushtrain attach`: the tmux of a session, or the live output of whatever else a run is."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from pushtrain.errors import SshError
from pushtrain.ledger import RunRecord
from pushtrain.lookup import newest_run
from pushtrain.ssh.client import SshFiles, ssh_argv
from pushtrain.ssh.endpoint import Endpoint
from pushtrain.ssh.session import Line, lost, run_client

# Worth waiting for no longer: what is left is the log.
_GIVES_UP = ("RunOver", "NoPod", "SshOff", "NoKeys", "NoPort", "NoSshd", "Failed", "NoClient", "KeyRefused")
# Told inside, once the terminal is there.
_HOW_TO_LEAVE = r"\; display-message -d 4000 'Ctrl-b d leaves it, and what runs here runs on'"
SESSION, OUTPUT = "pushtrain", "pushtrain-output"
# Who comes before the work tree is there waits for at most ten minutes.
_OPENING = (
    f"n=0; until tmux has-session -t {SESSION} 2> /dev/null || [ $n -ge 600 ]; do n=$((n+1)); "
    '[ $n -ne 3 ] || echo "the session is being opened ..."; sleep 1; done'
)


@dataclass(frozen=True, kw_only=True)
class Attached:
    """`code` is the exit code of the client; None: there was no way onto the pod, and `why` says so."""

    code: int | None
    why: str = ""


def attach(line: Line, name: str, say: Callable[[str], None], *, wait_s: float) -> Attached:
    """A terminal on the run's pod until somebody leaves it (Ctrl-b d) or the pod goes. Raises SshError where waiting
    was in vain or somebody else answers (HostKeyChanged)."""
    record = newest_run(line.ledger, name)
    try:
        found, files = line.reach(name, wait_s=wait_s)
    except SshError as refused:
        if refused.reason not in _GIVES_UP:
            raise
        return Attached(code=None, why=str(refused))
    if found.proxy and not is_session(record):
        return Attached(code=None, why="this pod is reached by RunPod's proxy alone, which takes no command")
    if found.proxy:
        say(f"by RunPod's proxy: a terminal; type `tmux attach -t {SESSION}` there")
    code = run_client(argv(record, found, files))
    if code == 255:
        say(lost(line, found))
    return Attached(code=code)


def argv(record: RunRecord, found: Endpoint, files: SshFiles) -> list[str]:
    """The client's command line."""
    return ssh_argv(found, files, "" if found.proxy else remote_command(record, found), tty=True)


def remote_command(record: RunRecord, found: Endpoint) -> str:
    """For the shell there. Anything but a session is shown in a tmux of its own, so that Ctrl-b d leaves it, too; an
    image without tmux shows it plainly."""
    if is_session(record):
        return _tmux(f"{_OPENING}; exec tmux attach-session -t {SESSION} {_HOW_TO_LEAVE}")
    log = shlex.quote(f"{found.folder}/runs/{found.run_id}/attempt-{found.attempt}/trainer.log")
    shown = f"tail -n 1000 -F {log}"
    in_tmux = f"exec tmux new-session -A -s {OUTPUT} {shlex.quote(shown)} {_HOW_TO_LEAVE}"
    return f"if command -v tmux > /dev/null; then {_tmux(in_tmux)}; else exec {shown}; fi"


def is_session(record: RunRecord) -> bool:
    return "session" in record.run


def _tmux(command: str) -> str:
    return f'mkdir -p "${{TMUX_TMPDIR:-/tmp}}" && {command}'
