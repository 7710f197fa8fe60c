"""A job spec file to a JobSpec: every problem of the file at once, each with file:line:column and what to do."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import models_json_schema

from pushtrain.errors import SpecError
from pushtrain.spec import KINDS, JobSpec, job_spec, tasks_of
from pushtrain.spec.problems import described, explain
from pushtrain.spec.yaml_tree import MAX_BYTES, Node, Problem, Tree, descend, read_tree, shorten

__all__ = [
    "MAX_BYTES",
    "Problem",
    "SpecFile",
    "load",
    "loads",
    "parse",
    "read",
    "schema_json",
    "shown_path",
    "spec_error",
    "write_text",
]

MAX_PROBLEMS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecFile:
    """What one file says. `spec` is None when there is a problem."""

    name: str
    spec: JobSpec | None
    problems: tuple[Problem, ...]
    tree: Tree

    def where(self, *path: str | int) -> str:
        """`file:line:column` of the value at `path`, or of the nearest thing above it that the file has."""
        if self.tree.root is None:
            return self.name
        return self.tree.where(descend(self.tree.root, path)[0].at)

    def written(self, *path: str | int) -> Any:
        """The plain value at `path` as the file has it, valid or not; None when it is not there."""
        if self.tree.root is None:
            return None
        node, found = descend(self.tree.root, path)
        return node.value if len(found) == len(path) else None


def load(path: Path, root: Path | None = None) -> JobSpec:
    """The spec in a file. With `root`, paths are shown relative to it and a file outside it is refused.

    Raises SpecError that names every problem; its `where` is the first one's.
    """
    return _spec_or_raise(read(path, root))


@lru_cache(maxsize=256)
def loads(text: str | bytes, name: str, *, check_name: bool = True) -> JobSpec:
    """The spec in a text. `name` is its path, shown in errors; `check_name=False` lets `name:` differ from it.

    Remembered, because a reconcile that follows asks for the same texts every tick and a spec never changes.

    Raises SpecError that names every problem; its `where` is the first one's.
    """
    return _spec_or_raise(parse(text, name, check_name=check_name))


def read(path: Path, root: Path | None = None) -> SpecFile:
    """As `load`, with the problems as data. Never raises for what the file is or says."""
    shown = shown_path(path, root)
    try:
        if path.is_symlink():
            return _unreadable(shown, "is a symlink; a job spec is a file of its own", "copy the file it points at")
        if root is not None and not path.resolve().is_relative_to(root.resolve()):
            return _unreadable(shown, "is not in the repository")
        if not path.exists():
            return _unreadable(shown, "is not there", "job specs are jobs/NAME.yaml; without an argument all are taken")
        # A device or a pipe would never end.
        if not path.is_file():
            return _unreadable(shown, "is not a file", "name job specs; without an argument all of jobs/ are taken")
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1), shown)
    except (OSError, RuntimeError) as error:
        return _unreadable(shown, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def parse(text: str | bytes, name: str, *, check_name: bool = True) -> SpecFile:
    """As `loads`, with the problems as data. Never raises for what the text says."""
    tree = read_tree(text, _printable(name))
    problems, spec = list(tree.problems), None
    if tree.root is not None and not isinstance(tree.root.value, dict):
        message = f"a job spec is a mapping of keys, not {described(tree.root)}"
        problems.append(Problem(where=tree.where(tree.root.at), message=message, hint="start with 'version: 1'"))
    elif tree.root is not None:
        try:
            spec = job_spec(tree.root.value)
        except ValidationError as invalid:
            # What could not be read as a value is said once, not again as a value of the wrong type.
            known = {problem.where for problem in problems}
            problems += [problem for problem in explain(invalid, tree, tree.root) if problem.where not in known]
        if check_name and (misnamed := _name_problem(tree, tree.root)) is not None:
            problems += [] if misnamed.where in {problem.where for problem in problems} else [misnamed]
    return SpecFile(name=tree.name, spec=None if problems else spec, problems=_bounded(problems), tree=tree)


def spec_error(problems: Sequence[Problem]) -> SpecError:
    """One SpecError that says all of `problems` (at least one), a line each."""
    first, *others = problems
    if not others:
        return SpecError(first.message, where=first.where, hint=first.hint)
    texts = [f"{problem.message} ({problem.hint})" if problem.hint else problem.message for problem in problems]
    lines = [texts[0], *(f"{problem.where}: {text}" for problem, text in zip(others, texts[1:], strict=True))]
    return SpecError("\n".join(lines), where=first.where)


def shown_path(path: Path, root: Path | None) -> str:
    """`path` as errors show it: relative to `root` where it lies in it."""
    if root is not None and path.absolute().is_relative_to(root.absolute()):
        return _printable(path.absolute().relative_to(root.absolute()).as_posix())
    return _printable(str(path))


def schema_json() -> str:
    """The JSON schema of a job spec, for editors; the file jobs/schema.json holds it. `task` chooses the kind."""
    refs, definitions = models_json_schema([(kind, "validation") for kind in KINDS])
    first, *others = KINDS
    schema: dict[str, Any] = refs[first, "validation"]
    for kind in others:
        named = {"properties": {"task": {"enum": list(tasks_of(kind))}}, "required": ["task"]}
        schema = {"if": named, "then": refs[kind, "validation"], "else": schema}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "JobSpec", "type": "object"}
    return json.dumps({**head, **schema, **definitions}, indent=2, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> bool:
    """Writes a file; False when it said so already."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def _spec_or_raise(file: SpecFile) -> JobSpec:
    if file.spec is None:
        raise spec_error(file.problems)
    return file.spec


def _unreadable(name: str, message: str, hint: str | None = None) -> SpecFile:
    return SpecFile(name=name, spec=None, problems=(Problem(where=name, message=message, hint=hint),), tree=Tree(name))


def _bounded(problems: list[Problem]) -> tuple[Problem, ...]:
    rest = len(problems) - MAX_PROBLEMS
    if rest > 0:
        last = problems[MAX_PROBLEMS]
        return (*problems[:MAX_PROBLEMS], Problem(where=last.where, message=f"{rest} more problems from here on"))
    return tuple(problems)


def _name_problem(tree: Tree, root: Node) -> Problem | None:
    name, path = root.children.get("name"), PurePath(tree.name)
    if name is None or not isinstance(name.value, str) or name.value == path.stem:
        return None
    message = f"name is {shorten(ascii(name.value))}, but the file is {path.name}"
    return Problem(where=tree.where(name.at), message=message, hint=f"write 'name: {path.stem}', or rename the file")


def _printable(name: str) -> str:
    """A file name with a line break in it must not write a line of its own into a log."""
    return name if name.isprintable() else ascii(name)
