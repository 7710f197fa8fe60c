"""The work of a session to the ledger's repository: never forced, and on some branch whatever the remote says."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pushtrain.errors import LedgerError
from pushtrain.gitcmd import REFUSED, failure, git, said
from pushtrain.pod.session.snapshot import Snapshot, snapshot
from pushtrain.pod.session.tree import PUSHED, Place, keep_branch
from pushtrain.redact import redact

PUSH_S = 300.0
_OTHERS_COMMITS = re.compile(
    r"(?i)non-fast-forward|fetch first|stale info|reference already exists|incorrect old value"
)
_PASSING = re.compile(r"(?i)cannot lock ref|failed to (update|lock) ref|internal (server )?error")
_RULE = re.compile(r"(?i)remote rejected|declined|rule violations|\bGH0\d\d\b|refusing to allow")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """`branch` has `commit`, the work tree as it was: `files` of it were not committed by anybody."""

    branch: str
    commit: str
    files: int = 0
    is_new: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)


class Branch:
    """Where the work of a session goes. `name` changes when somebody else pushed to it, or a rule refuses it."""

    def __init__(self, place: Place, name: str, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._place, self._environ, self._say = place, environ, say
        self.name = name
        keep_branch(place, name)

    def save(self, subject: str) -> Saved:
        """Everything as it is now, on the branch. Raises LedgerError (reason PushRefused when every name is refused),
        LedgerUnavailable when the remote could not be reached, OSError."""
        now = snapshot(self._place, self._environ, subject)
        if now.commit == self._pushed():
            return Saved(branch=self.name, commit=now.commit, left_out=now.left_out)
        try:
            self._push(now.commit)
        except LedgerError as error:
            if error.reason != REFUSED:
                raise
            self._say(f"session: {error}; trying without the commits of the session, as files")
            now = snapshot(self._place, self._environ, subject, flat=True)
            self._push(now.commit)
        return self._saved(now)

    def _saved(self, now: Snapshot) -> Saved:
        self._place.git("update-ref", PUSHED, now.commit)
        keep_branch(self._place, self.name)
        return Saved(branch=self.name, commit=now.commit, files=now.files, is_new=True, left_out=now.left_out)

    def _pushed(self) -> str | None:
        return self._place.git("rev-parse", "--verify", "-q", PUSHED, ok=(0, 1)) or None

    def _push(self, commit: str) -> None:
        refusal: LedgerError | None = None
        for name in self._candidates():
            argv = ["push", "--porcelain", "--no-verify", self._place.ledger_url, f"{commit}:refs/heads/{name}"]
            env = {**self._place.to_ledger}
            done = git(argv, env=env, cwd=self._place.work, timeout_s=PUSH_S, ok=tuple(range(256)))
            if done.returncode == 0:
                self.name = name
                return
            words = said(done)
            if _PASSING.search(words):
                raise failure("push", done)
            if _OTHERS_COMMITS.search(words):
                refusal = LedgerError(f"the branch {name} has commits of somebody else", reason=REFUSED)
                self._say(f"session: {refusal}, which stay; the work goes to another branch from here on")
            elif _RULE.search(words):
                refusal = LedgerError(f"the remote refuses {name}: {_why(words)}", reason=REFUSED)
                self._say(f"session: {refusal}")
            else:
                raise failure("push", done)
        raise refusal or LedgerError("no branch to push to", reason=REFUSED)

    def _candidates(self) -> Sequence[str]:
        """The branch of now, and those after it."""
        names = list(self._place.names)
        return names[names.index(self.name) :] if self.name in names else [self.name, *names]


def _why(words: str) -> str:
    """What the remote says of a refusal: a rule's name stands in its first lines, git's own summary at the end."""
    told = [line.removeprefix("remote: ").strip() for line in words.splitlines() if line.startswith("remote: ")]
    return redact(" / ".join(line for line in told if line)[:500] or words.strip()[-300:])
