"""Rows of a .jsonl dataset: which form they have, and whether each has what training needs.

Standard library only and streaming: `pushtrain check` reads a file of the commit with it, the trainer the same file on
the pod, and the trainer also asks it about rows that come from the Hub.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pushtrain.errors import SpecError

Form = Literal["messages", "prompt/completion", "instruction/output", "text"]

# Order matters: Hub datasets often carry a rendered `text` or a lone `prompt` beside the columns they mean.
FORMS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt/completion": ("prompt", "completion"),
    "instruction/output": ("instruction", "output"),
    "text": ("text",),
}
DATA_MISSING = "DataMissing"
FORMS_HINT = (
    "a row is one JSON object a line with prompt and completion, with instruction, output and perhaps input, "
    "with messages (a list of {role, content}), or with text"
)


class Row(NamedTuple):
    """`number` is the line in the file, from 1; `record` is what the file says, extra fields included."""

    number: int
    form: Form
    record: dict[str, Any]


def data_file(path: str, root: Path) -> Path:
    """The file a spec's `data.path` names, symlinks followed.

    Raises SpecError when it leaves the repository at `root`, is not a file, or (reason DATA_MISSING) is not there.
    """
    base = root.resolve()
    try:
        found = (base / path).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        hint = "the path counts from the repository's root"
        raise SpecError(f"data.path {path!r} is not there", hint=hint, reason=DATA_MISSING) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(f"data.path {path!r} cannot be followed: {error}") from None
    if not found.is_relative_to(base):
        raise SpecError(
            f"data.path {path!r} leaves the repository by a symlink", hint="commit the file itself, not a link to it"
        )
    if not found.is_file():
        raise SpecError(f"data.path {path!r} is not a file")
    return found


def read_rows(path: Path, shown: str | None = None) -> Iterator[Row]:
    """Every row of a .jsonl file; blank lines are passed over.

    Raises SpecError, with `where` = `shown:line`, at the first row that is not UTF-8, not a JSON object, lacks a field,
    or has another form than the row before it; and at the end when there was no row at all.
    """
    shown = shown or str(path)
    form: Form | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = _decode(line, number, f"{shown}:{number}")
            if record is None:
                continue
            if form is None:
                form = form_of(record)
            if (what := fault(record, form)) is not None:
                raise _row_error(what, number, f"{shown}:{number}")
            assert form is not None  # a record without a form has a fault
            yield Row(number, form, record)
    if form is None:
        raise SpecError("the dataset is empty: not one row", where=shown, hint=FORMS_HINT, reason="EmptyDataset")


def form_of(record: Mapping[str, Any]) -> Form | None:
    """The first form all of whose fields the record has, else the first it has a field of, else None."""
    for form, fields in FORMS.items():
        if all(field in record for field in fields):
            return form
    return next((form for form, fields in FORMS.items() if any(field in record for field in fields)), None)


def fault(record: Mapping[str, Any], form: Form | None) -> str | None:
    """What keeps this record from being a row of `form`, as half a sentence; None when it is one."""
    if form is None:
        names = ", ".join(sorted(record)[:8])
        return f"has none of the known forms (its fields: {names[:200]})"
    for field in FORMS[form]:
        value = record.get(field)
        if value is None:
            return _missing(record, form, field)
        if form == "messages":
            return _messages_fault(value)
        if not isinstance(value, str):
            return f"{field!r} must be text, not {_kind(value)}"
        # What is learned must not be empty: a batch without one target token has a loss of NaN.
        if field in ("completion", "output", "text") and not value.strip():
            return f"{field!r} is empty: nothing to learn"
    if form == "instruction/output" and (extra := record.get("input")) is not None and not isinstance(extra, str):
        return f"'input' must be text, not {_kind(extra)}"
    return None


def _missing(record: Mapping[str, Any], form: Form, field: str) -> str:
    other = form_of(record)
    if other not in (None, form) and all(record.get(name) is not None for name in FORMS[other]):
        return f"has the form {other}, the rows before it {form}: {field!r} is missing"
    return f"{field!r} is missing"


def _messages_fault(messages: object) -> str | None:
    if not isinstance(messages, list) or not messages:
        return f"'messages' must be a list of {{role, content}}, not {_kind(messages)}"
    answered = False
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            return f"messages[{index}] must be an object with role and content, not {_kind(message)}"
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                what = f"must be text, not {_kind(message[field])}" if field in message else "is missing"
                return f"messages[{index}]: {field!r} {what}"
        answered = answered or (message["role"] == "assistant" and bool(message["content"].strip()))
    return None if answered else "'messages' has no assistant message with content: nothing to learn"


def _decode(line: bytes, number: int, where: str) -> dict[str, Any] | None:
    """The JSON object on a line, None for a blank line."""
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    if not line.strip():
        return None
    try:
        text = line.decode()
        record = json.loads(text)
        # \ud83d alone is JSON but no text: it would stop the tokenizer in the middle of a run.
        if b"\\ud" in line or b"\\uD" in line:
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise _row_error(f"is not UTF-8 at byte {error.start + 1}", number, where) from None
    except UnicodeEncodeError:
        raise _row_error("holds half of a surrogate pair, which is no character", number, where) from None
    except RecursionError:
        raise _row_error("is nested too deep", number, where) from None
    except ValueError as error:
        if line.startswith(b"version https://git-lfs"):
            hint = "commit the data itself, or put it on the Hub and use data.source"
            raise SpecError("is a Git LFS pointer, not the data", where=where, hint=hint) from None
        raise _row_error(f"is not JSON: {error}", number, where) from None
    if not isinstance(record, dict):
        raise _row_error(f"must be a JSON object, not {_kind(record)}", number, where)
    return record


def _row_error(what: str, number: int, where: str) -> SpecError:
    return SpecError(f"row {number}: {what}", where=where, hint=FORMS_HINT, reason="InvalidRow")


def _kind(value: object) -> str:
    if value in ("", []):
        return "an empty one"
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
