"""Puts pushtrain into an existing repository: workflows, a policy, a first job that rents nothing, and the tool itself.

The tool is copied because Action and pod run what the commit holds, and nothing else: to the top, or, in a repository
that has a project or folders of those names, into a folder of its own, to which the workflows then point. All is
written, or nothing.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from git import InvalidGitRepositoryError, NoSuchPathError, Repo

from pushtrain.errors import PushtrainError, SpecError
from pushtrain.pod.tool import ASIDE

PROJECT = Path(__file__).parents[1]
WORKFLOWS = tuple(f".github/workflows/{name}.yml" for name in ("prices", "review", "train"))
_ROOMS = ("pushtrain", "infra", "trainer")
# At the top of the repository wherever the tool is.
_FILES = (
    *WORKFLOWS,
    "pushtrain-policy.yaml",
    "jobs/gpu-check.yaml",
    "jobs/gpu-check.py",
    "jobs/schema.json",
    "jobs/policy-schema.json",
)
# Beside the tool.
_TOOL_FILES = ("pyproject.toml", "uv.lock", "Pulumi.yaml")
# What a repository has of its own is kept; pyproject.toml names the first two.
_WHERE_ABSENT = ("README.md", "LICENSE")
_IGNORED = (".pushtrain/", ".venv/")
# What a workflow says differently where the tool is in a folder of its own.
_MOVED = (
    ("uv sync ", f"uv sync --project {ASIDE} "),
    ("uv run --no-sync", f"uv run --project {ASIDE} --no-sync"),
    ("../tool/.venv/", f"../tool/{ASIDE}/.venv/"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Paths relative to the repository: `made` were not there, `replaced` said something else. `tool` is the folder of
    the tool, empty for the top; `unignored` what the repository's .gitignore should name."""

    made: tuple[str, ...]
    replaced: tuple[str, ...]
    tool: str = ""
    unignored: tuple[str, ...] = ()

    def as_text(self) -> str:
        note = [f"add to .gitignore: {', '.join(self.unignored)}"] if self.unignored else []
        if not self.made + self.replaced:
            return "\n".join(["everything is there already", *note])
        begin = tuple(f"{_below(self.tool, it)}/" for it in _ROOMS)
        tool = [it for it in self.made + self.replaced if it.startswith(begin)]
        lines = [f"wrote {it}" for it in self.made if it not in tool]
        lines += [f"replaced {it}" for it in self.replaced if it not in tool]
        return "\n".join([*lines, f"wrote {len(tool)} files of the tool in {', '.join(begin)}", *note])

    def next_steps(self) -> str:
        """What a person does now, with the tool of this very repository."""
        call = f"uv run --project {self.tool} pushtrain" if self.tool else "uv run pushtrain"
        return _NEXT.format(call=call)


_NEXT = """\
next:
  1. git add --all && git commit -m "pushtrain" && git push
  2. the secrets and the environment gpu: README of pushtrain, "Your first run", steps 2 to 6
  3. GITHUB_TOKEN=$(gh auth token) {call} doctor
  4. take `suspend: true` out of jobs/gpu-check.yaml, on a branch, and open a pull request"""


def init(folder: Path, *, force: bool = False, source: Path = PROJECT) -> Written:
    """Write into the work tree at or above `folder` what is not there; with `force` also over what says otherwise.

    Raises SpecError outside a work tree, PushtrainError where something would be overwritten, or lie outside of the
    repository; nothing is written then.
    """
    root = _root(folder)
    if not has_templates(source):
        hint = "run it from a clone: uv run --project CLONE pushtrain init"
        raise PushtrainError("this pushtrain was installed without its workflows", hint=hint, reason="NoTemplates")
    at = tool_place(root)
    wanted = dict(_wanted(source, root, at))
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
    return Written(made=tuple(made), replaced=tuple(other), tool=at, unignored=_unignored(root))


def has_templates(source: Path = PROJECT) -> bool:
    """Whether this pushtrain has with it what `init` writes."""
    return (source / WORKFLOWS[0]).is_file()


def tool_place(root: Path) -> str:
    """Where the tool belongs in this repository: ASIDE, or "" for the top."""
    if _is_ours(root / "pyproject.toml"):
        return ""
    taken = [name for name in (*_ROOMS, *_TOOL_FILES, ASIDE) if (root / name).exists()]
    return ASIDE if taken else ""


def templates(root: Path, source: Path = PROJECT) -> Mapping[str, bytes]:
    """The workflows as `init` would write them into `root`: path → bytes."""
    return {name: _template(source, name, tool_place(root)) for name in WORKFLOWS}


def tool_files(root: Path, source: Path = PROJECT) -> Mapping[str, bytes]:
    """The tool's own files likewise."""
    return dict(_tool(source, tool_place(root)))


def _wanted(source: Path, root: Path, at: str) -> Iterator[tuple[str, bytes]]:
    yield from ((name, _template(source, name, at)) for name in _FILES)
    yield from _tool(source, at)
    for name in _WHERE_ABSENT:
        if not (root / _below(at, name)).exists() and (source / name).is_file():
            yield _below(at, name), (source / name).read_bytes()
    if not (root / ".gitignore").exists() and (source / ".gitignore").is_file():
        yield ".gitignore", (source / ".gitignore").read_bytes()
    for path in sorted(source.glob("prices*.json")):
        yield path.name, path.read_bytes()


def _tool(source: Path, at: str) -> Iterator[tuple[str, bytes]]:
    yield from ((_below(at, name), (source / name).read_bytes()) for name in _TOOL_FILES)
    for room in _ROOMS:
        for path in sorted((source / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield _below(at, path.relative_to(source).as_posix()), path.read_bytes()


def _template(source: Path, name: str, at: str) -> bytes:
    text = (source / name).read_bytes()
    if at and name in WORKFLOWS:
        for top, aside in _MOVED:
            text = text.replace(top.encode(), aside.encode())
    return text


def _below(at: str, name: str) -> str:
    return f"{at}/{name}" if at else name


def _is_ours(pyproject: Path) -> bool:
    try:
        return bool(tomllib.loads(pyproject.read_text("utf-8")).get("project", {}).get("name") == "pushtrain")
    except (OSError, ValueError):
        return False


def _unignored(root: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip().strip("/") for line in (root / ".gitignore").read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return ()
    return tuple(it for it in _IGNORED if it.strip("/") not in lines)


def _says(path: Path, text: bytes) -> bool:
    return path.is_file() and path.read_bytes() == text


def _root(folder: Path) -> Path:
    try:
        with Repo(folder, search_parent_directories=True) as repo:
            return Path(repo.working_tree_dir or folder).resolve()
    except (InvalidGitRepositoryError, NoSuchPathError):
        raise SpecError(f"{folder} is not inside a git work tree", hint="git init") from None
