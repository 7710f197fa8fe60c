"""Puts pushtrain into an existing repository: workflows, a policy, a first job that rents nothing, and the tool itself.

The tool is copied because Action and pod run what the commit holds, and nothing else. All is written, or nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from git import InvalidGitRepositoryError, NoSuchPathError, Repo

from pushtrain.errors import PushtrainError, SpecError

PROJECT = Path(__file__).parents[1]
_ROOMS = ("pushtrain", "infra", "trainer")
_FILES = (
    ".github/workflows/review.yml",
    ".github/workflows/train.yml",
    "pushtrain-policy.yaml",
    "jobs/gpu-check.yaml",
    "jobs/gpu-check.py",
    "jobs/schema.json",
    "jobs/policy-schema.json",
    "pyproject.toml",
    "uv.lock",
    "Pulumi.yaml",
)
# What a repository has of its own is kept; pyproject.toml names the first two.
_WHERE_ABSENT = ("README.md", "LICENSE", ".gitignore")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Paths relative to the repository: `made` were not there, `replaced` said something else."""

    made: tuple[str, ...]
    replaced: tuple[str, ...]

    def as_text(self) -> str:
        if not self.made + self.replaced:
            return "everything is there already"
        tool = [it for it in self.made + self.replaced if it.split("/")[0] in _ROOMS]
        lines = [f"wrote {it}" for it in self.made if it not in tool]
        lines += [f"replaced {it}" for it in self.replaced if it not in tool]
        return "\n".join([*lines, f"wrote {len(tool)} files of the tool in {', '.join(f'{it}/' for it in _ROOMS)}"])


NEXT = """\
next:
  1. git add --all && git commit -m "pushtrain" && git push
  2. the secrets and the environment gpu: README of pushtrain, "Your first run", steps 2 to 6
  3. GITHUB_TOKEN=$(gh auth token) pushtrain doctor
  4. take `suspend: true` out of jobs/gpu-check.yaml, on a branch, and open a pull request"""


def init(folder: Path, *, force: bool = False, source: Path = PROJECT) -> Written:
    """Write into the work tree at or above `folder` what is not there; with `force` also over what says otherwise.

    Raises SpecError outside a work tree, PushtrainError where something would be overwritten, or lie outside of the
    repository; nothing is written then.
    """
    root = _root(folder)
    if not (source / _FILES[0]).is_file():
        hint = "run it from a clone: uv run --project CLONE pushtrain init"
        raise PushtrainError("this pushtrain was installed without its workflows", hint=hint, reason="NoTemplates")
    wanted = {name: (source / name).read_bytes() for name in _names(source, root)}
    outside = [name for name in wanted if not (root / name).parent.resolve().is_relative_to(root)]
    if outside or any((root / name).is_symlink() for name in wanted):
        raise PushtrainError(f"a link leads out of the repository: {outside[:3]}", hint="take the link away first")
    there = {name for name in wanted if (root / name).exists()}
    other = sorted(name for name in there if not _says(root / name, wanted[name]))
    if other and not force:
        shown = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        hint = "look at the difference; --force writes over them, and git has what they said"
        raise PushtrainError(f"there already, and different: {shown}", hint=hint, reason="WouldOverwrite")
    made = sorted(set(wanted) - there)
    for name in [*made, *other]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(wanted[name])
    return Written(made=tuple(made), replaced=tuple(other))


def _names(source: Path, root: Path) -> Iterator[str]:
    yield from _FILES
    yield from (name for name in _WHERE_ABSENT if not (root / name).exists() and (source / name).is_file())
    if (source / "prices.json").is_file():
        yield "prices.json"
    for room in _ROOMS:
        for path in sorted((source / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(source).as_posix()


def _says(path: Path, text: bytes) -> bool:
    return path.is_file() and path.read_bytes() == text


def _root(folder: Path) -> Path:
    try:
        with Repo(folder, search_parent_directories=True) as repo:
            return Path(repo.working_tree_dir or folder).resolve()
    except (InvalidGitRepositoryError, NoSuchPathError):
        raise SpecError(f"{folder} is not inside a git work tree", hint="git init") from None
