"""What the plugin's errors mean. Pure: it only passes texts on, through Pulumi's output.

GraphQL has no status per refusal, so most are told apart by RunPod's English, as on REST v2 for lack of capacity.
"""

import re
from collections.abc import Iterable, Iterator

from infra.clouds.answers import Answer
from infra.clouds.runpod.answers import SPEAKS
from pushtrain.errors import CloudError
from pushtrain.redact import redact

# The CLI groups what it says by resource: a line that names it, then deeper lines.
_HEADING = re.compile(r"^ {2}(?P<type>\S+) \(.*\):$")
_PLUGINS = ("runpod:index:", "pulumi:providers:runpod")
_STATUS = re.compile(r"returned error (\d{3})")
# genqlient's mark of an error that the API itself put into its answer, and which field said it.
_REFUSED = re.compile(r"\binput:(?:\d+:)? *\w* *(?P<said>.*)")
_BY_TEXT: tuple[tuple[int | None, tuple[str, ...]], ...] = (
    (402, ("account balance is too low",)),
    (409, ("must remove this network volume from all pods",)),
    (500, ("something went wrong", "internal server error", "api returned nil")),
    # No usable answer came: whether it was carried out nobody knows.
    (None, ('post "', "context deadline exceeded", "invalid character", "unexpected end of json")),
)


def decode(text: str, doing: str = "RunPod's plugin") -> CloudError | None:
    """The first error of the plugin in the CLI's output; None when none is its own. `doing` says what was asked."""
    answer = answer_in(text)
    return None if answer is None else SPEAKS.failure(answer, doing)


def answer_in(text: str) -> Answer | None:
    """What RunPod answered, as far as the plugin's first error in the CLI's output tells."""
    answers = (_answer(said) for said in _said_by_plugin(text.splitlines()))
    return next((answer for answer in answers if answer is not None), None)


def _said_by_plugin(lines: Iterable[str]) -> Iterator[str]:
    """What stands after `error:` under one of its resources."""
    is_plugins = False
    for line in lines:
        heading = _HEADING.match(line)
        if heading:
            is_plugins = heading["type"].startswith(_PLUGINS)
        elif is_plugins and "error: " in line:
            yield line.partition("error: ")[2].strip()


def _answer(line: str) -> Answer | None:
    lower, status, refused = line.lower(), _STATUS.search(line), _REFUSED.search(line)
    said = redact(refused["said"] if refused else line)[:400]
    if status:
        return Answer(status=int(status[1]), said=said, json={})
    for code, texts in _BY_TEXT:
        if any(text in lower for text in texts):
            return Answer(status=code, said=said, json={})
    # Any other refusal of a resolver is a 400 in the words of REST v2: capacity, or a rule.
    return Answer(status=400, said=said, json={}) if refused else None
