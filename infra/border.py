"""A pushtrain error on its way through the Pulumi CLI, which only knows text.

`pushtrain[NoCapacity]: no NVIDIA A40 in EU-SE-1 [hint: later, or another GPU]` on one line, readable by a person who
runs the CLI by hand. `decode(encode(error))` has the class, reason, message and hint of `error`.
"""

import re

from pushtrain import errors
from pushtrain.errors import PushtrainError
from pushtrain.redact import redact

_ENCODED = re.compile(
    r"pushtrain\[(?P<name>\w+)(?:/(?P<reason>\w+))?\]: (?P<message>.*?)(?: \[hint: (?P<hint>.*)\])?$", re.MULTILINE
)


class Encoded(Exception):
    """Raised inside Pulumi's provider process in place of a pushtrain error."""


def encode(error: PushtrainError) -> str:
    """One redacted line. `reason` is written only where it is not the one of the error's class."""
    name = type(error).__name__
    reason = "" if error.reason == type(error).reason else f"/{error.reason}"
    hint = f" [hint: {_one_line(error.hint)}]" if error.hint else ""
    return redact(f"pushtrain[{name}{reason}]: {_one_line(str(error))}{hint}")


def decode(text: str) -> PushtrainError | None:
    """The first encoded error in `text`; None when there is none of a class we have."""
    for match in _ENCODED.finditer(text):
        error_class = getattr(errors, match["name"], None)
        if isinstance(error_class, type) and issubclass(error_class, PushtrainError):
            return error_class(match["message"], hint=match["hint"], reason=match["reason"])
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())
