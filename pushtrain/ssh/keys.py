"""Our key in the account. RunPod's PUT replaces the whole list and has no condition, so every write is made of a list
that was just read, and read back: two people at once both end up in it."""

import random
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Cloud
from pushtrain.errors import CloudError, CloudUnavailable, SshError
from pushtrain.fleet import members
from pushtrain.pod.ssh import fingerprint
from pushtrain.ssh.client import KEY_NAME, KEY_VARIABLE, home, private_key

# What RunPod's own schema takes (UpdateSshKeysRequest), and what `ssh-keygen` writes.
_PUBLIC = re.compile(r"((?:ssh|ecdsa|sk)-\S+) ([A-Za-z0-9+/=]+)(?: [^\r\n]*)?")
_TRIES = 8
# Between a read and the write that follows it lie some hundred milliseconds: who looks again after that sees the other.
_SETTLE_S = 1.0


class AccountKeys(Protocol):
    """The part of `pushtrain.cloud.Cloud` that knows keys."""

    def ssh_keys(self) -> list[str]: ...

    def replace_ssh_keys(self, keys: Sequence[str]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class OwnKey:
    """A key pair on this machine. `line` is the public half as authorized_keys has it; the other half is never read."""

    path: Path
    line: str
    was_made: bool = False

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.line.split()[1])


def find_or_make(environ: Mapping[str, str]) -> OwnKey:
    """PUSHTRAIN_SSH_KEY, ~/.ssh/pushtrain_ed25519 or ~/.ssh/id_ed25519; where none is there, the second is made.

    Raises SshError (NoClient, BadKey).
    """
    named = environ.get(KEY_VARIABLE)
    path = private_key(environ)
    if path is None and named:
        raise SshError(f"{KEY_VARIABLE} names {named}, which is not there", hint=f"unset {KEY_VARIABLE}, or make it")
    if path is not None:
        return OwnKey(path=path, line=public_line(path))
    path = home(environ) / ".ssh" / KEY_NAME
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _keygen("-q", "-t", "ed25519", "-N", "", "-C", f"pushtrain@{socket.gethostname()}", "-f", str(path))
    return OwnKey(path=path, line=public_line(path), was_made=True)


def public_line(path: Path) -> str:
    """The public half of a private key: the file beside it, else asked of ssh-keygen. Raises SshError (BadKey)."""
    beside = path.with_name(f"{path.name}.pub")
    line = (beside.read_text() if beside.is_file() else _keygen("-y", "-P", "", "-f", str(path))).strip()
    if not _PUBLIC.fullmatch(line):
        raise SshError(f"{beside} is not one public key", hint=f"ssh-keygen -y -f {path} > {beside}", reason="BadKey")
    return line


def register(
    account: AccountKeys,
    line: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> bool:
    """Put `line` among the account's keys and keep every other one; False when it was there already.

    It is there when two looks a second apart have found it. Raises CloudError; CloudUnavailable when others keep
    writing over it.
    """
    added, seen, failed = False, 0, None
    for _ in range(_TRIES):
        keys = account.ssh_keys()
        if has(keys, line):
            seen += 1
            if not added or seen == 2:
                return added
        else:
            seen = 0
            if account.ssh_keys() == keys:
                added = True
                try:
                    account.replace_ssh_keys([*keys, line])
                except CloudUnavailable as unclear:  # it may have been taken: the next look tells
                    failed = unclear
        sleep(_SETTLE_S * (1 + jitter()))
    raise failed or CloudUnavailable(
        "somebody else keeps changing the account's ssh keys: ours does not stay among them",
        hint="run pushtrain ssh-key again in a minute",
    )


def takers(clouds: Cloud) -> dict[str, Cloud]:
    """The clouds that take keys, by name. Raises SshError (NoWayIn) where none does."""
    there = members(clouds)
    if takes := {name: cloud for name, cloud in there.items() if CLOUDS[name].has_ssh_keys}:
        return takes
    ways = "; ".join(f"{CLOUDS[name].title}: {CLOUDS[name].way_in}" for name in there)
    raise SshError("no cloud whose API key is set takes ssh keys for its pods", hint=ways, reason="NoWayIn")


def register_everywhere(
    clouds: Cloud, key: OwnKey, told: Callable[[str], None], say: Callable[[str], None]
) -> list[CloudError]:
    """`register` at every cloud that takes keys, with a line for each to `told`; returns what failed, after all were
    asked. `say` hears of clouds that take none. Raises SshError (NoWayIn) where none does."""
    takes = takers(clouds)
    for name in members(clouds).keys() - takes.keys():
        say(f"{CLOUDS[name].title} takes no keys for pods: {CLOUDS[name].way_in}")
    failures = list[CloudError]()
    for name, cloud in takes.items():
        where = f"{CLOUDS[name].title}: " if len(takes) > 1 else ""
        try:
            added = register(cloud, key.line)
            others = len(cloud.ssh_keys()) - 1
        except CloudError as failure:
            failures.append(failure)
            continue
        kept = "no other key is there" if not others else f"{others} other key{'s' if others > 1 else ''} kept"
        told(f"{where}{key.fingerprint} {'is registered now' if added else 'was registered already'}; {kept}")
    return failures


def has(keys: Sequence[str], line: str) -> bool:
    """By the key itself: a comment may differ."""
    return line.split()[:2] in [key.split()[:2] for key in keys]


def _keygen(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except FileNotFoundError:
        hint = "apt-get install openssh-client"
        raise SshError("there is no ssh-keygen here", hint=hint, reason="NoClient") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or ["it failed"]
        raise SshError(f"ssh-keygen: {said[0]}", hint=f"name another key with {KEY_VARIABLE}", reason="BadKey")
    return done.stdout
