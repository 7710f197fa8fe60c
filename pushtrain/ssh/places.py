"""What a person names in `cp` and `sync`: a place here, or `RUN:path` on the pod of a run. Pure."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pushtrain.errors import UsageError
from pushtrain.ssh.client import SshFiles, option_arguments
from pushtrain.ssh.endpoint import Endpoint

# As scp does: a colon after a name without a slash; whose file is called so writes ./name:rest.
_REMOTE = re.compile(r"(?P<run>[a-z0-9][a-z0-9-]*):(?P<path>.*)", re.DOTALL)
_GLOB = re.compile(r"([*?\[\]{}\\])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One transfer. `here` are paths of this machine, `there` of the pod, as they were written; `up`: from here to
    there. `contents`: what is in the folder, not the folder (sync)."""

    run: str
    here: tuple[str, ...]
    there: tuple[str, ...]
    up: bool
    contents: bool = False
    delete: bool = False
    exclude: tuple[str, ...] = ()


def read_places(sources: Sequence[str], target: str) -> Copy:
    """Raises UsageError (BadPlace) unless exactly one side is on a pod, and all of that side on one."""
    from_pod = [match for source in sources if (match := _REMOTE.fullmatch(source))]
    to_pod = _REMOTE.fullmatch(target)
    runs = {match["run"] for match in from_pod}
    if to_pod and not from_pod:
        return Copy(run=to_pod["run"], here=tuple(sources), there=(to_pod["path"],), up=True)
    if len(from_pod) == len(sources) and len(runs) == 1 and not to_pod:
        return Copy(run=runs.pop(), here=(target,), there=tuple(match["path"] for match in from_pod), up=False)
    raise UsageError(
        "one side has to be RUN:path and the other one here",
        hint="pushtrain cp data.tar my-job:data/ · pushtrain cp my-job:runs/x/log.txt . · ./a:b is a file here",
        reason="BadPlace",
    )


def on_pod(endpoint: Endpoint, path: str) -> str:
    """Relative paths count from the volume's folder."""
    return path if path.startswith("/") else f"{endpoint.folder}/{path}"


def here(path: str) -> str:
    """A path that no tool takes for an option or for a host."""
    return path if path.startswith(("/", "./", "../")) or path in (".", "..") else f"./{path}"


def rsync_argv(copy: Copy, endpoint: Endpoint, files: SshFiles, *, progress: bool) -> list[str]:
    """An upload is written in place, so that what a lost pod has taken is on the volume for the next one; a download
    that breaks off is kept beside the file. Both go on from there: rsync compares what is there block by block."""
    argv = ["rsync", "--recursive", "--links", "--times", "--perms", "--secluded-args", "--timeout=60"]
    argv += ["--info=progress2"] if progress else ["--info=stats1"]
    argv += ["--inplace"] if copy.up else ["--partial", "--partial-dir=.pushtrain-partial"]
    argv += ["--delete"] if copy.delete else []
    argv += [f"--exclude={pattern}" for pattern in copy.exclude]
    ssh = ["ssh", *option_arguments(endpoint, files), "-p", str(endpoint.port)]
    argv += [f"--rsh={shlex.join(ssh)}"]
    slash = "/" if copy.contents else ""
    ours = [_ended(here(path), slash) for path in copy.here]
    theirs = [f"{endpoint.user}@{endpoint.host}:{_ended(on_pod(endpoint, path), slash)}" for path in copy.there]
    if copy.up:
        # Before the first byte: rsync makes one folder at most.
        parent = on_pod(endpoint, copy.there[0])
        parent = parent if parent.endswith("/") or copy.contents or len(ours) > 1 else str(Path(parent).parent)
        return [*argv, f"--rsync-path=mkdir -p {shlex.quote(parent)} && rsync", "--", *ours, theirs[0]]
    return [*argv, "--", *theirs, ours[0]]


def scp_argv(copy: Copy, endpoint: Endpoint, files: SshFiles) -> list[str]:
    """Where one of the two has no rsync. By SFTP, which takes names as they are, but for its own wildcards."""
    argv = ["scp", "-r", "-p", *option_arguments(endpoint, files), "-P", str(endpoint.port)]
    address = f"{endpoint.user}@{endpoint.host}:"
    theirs = [address + _GLOB.sub(r"\\\1", on_pod(endpoint, path)) for path in copy.there]
    if copy.up:
        return [*argv, "--", *(here(path) for path in copy.here), address + on_pod(endpoint, copy.there[0])]
    return [*argv, "--", *theirs, here(copy.here[0])]


def _ended(path: str, slash: str) -> str:
    return path if path.endswith("/") else path + slash
