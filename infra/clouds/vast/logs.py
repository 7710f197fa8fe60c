"""A container's log as Vast.ai gives it: a copy of its end, put somewhere else a few seconds after it was asked for.

Its lines have neither a time nor a number. A line is known again by itself and the three before it.
"""

import hashlib
from collections.abc import Iterator

from infra.clouds.vast.answers import SPEAKS, is_absent
from infra.clouds.wire import Call, Wire
from pushtrain.cloud import LogLine
from pushtrain.errors import CloudUnavailable

_TAIL = 5000
_LOOK_S = 0.25
_BEFORE = 3


def follow(http: Wire, path: str, doing: str, last_event_id: str | None, timeout_s: float) -> Iterator[LogLine]:
    """What is there now, after `last_event_id` where that is still in the copy, else all of it.

    A pod that is gone has no lines. Raises CloudError for a refusal, and where no copy came within `timeout_s`.
    """
    until = http.clock() + timeout_s
    body, limit_s = {"tail": str(_TAIL)}, http.limits.read_s
    answer = http.send(Call(method="PUT", path=path, body=body, timeout_s=limit_s, repeatable=True))
    if is_absent(answer):
        return
    if not answer.ok:
        raise SPEAKS.failure(answer, doing)
    with SPEAKS.expected_shape(doing):
        url = str(answer.json["result_url"])
    while (text := http.fetch(url, limit_s)) is None:
        if http.clock() >= until:
            raise CloudUnavailable(f"{doing}: no copy of the log came", hint="try again later")
        http.sleep(_LOOK_S)
    yield from lines_after(text, last_event_id, http)


def lines_after(text: str, last_event_id: str | None, http: Wire) -> Iterator[LogLine]:
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    ids = [_id(lines[max(0, at - _BEFORE) : at + 1]) for at in range(len(lines))]
    begin = len(ids) - ids[::-1].index(last_event_id) if last_event_id in ids else 0
    for event_id, line in zip(ids[begin:], lines[begin:], strict=True):
        yield LogLine(event_id=event_id, time="", source="container", line=http.clean(line.rstrip("\r")))


def _id(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
