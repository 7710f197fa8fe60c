"""Git remotes for tests: bare repositories in a folder, reached as files or by an ssh that can be cut at any moment."""

import os
import subprocess
from pathlib import Path

from pushtrain.events import EventDraft
from pushtrain.ledger import Ledger

SHA = "0123456789abcdef0123456789abcdef01234567"
SPEC = "89abcdef" * 8
RUN_ID = f"job-{SHA[:8]}-{SPEC[:8]}"

# Stands for ssh: `ssh … host "git-receive-pack '/path'"`. The file `orders` beside it says how the network is:
# down: no connection; mute: the next push lands and its answer is lost; late: it is given up, and lands only when the
# push after it begins; otherwise all is well.
_SSH = """\
#!/bin/sh
here=$(dirname "$0")
orders=$(cat "$here/orders" 2>/dev/null)
for last; do :; done
if [ "$orders" = down ]; then
  echo "ssh: connect to host git.example port 22: Connection refused" >&2
  exit 255
fi
eval "set -- $last"
case "$orders:$1" in
mute:git-receive-pack)
  rm "$here/orders"
  "$1" "$2" | "$here/first_answer"
  exit 255 ;;
late:git-receive-pack)
  echo landing >"$here/orders"
  cp -r "$2" "$here/late"
  "$1" "$here/late" | "$here/first_answer"
  exit 255 ;;
landing:git-receive-pack)
  rm "$here/orders"
  git -C "$2" fetch -q "$here/late" "+refs/heads/*:refs/heads/*" ;;
esac
exec sh -c "$last"
"""
# Lets the list of refs through (up to its flush packet), then nothing more: what comes after is the answer to the push.
_FIRST_ANSWER = """\
#!/usr/bin/env python3
import sys
while True:
    size = int(sys.stdin.buffer.read(4) or b"0", 16)
    sys.stdout.buffer.write(b"%04x" % size + sys.stdin.buffer.read(max(0, size - 4)))
    if size == 0:
        break
sys.stdout.buffer.flush()
sys.stdin.buffer.read()
"""


class Remote:
    """A bare repository, and the environment of everybody who uses it. `url` goes by the fake ssh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "remote.git"
        self._ssh = folder / "ssh"
        self._ssh.mkdir(parents=True)
        for name, text in (("ssh", _SSH), ("first_answer", _FIRST_ANSWER)):
            (self._ssh / name).write_text(text)
            (self._ssh / name).chmod(0o755)
        self.env = git_environ(folder) | {"GIT_SSH_COMMAND": str(self._ssh / "ssh"), "GIT_SSH_VARIANT": "ssh"}
        self.git("init", "-q", "--bare", "--initial-branch=main", str(self.path))
        self.url = f"ssh://git@git.example{self.path}"
        self.file_url = f"file://{self.path}"

    def order(self, orders: str) -> None:
        """How the network is from now on: down, mute (for one push), late (for one push) or well."""
        (self._ssh / "orders").write_text(orders)

    def ledger(self, cache: str = "cache", **more: object) -> Ledger:
        options = {"url": self.url, "environ": self.env} | more
        return Ledger(cache_dir=self.folder / cache, **options)  # type: ignore[arg-type]

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", *args], env=self.env, capture_output=True, timeout=150, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def show(self, *args: str) -> str:
        """What somebody with nothing but git sees."""
        return self.git("-C", str(self.path), *args)

    def hook(self, name: str, script: str) -> None:
        hook = self.path / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{script}\n")
        hook.chmod(0o755)


def git_environ(folder: Path) -> dict[str, str]:
    """An environment in which git knows nothing of this machine's user."""
    who = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    return {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), **who, **quiet}


def event(state: str, **more: object) -> EventDraft:
    return EventDraft(**({"state": state, "writer": "control", "attempt": 1} | more))  # type: ignore[arg-type]


def claim(ledger: Ledger, run_id: str = RUN_ID) -> str:
    files = {"spec.yaml": b"version: 1\n", "run.json": b'{"job": "job"}\n'}
    return ledger.claim(run_id, files=files, event=event("claimed"))
