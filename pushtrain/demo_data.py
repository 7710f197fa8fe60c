"""The demo's data: question/answer pairs made from the docstrings of Python's own standard library on this machine.

The source files are read and parsed, never imported. One Python version gives the same bytes every time; the text
itself is not in the repository.
"""

import ast
import functools
import hashlib
import json
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Tests, bundled programs, and generated tables (of characters, of help topics) do not say how the library is used.
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data", "ensurepip", "this"}
MIN_WORDS, MIN_CHARS, MAX_CHARS = 4, 20, 80
TEMPLATES = {
    "function": ("What does {name} do?", "Describe the function {name}.", "What is {name} for?"),
    "method": ("What does {name} do?", "Describe the method {name}.", "What is {name} for?"),
    "class": ("What is {name}?", "Describe the class {name}.", "What does the class {name} stand for?"),
    "module": ("What is the module {name} for?", "Describe the module {name}.", "What does the module {name} hold?"),
}
# A call as some docstrings repeat it in front of the text: `S.find(sub[, start]) -> int -- `.
SIGNATURE = re.compile(r"^[\w.]+\([^()]*(\([^()]*\)[^()]*)*\)(\s*(->|=>|=)\s*[^.\s]+)?\s*(--?|:|\.)?\s*")
# Only where the next sentence visibly starts, and not after an abbreviation.
SENTENCE_END = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)(?<=[.!?])\s+(?=[A-Z\"'`(*])")
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class DemoData:
    """What `build` wrote: the number of rows, and the SHA-256 of the file's bytes."""

    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Documented:
    """Something with a docstring: `kind` is a key of TEMPLATES, `name` the dotted name that users write."""

    kind: str
    name: str
    docstring: str


def build(out: Path) -> DemoData:
    """Writes the rows to `out`, one JSON object a line, replacing the file."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()).encode()
    out.write_bytes(data)
    return DemoData(rows=len(rows()), sha256=hashlib.sha256(data).hexdigest())


@functools.cache
def rows() -> tuple[dict[str, str], ...]:
    """`{"prompt", "completion"}`, well mixed, so that the first rows are of many modules; nothing comes twice.

    A completion is the docstring's first sentence after a space: unique, so that no held-out answer is a trained one.
    """
    found, seen = [], set[str]()
    for thing in (thing for module in _modules() for thing in module):
        answer = _first_sentence(thing.docstring)
        if answer and not seen & {thing.name, answer}:
            seen |= {thing.name, answer}
            found.append({"prompt": _question(thing), "completion": f" {answer}"})
    return tuple(sorted(found, key=lambda row: _digest(row["prompt"])))


def corpus() -> str:
    """Plain text for a base model: what docstrings say after their first sentence, each under the name it belongs to.

    A paragraph a line, an empty line between modules. Which rows the trainer will hold out is not known here, so that
    no answer of any row is in it: a paragraph that holds an answer's words in sequence, whatever the case and the
    punctuation, is left out.
    """
    answers: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows():
        words = _words(row["completion"])
        answers.setdefault(tuple(words[:MIN_WORDS]), []).append(words)
    seen, modules = set[str](), []
    for module in _modules():
        lines: list[str] = []
        for thing in module:
            new = [p for p in _paragraphs(thing) if p not in seen and not _holds_an_answer(_words(p), answers)]
            seen.update(new)
            lines += [f"{thing.kind} {thing.name}", *new] if new else []
        modules.append("".join(f"{line}\n" for line in lines))
    return "\n".join(filter(None, modules))


def _holds_an_answer(words: list[str], answers: dict[tuple[str, ...], list[list[str]]]) -> bool:
    return any(
        words[start : start + len(answer)] == answer
        for start in range(len(words) - MIN_WORDS + 1)
        for answer in answers.get(tuple(words[start : start + MIN_WORDS]), ())
    )


def _question(thing: Documented) -> str:
    """The template hangs on the name alone, so that a row stays the same when other rows come or go."""
    templates = TEMPLATES[thing.kind]
    return templates[_digest(thing.name)[0] % len(templates)].format(name=thing.name)


def _first_sentence(docstring: str) -> str | None:
    """None when nothing is left that answers a question: a bare signature, a title, a whole essay."""
    sentence = SENTENCE_END.split(_flat(SIGNATURE.sub("", docstring).partition("\n\n")[0]), maxsplit=1)[0]
    if len(_words(sentence)) < MIN_WORDS or not MIN_CHARS <= len(sentence) <= MAX_CHARS or ">>>" in sentence:
        return None
    return sentence


def _paragraphs(thing: Documented) -> Iterator[str]:
    """What follows the first sentence, without examples of sessions: the base shall read prose."""
    first, *more = re.split(r"\n\s*\n", SIGNATURE.sub("", thing.docstring))
    paragraphs = (*SENTENCE_END.split(_flat(first), maxsplit=1)[1:], *map(_flat, more))
    yield from (paragraph for paragraph in paragraphs if paragraph and ">>>" not in paragraph)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _flat(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@functools.cache
def _modules() -> tuple[tuple[Documented, ...], ...]:
    return tuple(tuple(_walk(ast.parse(source), name, kind="module")) for name, source in _sources())


def _walk(node: ast.Module | Definition, name: str, kind: str) -> Iterator[Documented]:
    if docstring := ast.get_docstring(node):
        yield Documented(kind, name, docstring)
    for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
        if isinstance(child, Definition) and not child.name.startswith("_"):
            called = "method" if kind == "class" else "function"
            yield from _walk(child, f"{name}.{child.name}", "class" if isinstance(child, ast.ClassDef) else called)


def _sources() -> Iterator[tuple[str, str]]:
    """Dotted name and text of every public module, sorted; `_pydecimal` counts as the `decimal` it implements."""
    library = Path(sysconfig.get_path("stdlib"))
    for top in sorted(sys.stdlib_module_names - LEFT_OUT):
        public = top[3:] if top.startswith("_py") and top[3:] in sys.stdlib_module_names else top
        for path in sorted([library / f"{top}.py", *(library / top).rglob("*.py")]):
            parts = path.relative_to(library).with_suffix("").parts[1:]
            if parts[-1:] == ("__init__",):
                parts = parts[:-1]
            if path.is_file() and not LEFT_OUT & {*parts} and not any(p.startswith("_") for p in (public, *parts)):
                with tokenize.open(path) as file:
                    yield ".".join((public, *parts)), file.read()
