"""GitHub's expressions, as much of them as workflows here use.

Operators, their order and the loose comparison by docs.github.com/actions/reference/workflows-and-actions/expressions.
What is not understood is an error: an expression that silently became an empty text would prove nothing.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pushtrain.errors import PushtrainError

Status = Literal["success", "failure", "cancelled", "skipped"]
_INSIDE = re.compile(r"\$\{\{((?:(?!\}\}).)*)\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)|(?P<call>(?:always|success|failure|cancelled)\(\))"
    r"|(?P<name>[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)|(?P<sign>==|!=|&&|\|\||!|\(|\)))"
)
_WORDS = {"true": True, "false": False, "null": None}


def filled(text: str, contexts: Mapping[str, Any], status: Status = "success") -> Any:
    """A text with its expressions filled in; the value itself where it is nothing but one expression."""
    whole = _INSIDE.fullmatch(text.strip())
    if whole:
        return evaluate(whole[1], contexts, status)
    return _INSIDE.sub(lambda it: as_text(evaluate(it[1], contexts, status)), text)


def holds(condition: str, contexts: Mapping[str, Any], status: Status) -> bool:
    """An `if:` of a job or step: without a word about the status it asks for success as well."""
    whole = _INSIDE.fullmatch(condition.strip())
    inner = whole[1] if whole else condition
    value = _truth(evaluate(inner, contexts, status))
    asks = any(match["call"] for match in _TOKEN.finditer(inner))
    return value and (asks or status == "success")


def evaluate(text: str, contexts: Mapping[str, Any], status: Status = "success") -> Any:
    """Raises PushtrainError (reason NotEmulated) for what is not understood."""
    reader = _Reader(text, contexts, status)
    value = reader.either()
    reader.end()
    return value


def as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


class _Reader:
    """Recursive descent: `||` binds least, then `&&`, comparisons, `!`."""

    def __init__(self, text: str, contexts: Mapping[str, Any], status: Status) -> None:
        self._contexts, self._status, self._source = contexts, status, text
        self._tokens: list[tuple[str, str]] = []
        at, text = 0, text.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found:
                raise self._wrong()
            self._tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()

    def end(self) -> None:
        if self._tokens:
            raise self._wrong()

    def either(self) -> Any:
        value = self._both()
        while self._takes("||"):
            other = self._both()
            value = value if _truth(value) else other
        return value

    def _both(self) -> Any:
        value = self._compared()
        while self._takes("&&"):
            other = self._compared()
            value = other if _truth(value) else value
        return value

    def _compared(self) -> Any:
        value = self._single()
        while self._tokens and self._tokens[0][1] in ("==", "!="):
            sign = self._tokens.pop(0)[1]
            value = _equal(value, self._single()) is (sign == "==")
        return value

    def _single(self) -> Any:
        if self._takes("!"):
            return not _truth(self._single())
        if self._takes("("):
            value = self.either()
            if not self._takes(")"):
                raise self._wrong()
            return value
        if not self._tokens:
            raise self._wrong()
        kind, text = self._tokens.pop(0)
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "number":
            return float(text)
        if kind == "call":
            return text == "always()" or text == f"{self._status}()"
        if kind == "name":
            return _WORDS[text] if text in _WORDS else self._look_up(text)
        raise self._wrong()

    def _look_up(self, name: str) -> Any:
        """A property that is not there is null; a context that is not there is a mistake of ours."""
        first, *rest = name.split(".")
        if first not in self._contexts:
            raise self._wrong()
        found: Any = self._contexts[first]
        for key in rest:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def _takes(self, sign: str) -> bool:
        if self._tokens and self._tokens[0] == ("sign", sign):
            self._tokens.pop(0)
            return True
        return False

    def _wrong(self) -> PushtrainError:
        return PushtrainError(f"the expression is not understood: {self._source.strip()}", reason="NotEmulated")


def _truth(value: Any) -> bool:
    return bool(value) and not (isinstance(value, float) and math.isnan(value))


def _equal(left: Any, right: Any) -> bool:
    """Texts without regard to capitals; what is of two kinds is compared as numbers."""
    if isinstance(left, str) and isinstance(right, str):
        return left.lower() == right.lower()
    if type(left) is type(right):
        return bool(left == right)
    return _number(left) == _number(right)


def _number(value: Any) -> float:
    if value is None or isinstance(value, bool | int | float):
        return float(value or 0)
    try:
        return float(value or 0) if isinstance(value, str) else math.nan
    except ValueError:
        return math.nan
