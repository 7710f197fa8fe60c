"""What people see: two streams, failures as two lines (and an annotation on GitHub), JSON. All of it redacted."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType

from pushtrain.errors import PushtrainError, SpecError
from pushtrain.redact import redact

# Text of specs, logs and clouds is never markup, and the :100: in file:100:5 is no emoji.
out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def report(failure: PushtrainError) -> None:
    """Print one failure for a person: what and where, then what to do."""
    err.print(f"error: {redact(str(failure))}", style="red")
    if failure.hint:
        err.print(f"hint:  {redact(failure.hint)}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # A runner reads both streams; stdout stays clean for --json.
        print(annotation(failure), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """One line for people, on stderr, so that stdout stays clean for --json."""
    err.print(redact(text))


def print_drawn(drawn: RenderableType) -> None:
    """A table or a group of them: redacted as text, with its colours where stdout is a terminal."""
    with out.capture() as kept:
        out.print(drawn)
    print(redact(kept.get()), end="", flush=True)


def print_json(document: object) -> None:
    """Plain, whatever rich makes of the terminal or of FORCE_COLOR."""
    print(redact(json.dumps(document, indent=2)), flush=True)


def annotation(failure: PushtrainError) -> str:
    """GitHub's workflow command for an error at a place in a file; newlines and % are escaped as it asks for."""
    text = redact(str(failure)).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    where = getattr(failure, "where", None) or ""
    match = re.fullmatch(r"(.+?)(?::(\d+))?(?::(\d+))?", redact(where), re.DOTALL)
    parts = zip(("file", "line", "col"), match.groups() if match else (), strict=False)
    place = ",".join(f"{key}={_property(value)}" for key, value in parts if value)
    return f"::error {place}::{text}" if place else f"::error::{text}"


def _property(text: str) -> str:
    for special in "%\r\n:,":
        text = text.replace(special, f"%{ord(special):02X}")
    return text


def workflow_output(name: str, value: str) -> None:
    """An output of a workflow's step, `steps.ID.outputs.NAME`; nothing elsewhere. One line, no secret."""
    path = os.environ.get("GITHUB_OUTPUT")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{name}={value}\n")


def tick_reporter() -> Callable[[object], None]:
    """Reports the failures of each tick; a wrong spec, which stays wrong until somebody pushes, once."""
    told: set[str] = set()

    def report_tick(done: object) -> None:
        from pushtrain.reconcile import Tick

        assert isinstance(done, Tick)
        for failure in done.failures:
            if not isinstance(failure, SpecError) or str(failure) not in told:
                report(failure)
            told.add(str(failure))

    return report_tick


def report_tick(done: object) -> None:
    tick_reporter()(done)
