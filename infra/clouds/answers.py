"""What a cloud answers over REST, and how it reads. Pure: no I/O, no clock. What only one cloud says is in the module
of that cloud, `…_answers`."""

import html
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from infra.clouds.refusals import Hints, Why, error
from pushtrain.capabilities import Capabilities
from pushtrain.errors import CloudError, CloudUnavailable

Json = dict[str, Any]
SAID_MAX = 400
_TAGS = re.compile(r"<(style|script)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_BY_STATUS: Mapping[int, Why] = {401: "auth", 402: "money", 403: "denied", 422: "invalid"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one exchange brought.

    `status` is None when nothing usable came: no connection, a time-out, a cut, a 2xx that is not JSON. The request
    may have been carried out all the same. `said` is for people, already redacted. `json` is the raw body (of an error:
    the cloud's own error object, if it is one); it may hold a pod's environment, so it stays out of the repr.
    """

    status: int | None
    said: str
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def absent(self) -> bool:
        """The cloud itself says there is no such thing: a 404 of a proxy or a wrong base URL proves nothing."""
        return self.status == 404 and self.json is not None

    @property
    def ambiguous(self) -> bool:
        """Nobody knows whether the request was carried out."""
        return self.status is None or self.status == 408 or self.status >= 500

    @property
    def retry_after_s(self) -> float | None:
        """Seconds of the Retry-After header, where it is whole seconds: no cloud sends a date."""
        seconds = self.headers.get("retry-after", "").strip()
        return float(seconds) if re.fullmatch(r"\d{1,9}", seconds) else None


def _rfc_9457(body: Json) -> Json | None:
    return body if body.get("detail") or body.get("title") else None


def _rfc_9457_text(problem: Json) -> str:
    errors = problem.get("errors")
    listed = "; ".join(str(error) for error in errors) if isinstance(errors, list) else ""
    return f"{problem.get('detail') or problem.get('title')}" + (f" ({listed})" if listed else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speaks:
    """How the answers of one cloud's REST API read.

    `path` is what a base URL may end with, though calls name it, too. `error_of` finds the error object in the JSON of
    an error body, None in whatever a proxy on the way may say instead; `said` are its words for people; `wait_s` the
    seconds that a 429 asks for where no header says so; `status_of` the status that an error in a 2xx should have had,
    None where it is none; `why` what the cloud's own codes and words say of a refusal, None where the status says it.
    """

    can: Capabilities
    path: str
    hints: Hints
    error_of: Callable[[Json], Json | None] = _rfc_9457
    said: Callable[[Json], str] = _rfc_9457_text
    wait_s: Callable[[bytes], float | None] = lambda body: None
    status_of: Callable[[Any], int | None] = lambda content: None
    why: Callable[[Answer], Why | None] = lambda answer: None

    @property
    def cloud(self) -> str:
        """Its name for people."""
        return self.can.title

    def answer(self, status: int, headers: Mapping[str, str], body: bytes, clean: Callable[[str], str]) -> Answer:
        """A response, read. `headers` are named in lower case; `clean` takes secrets out of what is for people."""
        said = f"{self.cloud} answered {status}"
        if not 200 <= status < 300:
            text = clean(self.text(body))[:SAID_MAX] or "(empty body)"
            if status == 429 and (wait_s := self.wait_s(body)) is not None:
                headers = {"retry-after": str(math.ceil(wait_s)), **headers}
            return Answer(status=status, said=f"{said}: {text}", headers=headers, json=self._problem(body))
        content = None
        if body.strip():
            try:
                content = json.loads(body)
            except ValueError:
                return Answer(status=None, said=f"{said} with a body that is not JSON", headers=headers)
        if (meant := self.status_of(content)) is not None:
            said, status = f"{said}: {clean(self.text(body))[:SAID_MAX]}", meant
        return Answer(status=status, said=said, headers=headers, json=content)

    def text(self, body: bytes) -> str:
        """The words of an error body: the cloud's own, or those of a page without its HTML."""
        if (found := self._problem(body)) is not None:
            return self.said(found)
        return " ".join(html.unescape(_TAGS.sub(" ", body.decode("utf-8", "replace"))).split())

    def failure(self, answer: Answer, doing: str) -> CloudError:
        """The error an answer that is not `ok` means; `doing` says what was asked, with names and ids, no secrets."""
        return error(self._why(answer), f"{doing}: {answer.said}", self.can, self.hints)

    def not_created(self, answer: Answer, doing: str) -> CloudError:
        """The same of a create. It has nothing of its own to be absent: a 404 is about what it names."""
        why = "gone" if answer.absent else self._why(answer)
        return error(why, f"{doing}: {answer.said}", self.can, self.hints)

    @contextmanager
    def expected_shape(self, doing: str) -> Iterator[None]:
        """Turns a missing or mistyped field into CloudUnavailable: an answer nobody understands proves nothing."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise CloudUnavailable(
                f"{doing}: {self.cloud}'s answer has an unexpected shape ({type(exc).__name__}: {exc})",
                hint=f"{self.cloud}'s API may have changed: update pushtrain",
            ) from None

    def _why(self, answer: Answer) -> Why:
        if answer.ambiguous:
            return "lost"
        if answer.status == 429:
            return "limit"
        if answer.status == 404 and answer.json is None:
            return "foreign"
        own = None if answer.status == 401 else self.why(answer)
        return own or _BY_STATUS.get(answer.status or 0, "rule")

    def _problem(self, body: bytes) -> Json | None:
        """The cloud's own error object; None for anything a proxy may say instead."""
        try:
            found = json.loads(body)
        except ValueError:
            return None
        return self.error_of(found) if isinstance(found, dict) else None
