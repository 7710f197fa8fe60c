"""Desired state: every job spec in jobs/ at the HEAD commit. Read from git objects, never from the work tree."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from git import Blob, GitError, Repo, Tree

from pushtrain.errors import LedgerError, SpecError
from pushtrain.pod.tool import ASIDE
from pushtrain.policy.file import NO_POLICY, PolicyFile, policy_in
from pushtrain.run import Run
from pushtrain.spec import CommandSpec, JobSpec, TrainingSpec
from pushtrain.spec.file import MAX_BYTES, loads, spec_error


@dataclass(frozen=True, kw_only=True)
class Job:
    """One committed job spec. `text` is the file as committed."""

    spec: JobSpec
    spec_path: str
    text: bytes
    commit: str

    @functools.cached_property
    def digest(self) -> str:
        """The spec's, computed once: every tick compares it."""
        return self.spec.digest

    def run(self, ledger_url: str) -> Run:
        return Run(job=self.spec.name, commit=self.commit, spec_digest=self.digest, ledger_url=ledger_url)

    @property
    def claim(self) -> str:
        """The name under which this spec is claimed, whatever the commit."""
        return f"{self.spec.name}-{self.digest[:8]}"


@dataclass(frozen=True, kw_only=True)
class Desired:
    """What HEAD asks for. A file that cannot be read is a problem, not a deletion: its name is still `named`. `policy`
    is HEAD's own, which holds for everything that is claimed."""

    commit: str
    jobs: Mapping[str, Job]
    named: frozenset[str]
    problems: tuple[SpecError, ...]
    policy: PolicyFile = NO_POLICY


def desired(root: Path, known: Desired | None = None) -> Desired:
    """Every jobs/*.yaml at HEAD; `known` again when it is of that very commit.

    Raises SpecError when there is no commit yet, LedgerError when git cannot read it.
    """
    try:
        with Repo(root) as repo:
            repo.git.rev_parse("--git-dir")  # GitPython takes a repository that git refuses to read for an empty one
            if known is not None and repo.head.is_valid() and repo.head.commit.hexsha == known.commit:
                return known
            return _desired(repo, root)
    except GitError as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        hint = f"try: git -C {root} status; where it speaks of ownership, git config --global safe.directory helps"
        raise LedgerError(f"git cannot read {root}: {said[0] if said else 'no reason'}", hint=hint) from None


def lock_digest(root: Path) -> str | None:
    """Git's blob id of uv.lock at HEAD: what the pod's environment is installed from."""
    with Repo(root) as repo:
        item = _at_head(repo, f"{ASIDE}/uv.lock") or _at_head(repo, "uv.lock")
        return item.hexsha if item else None


def _desired(repo: Repo, root: Path) -> Desired:
    if not repo.head.is_valid():
        raise SpecError(f"{root} has no commit yet", hint="git commit the job spec first")
    commit = repo.head.commit
    jobs: dict[str, Job] = {}
    problems: list[SpecError] = []
    named: set[str] = set()
    for blob in _specs(repo):
        path = str(blob.path)
        named.add(Path(path).stem)
        try:
            if blob.size > MAX_BYTES:
                raise SpecError(f"a job spec holds at most {MAX_BYTES} bytes, this one {blob.size}", where=path)
            text = blob.data_stream.read()
            spec = loads(text, path)
            _require_file(repo, spec, path)
            if spec.name in jobs:
                message = f"the name '{spec.name}' is taken by {jobs[spec.name].spec_path}"
                raise SpecError(message, where=path, hint="give each job a name of its own")
        except SpecError as problem:
            problems.append(problem)
        else:
            jobs[spec.name] = Job(spec=spec, spec_path=path, text=text, commit=commit.hexsha)
    policy = policy_in(repo, commit.hexsha)
    problems += [spec_error([problem]) for problem in policy.problems]
    return Desired(commit=commit.hexsha, jobs=jobs, named=frozenset(named), problems=tuple(problems), policy=policy)


def _specs(repo: Repo) -> list[Blob]:
    try:
        folder = repo.head.commit.tree / "jobs"
    except KeyError:
        return []
    if not isinstance(folder, Tree):
        return []
    # Mode 0o120000 is a symbolic link: a spec is a file of its own, or it is not a spec.
    return [blob for blob in folder.blobs if str(blob.path).endswith((".yaml", ".yml")) and blob.mode != 0o120000]


def _require_file(repo: Repo, spec: JobSpec, where: str) -> None:
    """What the spec names must be in the very commit the pod fetches."""
    key, path = _named_file(spec)
    if path is None or spec.suspend:
        return
    blob, commit = _at_head(repo, path), repo.head.commit.hexsha[:8]
    if blob is None:
        hint = f"git add {path}, commit and push again"
        raise SpecError(f"{key}: '{path}' is not in commit {commit}", where=where, hint=hint)
    if isinstance(spec, CommandSpec) and not blob.mode & 0o100:
        hint = f"git update-index --chmod=+x {path}, commit and push again; or run: [bash, {path}]"
        raise SpecError(f"{key}: '{path}' is not executable in commit {commit}", where=where, hint=hint)


def _named_file(spec: JobSpec) -> tuple[str, str | None]:
    """Key and path of the one file a spec names in the commit."""
    if isinstance(spec, CommandSpec):
        return "command.run", spec.command.run if isinstance(spec.command.run, str) else None
    return "data.path", spec.data.path if isinstance(spec, TrainingSpec) else None


def _at_head(repo: Repo, path: str) -> Blob | None:
    try:
        item = repo.head.commit.tree / path
    except KeyError:
        return None
    return item if isinstance(item, Blob) else None
