"""Records to rows: columns under the names the forms use, one form for all, each row judged."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pushtrain.errors import SpecError
from pushtrain.rows.files import ENDINGS, records, row_error
from pushtrain.rows.forms import FORMS, FORMS_HINT, TASK_FORMS, Form, fault, form_of, with_messages


class Row(NamedTuple):
    """`number` is the line or row in the file, from 1; `record` is what the file says, extra fields included."""

    number: int
    form: Form
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a spec says about rows: its task, the form it insists on, and the file's name for a field of the form.

    `skipped` is told of each row that cannot be read or trained on, which then is passed over; without it the first one
    ends the reading.
    """

    task: str = "sft"
    form: Form | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    skipped: Callable[[SpecError], None] | None = None

    @property
    def forms(self) -> tuple[Form, ...]:
        return (self.form,) if self.form else TASK_FORMS[self.task]


ANY_SFT = Reading()


def read_rows(
    path: Path, shown: str | None = None, reading: Reading = ANY_SFT, *, head: int | None = None
) -> Iterator[Row]:
    """Every row of a file, or the first `head`.

    Raises SpecError, with `where` = `shown:number`, at the first row that cannot be read, lacks a field, or has another
    form than the row before it or than `reading` asks for; and at the end when there was no row at all.
    """
    shown = shown or str(path)
    if path.suffix not in ENDINGS:
        raise SpecError(
            f"the ending {path.suffix!r} is not one that is read", where=shown, hint=f"{', '.join(ENDINGS)}"
        )
    return judged(islice(records(path, shown), head), shown, reading)


def judged(found: Iterable[tuple[int, dict[str, Any] | SpecError]], shown: str, reading: Reading) -> Iterator[Row]:
    """The records as rows. Raises as `read_rows` does; with `reading.skipped` only where no row is left."""
    form: Form | None = None
    empty = SpecError("the dataset is empty: not one row", where=shown, hint=FORMS_HINT, reason="EmptyDataset")
    for number, raw in found:
        try:
            row = _judged(raw, number, form, shown, reading)
        except SpecError as error:
            if reading.skipped is None:
                raise
            reading.skipped(error)
            empty = error if empty.reason == "EmptyDataset" else empty
            continue
        form = row.form
        yield row
    if form is None:
        raise empty


def _judged(raw: dict[str, Any] | SpecError, number: int, form: Form | None, shown: str, reading: Reading) -> Row:
    """`form` is that of the rows before; None for the first one."""
    if isinstance(raw, SpecError):
        raise raw
    record = with_messages(_renamed(raw, reading.columns, number, shown) if reading.columns else raw)
    form = form or _recognised(record, reading, number, shown)
    what = fault(record, form)
    if what is None and reading.task == "seq2seq" and isinstance(record.get("prompt"), list):
        what = "'prompt' must be text for seq2seq, not a list"
    if what is not None or form is None:  # a record without a form has a fault
        raise row_error(str(what), number, shown)
    return Row(number, form, record)


def _renamed(raw: dict[str, Any], columns: Mapping[str, str], number: int, shown: str) -> dict[str, Any]:
    for name, column in columns.items():
        if column not in raw:
            there = ", ".join(sorted(map(str, raw))[:8])
            hint = f"the columns of this row: {there[:200]}"
            text = f"row {number}: data.columns.{name}: there is no column {column!r}"
            raise SpecError(text, where=f"{shown}:{number}", hint=hint, reason="InvalidRow")
    return raw | {name: raw[column] for name, column in columns.items()}


def _recognised(record: Mapping[str, Any], reading: Reading, number: int, shown: str) -> Form | None:
    """The form of the first row, which every other row must have, too."""
    form, other = form_of(record, reading.forms), form_of(record)
    if fault(record, form) is not None and other not in (None, *reading.forms) and fault(record, other) is None:
        raise _mismatch(other, reading, number, shown)
    if form is None and shown.endswith((".csv", ".tsv")):
        there = ", ".join(map(ascii, record))[:200]
        hint = f"its first line must name the columns, and says {there}. {FORMS_HINT}"
        raise SpecError(
            "the header names no column of a known form", where=f"{shown}:1", hint=hint, reason="InvalidRow"
        )
    return form


def _mismatch(form: Form | None, reading: Reading, number: int, shown: str) -> SpecError:
    wanted = " or ".join(reading.forms)
    by = f"data.form says {wanted}" if reading.form else f"task {reading.task} takes {wanted}"
    task = next((task for task, forms in TASK_FORMS.items() if form in forms), None)
    hint = (
        f"task: {task} takes such rows" if task and not reading.form else f"the fields of {wanted}: {_fields(reading)}"
    )
    text = f"row {number}: has the form {form}, but {by}"
    return SpecError(text, where=f"{shown}:{number}", hint=hint, reason="InvalidRow")


def _fields(reading: Reading) -> str:
    return "; or ".join(" and ".join(FORMS[form]) for form in reading.forms)
