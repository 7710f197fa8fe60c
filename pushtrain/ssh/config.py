"""The managed part of ~/.ssh/config: one Include line in the user's file, and a file of ours with a host for each run.

So `ssh pushtrain-RUN`, `ssh pushtrain-JOB`, scp, and editors that go by that file (VS Code's Remote-SSH) find a pod by
the name of its run. The user's file is changed once, where somebody asked for it, and only at its top.
"""

import fcntl
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pushtrain.run import RUN_ID
from pushtrain.ssh.client import SshFiles, alias, folder, home, option_values, write_private
from pushtrain.ssh.endpoint import Endpoint

INCLUDE = "Include ~/.ssh/pushtrain/config"
_NOTE = "# pushtrain: hosts of running pods; `pushtrain ssh-config --remove` takes this line away"
_HEAD = "# Written by pushtrain: a host for each run whose pod was reached. Changes here are lost.\n"
_ENTRY = re.compile(r"^Host pushtrain-(\S+)(?: pushtrain-\S+)?\n(?:[ \t].*\n)*", re.MULTILINE)


def managed(environ: Mapping[str, str]) -> Path:
    return folder(environ) / "config"


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Somebody has asked for it on this machine."""
    return managed(environ).is_file()


def include(environ: Mapping[str, str]) -> bool:
    """Put our Include line at the top of the user's file, once; True when it was not there. Before any Host block: an
    Include below one would hold for that host alone. A file that is not there is made."""
    folder(environ).mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(environ):
        if not is_wanted(environ):
            write_private(managed(environ), _HEAD)
        user = home(environ) / ".ssh" / "config"
        before = user.read_text() if user.exists() else ""
        if _has_include(before):
            return False
        write_private(user, f"{_NOTE}\n{INCLUDE}\n\n{before}" if before else f"{_NOTE}\n{INCLUDE}\n")
    return True


def remove(environ: Mapping[str, str]) -> bool:
    """Take our line and our file away; the rest of the user's file stays as it is. False: there was nothing."""
    if not folder(environ).is_dir():
        return False
    with _locked(environ):
        user = home(environ) / ".ssh" / "config"
        before = user.read_text() if user.exists() else ""
        if had := _has_include(before):
            after = re.sub(rf"(?:^{re.escape(_NOTE)}\n)?^[ \t]*{re.escape(INCLUDE)}[ \t]*\n\n?", "", before, flags=re.M)
            write_private(user, after)
        found = managed(environ).exists()
        managed(environ).unlink(missing_ok=True)
    return had or found


def hosts(environ: Mapping[str, str], mark: str) -> list[str]:
    """The runs of one ledger that have an entry; `mark` is what its resources are called first (`ledger_prefix`)."""
    if not is_wanted(environ):
        return []
    found = _ENTRY.finditer(managed(environ).read_text())
    return [match[1] for match in found if f"    # {mark}\n" in match[0]]


def update(environ: Mapping[str, str], entries: Mapping[str, str], gone: Iterable[str] = ()) -> None:
    """Write entries (`entry`) anew by run, drop those of `gone` with their pinned host keys; nothing where nobody asked
    for any of it."""
    gone = set(gone)
    if not is_wanted(environ) or not (entries or gone):
        return
    with _locked(environ):
        text = managed(environ).read_text()
        kept = {match[1]: match[0] for match in _ENTRY.finditer(text) if match[1] not in gone}
        kept = {run_id: _without_job(block, entries) for run_id, block in kept.items()} | dict(entries)
        after = _HEAD + "".join(f"\n{kept[run_id]}" for run_id in sorted(kept))
        if after != text:
            write_private(managed(environ), after)
    for run_id in gone:
        (folder(environ) / "hosts" / Path(run_id).name).unlink(missing_ok=True)


def entry(endpoint: Endpoint, files: SshFiles, mark: str) -> str:
    """The Host block of one endpoint: what `ssh_argv` says on the command line."""
    lines = [f"# {mark}", f"HostName {endpoint.host}", f"Port {endpoint.port}", f"User {endpoint.user}"]
    lines += [value.replace("=", " ", 1) for value in option_values(endpoint, files)]
    lines += ["RequestTTY force"] if endpoint.proxy else []
    names = dict.fromkeys(alias(name) for name in (endpoint.run_id, _job(endpoint.run_id)))
    return f"Host {' '.join(names)}\n" + "".join(f"    {line}\n" for line in lines)


def _job(run_id: str) -> str:
    """The job stands for the run of it that was reached last."""
    match = RUN_ID.fullmatch(run_id)
    return match["job"] if match else run_id


def _without_job(block: str, entries: Mapping[str, str]) -> str:
    for run_id in entries:
        block = re.sub(rf"\A(Host \S+) {re.escape(alias(_job(run_id)))}\n", r"\1\n", block)
    return block


def _has_include(text: str) -> bool:
    return any(line.strip() == INCLUDE for line in text.splitlines())


@contextmanager
def _locked(environ: Mapping[str, str]) -> Iterator[None]:
    """Two pushtrains at once write one after the other."""
    with (folder(environ) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
