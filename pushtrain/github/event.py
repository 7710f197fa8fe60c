"""The event that a workflow runs for: which pull request, of which commit, from a fork or not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# An event of a pull request has some ten thousand characters, most of them its text.
_LARGEST = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class PullRequest:
    """`head` is the last commit of its branch when the event happened, `base` the one it is compared with."""

    number: int
    head: str
    base: str
    is_fork: bool


def pull_request(environ: Mapping[str, str]) -> PullRequest | None:
    """What GITHUB_EVENT_PATH says; None where this is no event of a pull request."""
    path = environ.get("GITHUB_EVENT_PATH")
    if not path:
        return None
    try:
        file = Path(path)
        document = json.loads(file.read_bytes()) if file.stat().st_size <= _LARGEST else {}
        pull = document["pull_request"]
        source = (pull["head"].get("repo") or {}).get("full_name")  # null where the fork was deleted
        return PullRequest(
            number=int(pull["number"]),
            head=str(pull["head"]["sha"]),
            base=str(pull["base"]["sha"]),
            is_fork=source != pull["base"]["repo"]["full_name"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
