"""YAML text to plain data with a position for every key and value, and every problem found on the way.

A spec is untrusted: nothing is constructed but text, numbers, true, false, null, lists and mappings; size and depth are
bounded; anchors, aliases, tags and directives are refused. ruamel.yaml scans and parses (YAML 1.2, so `2e-4` is a
number and `yes` is text); the tree is built here from its events, because positions live there.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLStreamError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20

_SYNTAX_HINTS = {
    "mapping values are not allowed": "check the indentation; put a value that contains ': ' in quotes",
    "cannot start any token": "put the value in quotes",
    "<block end>": "check the indentation",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "unexpected end of stream": "a quote is not closed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong. `where` is `file:line:column`, `file:line` or `file`."""

    where: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Node:
    """A value and where it stands. `written` is a scalar as the file has it, `keys` where a mapping's keys stand."""

    value: Any
    at: Mark
    written: str = ""
    is_quoted: bool = False
    keys: dict[str, Mark] = field(default_factory=dict)
    children: dict[str | int, "Node"] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """True where a value is left out altogether."""
        return self.value is None and not self.written


@dataclass(slots=True)
class Tree:
    """`root` is None when the text could not be read to its end."""

    name: str
    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)

    def add(self, at: Mark, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(where=self.where(at), message=message, hint=hint))

    def where(self, at: Mark) -> str:
        return f"{self.name}:{at.line}:{at.column}"


