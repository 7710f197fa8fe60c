"""The two git remotes: the ledger, which a pod's token has to write, and the source, whose main it must not."""

import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pushtrain.doctor.finding import Check, Finding, Place
from pushtrain.errors import LedgerError
from pushtrain.gitcmd import failure, git, git_env, with_config
from pushtrain.gitstore import GitStore

# Below runs/, because a rule of the remote may let nothing else be pushed; no run's id looks like it.
PROBE = "refs/heads/runs/doctor-"
_TIMEOUT_S = 20.0
# As every other verb ends without one.
NO_REMOTE_EXIT = 1
_TOKENS = "https://github.com/settings/personal-access-tokens/new"


def ledger_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Writes a branch with the pod's own credentials, reads it back, and removes it. Raises LedgerError."""
    url, token = place.settings.ledger_url, place.environ.get("PUSHTRAIN_LEDGER_TOKEN", "").strip() or None
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        yield check.wrong(f"{url}: a pod has no ssh key", "PUSHTRAIN_LEDGER_URL=https://…")
    if scheme in ("http", "https") and token is None:
        message = "PUSHTRAIN_LEDGER_TOKEN is not set: a pod could not write its run"
        yield check.wrong(message, f"Contents: read and write, for that repository only: {_TOKENS}")
    with tempfile.TemporaryDirectory(prefix="pushtrain-doctor-") as folder:
        store = GitStore(url, Path(folder), token=token or place.settings.ledger_token, environ=alone(place.environ))
        runs = store.remote_refs("refs/heads/runs/*")
        yield check.ok(f"{url} can be read: {sum(not it.startswith(PROBE) for it in runs)} runs")
        for stale in (it for it in runs if it.startswith(PROBE)):
            store.push({stale: ""}, timeout_s=_TIMEOUT_S)
        if left := [it for it in store.remote_refs(f"{PROBE}*")]:
            yield _stays(check, left[0])
            return
        yield from _probed(store, check, f"{PROBE}{secrets.token_hex(4)}")


def _probed(store: GitStore, check: Check, ref: str) -> Iterator[Finding]:
    commit = store.commit(None, {"probe": b"made and removed by pushtrain doctor\n"}, b"doctor: a probe", time.time())
    try:
        pushed = store.push({ref: commit}, create_only=True, timeout_s=_TIMEOUT_S)
        if pushed.returncode != 0:
            raise failure("push", pushed)
    finally:
        # Also after a push whose answer was lost: it may have landed.
        store.push({ref: ""}, timeout_s=_TIMEOUT_S)
    if ref in store.remote_refs(ref):
        yield _stays(check, ref)
    else:
        yield check.ok("a branch was written and removed again")


def _stays(check: Check, ref: str) -> Finding:
    message = f"can be written; the remote's rules do not let {ref} be removed, which is right for runs"
    return check.warning(message, "remove that branch by hand, as somebody who may")


def source_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Whether a pod can fetch the commit, and what the pod's token may do to the source. Raises LedgerError."""
    url, token = place.settings.source_url, place.environ.get("PUSHTRAIN_LEDGER_TOKEN", "").strip() or None
    if not url:
        fix = "git remote add origin URL, or set PUSHTRAIN_SOURCE_URL"
        yield check.wrong("no git remote: a pod could not fetch the commit", fix, NO_REMOTE_EXIT)
        return
    if urlsplit(url).scheme not in ("http", "https", "file"):
        yield check.wrong(f"{url}: a pod has no ssh key", "PUSHTRAIN_SOURCE_URL=https://…")
        return
    environ = alone(place.environ)
    readable = git(
        ["ls-remote", "--heads", url], env=git_env(url, token, environ), timeout_s=_TIMEOUT_S, ok=(0, 1, 2, 128)
    )
    if readable.returncode != 0:
        raise LedgerError(
            f"a pod cannot read {url}: {failure('ls-remote', readable)}",
            hint=f"make it public, or let PUSHTRAIN_LEDGER_TOKEN read it: {_TOKENS}",
        )
    yield check.ok(f"a pod can fetch {url}")
    if token is None:
        yield check.ok("without PUSHTRAIN_LEDGER_TOKEN a pod writes nothing there")
        return
    # A dry run asks the host for the right to push, and sends nothing.
    dry = ["push", "--dry-run", "--porcelain", "--no-verify", url, "HEAD:refs/heads/pushtrain-doctor"]
    done = git(dry, env=git_env(url, token, environ), cwd=place.root, timeout_s=_TIMEOUT_S, ok=(0, 1, 128))
    if done.returncode != 0:
        yield check.ok("the pod's token may not push to it: main is out of its reach")
    elif url == place.settings.ledger_url:
        yield from _guarded_main(place, check, token, "source and ledger are one repository")
    else:
        yield from _guarded_main(place, check, token, "the pod's token may push to the source as well")


def _guarded_main(place: Place, check: Check, token: str, why: str) -> Iterator[Finding]:
    """Only the branch's rules stand between that token and main; GitHub says whether they hold for it."""
    from pushtrain.doctor.github import bypass

    branch, may = bypass(place, token)
    fix = f"a ledger of its own (README, step 2), or a ruleset for {branch} that this token's owner cannot bypass"
    if may is False:
        yield check.ok(f"{why}; the rules of {branch} hold for the pod's token")
    elif may is True:
        yield check.wrong(f"{why}, and the pod's token can push to {branch}: who has it can start jobs", fix)
    else:
        yield check.warning(f"{why}; whether it can push to {branch} cannot be told without doing it", fix)


def alone(environ: Mapping[str, str]) -> dict[str, str]:
    """Without this machine's credential helpers: a token that is refused must not be helped out by a person's own."""
    return with_config(environ, {"credential.helper": ""})
