"""A work tree as one commit: what is committed, and what is not. Somebody is at work in it: neither their branch nor
their index is touched.

A snapshot's first parent is HEAD, its second the one that was pushed before where HEAD does not contain it: so each
push goes forward, whatever was amended, rebased or checked out in between, and `TIP^1` is what people committed.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pushtrain.errors import LedgerError
from pushtrain.gitcmd import git
from pushtrain.pod.session.tree import PUSHED, Place
from pushtrain.redact import secret_values

# GitHub warns of files above it, and refuses twice as much.
LARGEST_BYTES = 50 * 1000 * 1000
_PIECE_BYTES = 32 * 1024 * 1024
_GIT_S = 300.0
_WHO = {
    f"GIT_{who}_{key}": value
    for who in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "pushtrain session"), ("EMAIL", "session@pushtrain.invalid"))
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """`commit` to push; `files` that were changed and not committed; `left_out`: why, by path. `is_autosave`: it is a
    commit of ours, and not simply HEAD."""

    commit: str
    files: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    is_autosave: bool = False


def snapshot(place: Place, environ: Mapping[str, str], subject: str, *, flat: bool = False) -> Snapshot:
    """`subject` is the first line of the commit, where one is made. `flat`: without what people committed since the
    last push, as files only; so it is where one of their commits holds a secret of `environ`.

    Raises LedgerError for what git cannot do, OSError.
    """
    secrets = [value.encode() for value in secret_values(environ)]
    head, pushed = _commit(place, "HEAD"), _commit(place, PUSHED)
    flat = flat or (head is not None and _taints(place, head, pushed, secrets))
    against = (pushed or place.commit) if flat or head is None else head
    tree, files, left_out = _tree(place, against, secrets)
    if flat and head is not None:
        left_out["(history)"] = "commits of the session are saved as files: one of them holds a secret, or was refused"
    parents = [] if flat or head is None else [head]
    if pushed is not None and not (parents and _is_ancestor(place, pushed, parents[0])):
        parents.append(pushed)
    parents = parents or [place.commit]
    is_known = pushed is not None and (flat or head is None or _is_ancestor(place, head, pushed))
    for commit in ([pushed] if pushed and is_known else []) + (parents if len(parents) == 1 else []):
        if tree == place.git("rev-parse", f"{commit}^{{tree}}"):
            return Snapshot(commit=commit, left_out=left_out)
    told = f"{subject}\n\n{files} files were changed and not committed.\n" if files else f"{subject}\n"
    argv = ["commit-tree", tree, *(part for parent in parents for part in ("-p", parent)), "-F", "-"]
    made = git(argv, env={**place.plain, **_WHO}, cwd=place.work, stdin=told.encode()).stdout.decode().strip()
    return Snapshot(commit=made, files=files, left_out=left_out, is_autosave=True)


def _tree(place: Place, against: str, secrets: Sequence[bytes]) -> tuple[str, int, dict[str, str]]:
    """Tree of the whole work tree, by an index of its own; how many files differ from `against`; what is left out."""
    index = place.work / ".git" / "pushtrain-index"
    try:
        # With its time: git looks into a file that changed in the second its index was written.
        shutil.copy2(place.work / ".git" / "index", index)
    except FileNotFoundError:
        index.unlink(missing_ok=True)
    env = {**place.plain, "GIT_INDEX_FILE": str(index), "GIT_LITERAL_PATHSPECS": "1"}

    def ask(args: Sequence[str], names: Sequence[str] = ()) -> bytes:
        stdin = b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in names)
        return git(args, env=env, cwd=place.work, stdin=stdin, timeout_s=_GIT_S, ok=(0, 1)).stdout

    try:
        changed = _names(ask(["diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", against]))
        changed += _names(ask(["ls-files", "-z", "--others", "--exclude-standard"]))
        left_out = {name: why for name in changed if (why := _refusal(place, name, secrets))}
        kept = [name for name in dict.fromkeys(changed) if name not in left_out]
        from_input = ["--pathspec-from-file=-", "--pathspec-file-nul"]
        if kept:
            ask(["add", "-A", "--ignore-errors", *from_input], kept)
        if without := [name for name in left_out if not name.endswith("/")]:
            ask(["reset", "-q", against, *from_input], without)
        return ask(["write-tree"]).decode().strip(), len(kept), left_out
    finally:
        index.unlink(missing_ok=True)


def _refusal(place: Place, name: str, secrets: Sequence[bytes]) -> str:
    """Why a file does not go along; empty where it does."""
    path = place.work / name
    if name.endswith("/"):
        return "it is a repository of its own"
    if path.is_symlink() or not path.is_file():
        return ""
    if (size := path.stat().st_size) > LARGEST_BYTES:
        return f"it has {size / 1e6:.0f} MB; {LARGEST_BYTES / 1e6:.0f} MB are the most"
    raw = path.read_bytes()
    return "it holds the value of a secret" if any(secret in raw for secret in secrets) else ""


def _taints(place: Place, head: str, pushed: str | None, secrets: Sequence[bytes]) -> bool:
    """Whether what people committed since the last push holds a secret: it would be everybody's for ever."""
    if not secrets:
        return False
    known = [place.commit, *([pushed] if pushed else [])]
    listed = place.git("rev-list", "--objects", head, "--not", *known)
    shas = "\n".join(line.split(" ", 1)[0] for line in listed.splitlines())
    if not shas:
        return False
    check = ["cat-file", "--batch-check=%(objecttype) %(objectsize) %(objectname)"]
    told = git(check, env=place.plain, cwd=place.work, stdin=shas.encode()).stdout.decode()
    rows = [line.split() for line in told.splitlines()]
    sizes = {sha: int(size) for kind, size, sha in rows if kind in ("blob", "commit", "tag")}
    return any(
        secret in git(["cat-file", "--batch"], env=place.plain, cwd=place.work, stdin=piece, timeout_s=_GIT_S).stdout
        for piece in _pieces(sizes)
        for secret in secrets
    )


def _pieces(sizes: Mapping[str, int]) -> Iterator[bytes]:
    """Names of objects, together of a size that fits into memory; one that is too large to be pushed is left out."""
    piece, total = list[str](), 0
    for sha, size in sizes.items():
        if size > 2 * LARGEST_BYTES:
            continue
        piece, total = [*piece, sha], total + size
        if total > _PIECE_BYTES:
            yield "\n".join(piece).encode()
            piece, total = [], 0
    if piece:
        yield "\n".join(piece).encode()


def _commit(place: Place, name: str) -> str | None:
    try:
        return place.git("rev-parse", "--verify", "-q", f"{name}^{{commit}}")
    except LedgerError:
        return None


def _is_ancestor(place: Place, earlier: str, later: str) -> bool:
    argv = ["merge-base", "--is-ancestor", earlier, later]
    return git(argv, env=place.plain, cwd=place.work, ok=(0, 1)).returncode == 0


def _names(raw: bytes) -> list[str]:
    return [part.decode("utf-8", "surrogateescape") for part in raw.split(b"\0") if part]