def read_tree(source: str | bytes, name: str) -> Tree:
    """Never raises for what the text says. `name` is the path shown in problems."""
    tree = Tree(name)
    text = _decode(source, tree)
    if text is None:
        return tree
    yaml = YAML(typ="safe", pure=True)
    try:
        tree.root = _Builder(yaml, yaml.parse(text), tree).document()
    except _Stop:
        return tree
    except ReaderError as error:
        at = _mark_at(text, error.position)
        tree.add(at, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML", "delete it")
    except MarkedYAMLError as error:
        _add_syntax_problem(tree, error)
    except YAMLStreamError as error:
        tree.add(Mark(1, 1), f"not YAML: {error}")
    return tree


class _Stop(Exception):
    """The problem is written down and reading on makes no sense."""


class _Builder:
    """Builds nodes from parser events. Recursion is as deep as the text nests, which MAX_DEPTH bounds."""

    def __init__(self, yaml: YAML, events: Iterator[Event], tree: Tree) -> None:
        self._yaml = yaml
        self._events = events
        self._tree = tree

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if not isinstance(event, DocumentStartEvent):
                continue
            at = _mark(event.start_mark)
            if root is not None:
                self._tree.add(at, "a second document starts here", "one file holds one job: delete the '---' line")
                break
            if event.version or event.tags:
                self._tree.add(at, "YAML directives (%YAML, %TAG) are not allowed", "delete them: YAML 1.2 is read")
                raise _Stop
            root = self._node(next(self._events), depth=1)
            if not isinstance(end := next(self._events), DocumentEndEvent):
                self._tree.add(_mark(end.start_mark), "not YAML: more than one value")
                raise _Stop
        if root is None or root.is_empty:
            self._tree.add(Mark(1, 1), "the file is empty")
            raise _Stop
        return root

    def _node(self, event: Event, depth: int) -> Node:
        at = _mark(event.start_mark)
        if depth > MAX_DEPTH:
            self._tree.add(at, f"nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        if isinstance(event, AliasEvent):
            self._tree.add(at, f"YAML aliases (*{event.anchor}) are not allowed", "write the value out")
            return Node(None, at, written=f"*{event.anchor}")
        if anchor := getattr(event, "anchor", None):
            self._tree.add(at, f"YAML anchors (&{anchor}) are not allowed", "write the value out where it is used")
        if tag := getattr(event, "tag", None):
            self._tree.add(at, f"YAML tags ({tag}) are not allowed", "write the plain value")
        if isinstance(event, MappingStartEvent):
            return self._mapping(at, depth)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(at, depth)
        assert isinstance(event, ScalarEvent)  # nothing else starts a node
        return Node(self._scalar(event, at), at, event.value, is_quoted=event.style in ("'", '"'))

    def _mapping(self, at: Mark, depth: int) -> Node:
        node = Node({}, at)
        while not isinstance(event := next(self._events), MappingEndEvent):
            key, key_at = self._key(event, depth)
            child = self._node(next(self._events), depth + 1)
            if child.is_empty:
                child.at = key_at  # the parser puts it where the next token starts
            if key in node.keys:
                first = node.keys[key].line
                self._tree.add(key_at, f"the key {key!r} is here twice, first on line {first}", "delete one of them")
            elif key is not None:
                node.keys[key], node.children[key], node.value[key] = key_at, child, child.value
        return node

    def _key(self, event: Event, depth: int) -> tuple[str | None, Mark]:
        at = _mark(event.start_mark)
        if isinstance(event, ScalarEvent):
            if event.anchor or event.tag:
                self._tree.add(at, "a key takes neither anchor nor tag", "write the plain key")
            return event.value, at
        self._node(event, depth + 1)
        self._tree.add(at, "a key must be a plain word")
        return None, at

    def _sequence(self, at: Mark, depth: int) -> Node:
        node = Node([], at)
        while not isinstance(event := next(self._events), SequenceEndEvent):
            child = self._node(event, depth + 1)
            node.children[len(node.value)] = child
            node.value.append(child.value)
        return node

    def _scalar(self, event: ScalarEvent, at: Mark) -> object:
        """Text unless YAML 1.2's core schema says null, true, false or a number."""
        if event.tag or not event.implicit[0]:
            return event.value
        node = ScalarNode(
            self._yaml.resolver.resolve(ScalarNode, event.value, event.implicit),
            event.value,
            event.start_mark,
            event.end_mark,
        )
        kind = str(node.tag).rpartition(":")[2]
        if kind == "null":
            return None
        if kind == "bool":
            return event.value.lower() == "true"
        if kind not in ("int", "float"):
            return event.value
        try:
            constructor = self._yaml.constructor
            value = constructor.construct_yaml_int(node) if kind == "int" else constructor.construct_yaml_float(node)
        except ValueError:
            self._tree.add(at, f"{shorten(event.value)} is no number that can be read")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._tree.add(at, f"{shorten(event.value)} is not a finite number", "write an ordinary number")
        return value


def descend(node: Node, path: Sequence[str | int]) -> tuple[Node, tuple[str | int, ...]]:
    """The deepest node on `path`, and the parts of `path` that led there; parts the file does not have are skipped."""
    found: list[str | int] = []
    for part in path:
        if part in node.children:
            node = node.children[part]
            found.append(part)
    return node, tuple(found)


def shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _decode(source: str | bytes, tree: Tree) -> str | None:
    size = len(source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        hint = "a job spec is a page of text; data goes into a .jsonl file"
        tree.problems.append(Problem(where=tree.name, message=f"larger than {MAX_BYTES // 1024} KiB", hint=hint))
        return None
    if isinstance(source, str):
        return source.removeprefix("\ufeff")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = source[: error.start].decode("utf-8-sig")
        tree.add(
            _mark_at(before, len(before)), f"not UTF-8: byte 0x{source[error.start]:02X}", "save the file as UTF-8"
        )
        return None


def _add_syntax_problem(tree: Tree, error: MarkedYAMLError) -> None:
    what = error.problem or "it cannot be read"
    mark = error.problem_mark or error.context_mark
    at = _mark(mark) if mark is not None else Mark(1, 1)
    if "'\\t'" in what:
        tree.add(at, "a tab, where YAML takes spaces only", "indent and align with spaces")
        return
    hint = next((advice for part, advice in _SYNTAX_HINTS.items() if part in what), None)
    start = error.context_mark
    opened = f", {error.context} that starts on line {start.line + 1}" if error.context and start is not None else ""
    tree.add(at, f"not YAML: {what}{opened}", hint)


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _mark_at(text: str, index: int) -> Mark:
    lines = text[:index].split("\n")
    return Mark(len(lines), len(lines[-1]) + 1)
