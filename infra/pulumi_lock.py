"""Who holds the lock of a Pulumi stack, and whether that process may still be at work.

The CLI's lock in a folder or bucket is a JSON file with a process id, a user, a host and a time, without a lease or
heartbeat (pkg/backend/diy/lock.go). A host name proves nothing: containers and hosted runners share theirs. So a lock
counts as a dead process's only when this machine wrote down that it had started that very process, and it is no more.
"""

import fcntl
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

from pushtrain.errors import StackLocked

# The engine stops a CLI after half an hour and a minute of grace; a lock this old is nobody's at work.
STALE_S = 3600.0

_ZOMBIE = "zombie"

# In the environment of a CLI and of all it starts, so that what outlives it can be found.
MARK = "PUSHTRAIN_CLI_CALL"

_OWNER = re.compile(r"created by (?P<user>[^\s@]+)@(?P<host>\S+) \(pid (?P<pid>\d+)\)(?: at (?P<since>\S+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """What one lock says. `since_s` is epoch seconds, None when it does not say."""

    user: str
    host: str
    pid: int
    since_s: float | None

    def described(self, now_s: float) -> str:
        """`root@runner-7 (process 123, for 12 min)`."""
        age = "" if self.since_s is None else f", for {_duration(now_s - self.since_s)}"
        return f"{self.user}@{self.host} (process {self.pid}{age})"


def owners(text: str) -> list[Owner]:
    """The owners named in what the CLI printed when it found a stack locked; empty where the service keeps the lock."""
    found = (match.groupdict() for match in _OWNER.finditer(text))
    return [Owner(user=it["user"], host=it["host"], pid=int(it["pid"]), since_s=_epoch_s(it["since"])) for it in found]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Process:
    """A process of this machine, told from all that ever had its id. Empty texts where there is no /proc."""

    pid: int
    started: str
    namespace: str
    boot: str
    machine: str

    @classmethod
    def of(cls, pid: int) -> "_Process":
        return cls(pid=pid, started=_started(pid), namespace=_namespace(), boot=_boot(), machine=_machine())

    def is_gone(self) -> bool:
        """False in doubt: on another machine, or in another namespace of process ids, its id means somebody else."""
        if self.boot != _boot():
            return bool(self.machine) and self.machine == _machine()
        if self.namespace != _namespace():
            return False
        return not _runs(self.pid) or _started(self.pid) != self.started


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One run of the CLI that may hold the lock of `stack`; `mark` is in the environment of all it started."""

    path: Path
    stack: str
    mark: str
    process: _Process


class Calls:
    """The CLI processes this machine has started and not yet seen the end of, one small file each in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, stack: str, pid: int, mark: str) -> Call:
        """Write down that process `pid` was just started here for `stack`. Whoever sees its end calls `end`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        process = _Process.of(pid)
        with NamedTemporaryFile("w", dir=self._folder, suffix=".json", delete=False) as stream:
            json.dump({"stack": stack, "mark": mark, "process": asdict(process)}, stream)
        return Call(path=Path(stream.name), stack=stack, mark=mark, process=process)

    def end(self, call: Call, *, held_lock: bool) -> None:
        """The call is over. When it held the lock, no call before it does, and what is known of those goes, too."""
        before = [it for it in self._of(call.stack) if it.process.is_gone()] if held_lock else []
        for over in [call, *before]:
            over.path.unlink(missing_ok=True)

    def is_dead(self, stack: str, owner: Owner) -> bool:
        """True only for a process that was started here, on this very machine, for this stack, and is gone."""
        if owner.host != socket.gethostname():
            return False
        mine = [it.process for it in self._of(stack) if it.process.pid == owner.pid]
        return bool(mine) and all(process.is_gone() for process in mine)

    def may_work(self, owner: Owner, now_s: float) -> bool:
        """False when its owner can hardly be at work any more: a dead process id of this host, or a very old lock."""
        if owner.host == socket.gethostname() and not _runs(owner.pid):
            return False
        return owner.since_s is None or now_s - owner.since_s < STALE_S

    def end_leftovers(self, stack: str) -> None:
        """Kill what dead CLIs left running: a provider may be in the middle of a create that nobody would hear of."""
        for call in self._of(stack):
            if call.process.is_gone():
                end_leftovers(call.mark)

    @contextmanager
    def alone(self, stack: str) -> Iterator[None]:
        """One process at a time breaks a stack's lock, or the second would break the lock the first has just taken."""
        path = self._folder / f"{stack}.breaking"
        with path.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackLocked.for_now(
                    f"the Pulumi stack {stack} is being unlocked by another process of this machine",
                    hint="the next tick goes on",
                ) from None
            yield
            path.unlink(missing_ok=True)

    def _of(self, stack: str) -> list[Call]:
        calls = []
        for path in sorted(self._folder.glob("*.json")):
            # Half written when its writer was killed, or just removed: it proves nothing.
            with suppress(OSError, ValueError, TypeError, KeyError):
                known = json.loads(path.read_text())
                process = _Process(**known["process"])
                calls.append(Call(path=path, stack=known["stack"], mark=known["mark"], process=process))
        return [call for call in calls if call.stack == stack]


def end_leftovers(mark: str) -> None:
    """Kill every process that has `mark`. The CLI starts its provider in a process group of its own, where that would
    wait for ever once the CLI is gone. Without /proc nothing is found."""
    wanted = f"{MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


def _runs(pid: int) -> bool:
    """False for a zombie, too: killed, and only not yet waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _started(pid) != _ZOMBIE


def _started(pid: int) -> str:
    """Clock ticks from boot to the start of the process, field 22 of proc(5); a zombie's is never a living one's."""
    stat = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    if not stat:
        return ""
    return _ZOMBIE if stat[0] == "Z" else stat[19]


def _boot() -> str:
    return _read(Path("/proc/sys/kernel/random/boot_id"))


def _machine() -> str:
    return _read(Path("/etc/machine-id"))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _epoch_s(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
