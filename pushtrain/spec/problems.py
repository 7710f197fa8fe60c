"""pydantic's errors about a job spec, in the words and at the place of the file the user wrote."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pushtrain.spec import KINDS, JobSpec, kind_of, tasks_of
from pushtrain.spec.names import WrongAt
from pushtrain.spec.yaml_tree import Mark, Node, Problem, Tree, descend, shorten

Path = tuple[str | int, ...]

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "a mapping of keys",
}


def explain(invalid: ValidationError, tree: Tree, root: Node, model: type[BaseModel] | None = None) -> list[Problem]:
    """One problem for each place that is wrong, in the order of the file; `model` where it is no job spec."""
    kind = model or kind_of(root.value)
    faults = [_fault(kind, root, error) for error in invalid.errors(include_url=False, include_input=False)]
    # Of a union pydantic reports every branch: one with an error further in is the branch that was meant.
    faults = [fault for fault in faults if not (fault.of_union and any(_is_under(other, fault) for other in faults))]
    by_path: dict[Path, _Fault] = {}
    for fault in faults:
        before = by_path.get(fault.path)
        by_path[fault.path] = (
            replace(before, says=f"{before.says} or {fault.says.removeprefix('must be ')}") if before else fault
        )
    in_order = sorted(by_path.values(), key=lambda fault: (fault.at.line, fault.at.column))
    return [Problem(where=tree.where(fault.at), message=fault.message, hint=fault.hint) for fault in in_order]


def described(node: Node) -> str:
    """What stands at a node, as an error message names it."""
    if isinstance(node.value, dict):
        return "a mapping of keys"
    if isinstance(node.value, list):
        return "a list" if node.value else "an empty list"
    if node.is_empty:
        return "nothing"
    return shorten(ascii(node.value) if isinstance(node.value, str) else node.written)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    """`says` completes the sentence that starts with the path; `found` is what stands there instead."""

    path: Path
    at: Mark
    says: str
    found: str = ""
    hint: str | None = None
    of_union: bool = False

    @property
    def message(self) -> str:
        keys = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")
        keys = shorten(keys if keys.isprintable() else ascii(keys), 100)
        return f"{keys} {self.says}" + (f", not {self.found}" if self.found else "")


def _fault(kind: type[BaseModel], root: Node, error: Mapping[str, Any]) -> _Fault:
    told = error.get("ctx", {}).get("error")
    loc: Path = (*error["loc"], *(told.path if isinstance(told, WrongAt) else ()))
    fault = error["type"]
    node, path = descend(root, loc)
    if fault == "missing":
        path = (*path, loc[-1])
        return _Fault(path=path, at=node.at, says="is missing", hint=_description(kind, path))
    if fault == "extra_forbidden":
        return _unknown_key(kind, root, path)
    return _Fault(
        path=path,
        at=node.at,
        says=_says(fault, error) if path != ("task",) else f"must be {_either(_tasks())}",
        found=described(node) if fault != "value_error" or not isinstance(node.value, dict) else "",
        hint=(told.hint if isinstance(told, WrongAt) else None)
        or _value_hint(fault, node)
        or (_description(kind, path) if fault != "value_error" else None),
        of_union=len(loc) > len(path),
    )


def _unknown_key(kind: type[BaseModel], root: Node, path: Path) -> _Fault:
    key = str(path[-1])
    at = descend(root, path[:-1])[0].keys[key]
    others = [other for other in KINDS if len(path) == 1 and key in other.model_fields]
    if others and issubclass(kind, JobSpec):
        task, said = root.children.get("task"), _either(task for other in others for task in tasks_of(other))
        here = described(task) if task is not None else f"{tasks_of(kind)[0]!r}, which it is when left out"
        return _Fault(path=path, at=at, says=f"is not for task {here}", hint=f"{key!r} is for task {said}")
    return _Fault(path=path, at=at, says="is not a key that is known here", hint=_nearest_keys(kind, path[:-1], key))


def _tasks() -> list[str]:
    return [task for kind in KINDS for task in tasks_of(kind)]


def _either(words: Iterable[str]) -> str:
    *most, last = [repr(word) for word in words]
    return f"{', '.join(most)} or {last}" if most else last


def _is_under(other: _Fault, fault: _Fault) -> bool:
    return len(other.path) > len(fault.path) and other.path[: len(fault.path)] == fault.path


def _says(kind: str, error: Mapping[str, Any]) -> str:
    context = error.get("ctx", {})
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}"
    # «Input should be greater than 0», «List should have at least 1 item after validation, not 0»
    said = str(error["msg"]).replace(" after validation", "").partition(", not ")[0]
    return re.sub(r"^(Input|String|List) should", "must", said).replace("be False", "be false")


def _value_hint(kind: str, node: Node) -> str | None:
    """What to write in place of a value of the wrong type, where that can be told."""
    if kind == "string_type" and not isinstance(node.value, dict | list | None):
        return f'put it in quotes: "{shorten(node.written)}"'
    if kind == "bool_type" and str(node.value).lower() in ("yes", "on", "true", "no", "off", "false", "0", "1"):
        return "write true or false, without quotes"
    if kind in ("int_type", "int_from_float") and _is_number(node.value) and float(node.value).is_integer():
        return f"write {int(float(node.value))}"
    if kind in ("float_type", "literal_error") and node.is_quoted and _is_number(node.value):
        return f"write {node.value} without quotes"
    if kind == "model_type" and node.value is None:
        return "write its keys below it, indented, or delete it"
    return None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        return abs(float(value)) < 1e15
    except (ValueError, OverflowError):
        return False


def _description(kind: type[BaseModel], path: Path) -> str | None:
    """What the spec's model says about the field at `path`."""
    keys = [part for part in path if isinstance(part, str)]
    model = _model_at(kind, keys[:-1])
    known = model.model_fields.get(keys[-1]) if model is not None and keys else None
    if known is None:
        return None
    part = _part(known)
    return known.description or (inspect.getdoc(part) if part is not None else None)


def _model_at(kind: type[BaseModel], keys: Sequence[str | int]) -> type[BaseModel] | None:
    model: type[BaseModel] = kind
    for key in keys:
        part = _part(model.model_fields.get(str(key)))
        if part is None:
            return None
        model = part
    return model


def _part(known: FieldInfo | None) -> type[BaseModel] | None:
    """The mapping that a field is, or may be."""
    annotation = known.annotation if known is not None else None
    parts = [it for it in (annotation, *get_args(annotation)) if isinstance(it, type) and issubclass(it, BaseModel)]
    return parts[0] if parts else None


def _nearest_keys(kind: type[BaseModel], path: Path, key: str) -> str | None:
    """Keys of this mapping that look like `key`; else the mapping that has it; else all keys there are."""
    model = _model_at(kind, path)
    if model is None:
        return None
    near = get_close_matches(key[:80].lower(), model.model_fields, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(repr(name) for name in near)}?"
    homes = [home for home, part in _parts(kind) if key in part.model_fields and part is not model]
    if homes:
        return f"{key!r} belongs {' or '.join(f'in {home!r}' if home else 'at the top' for home in homes)}"
    return f"known here: {', '.join(model.model_fields)}"


def _parts(kind: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every mapping of a job spec under its dotted name, the top under the empty one."""
    waiting: list[tuple[str, type[BaseModel]]] = [("", kind)]
    while waiting:
        home, model = waiting.pop(0)
        yield home, model
        for name, known in model.model_fields.items():
            if (part := _part(known)) is not None:
                waiting.append((f"{home}.{name}".lstrip("."), part))
