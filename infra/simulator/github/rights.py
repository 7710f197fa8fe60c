"""What a workflow's token may do, by the `permissions:` of its job.

Which endpoint needs which: docs.github.com/rest/authentication, "Permissions required for fine-grained personal
access tokens". A comment on a pull request is under issues and under pull requests, either is enough.
"""

import re
from collections.abc import Mapping

_LEVELS = {"none": 0, "read": 1, "write": 2}
# Path below the repository → permissions of which one is enough. Reading needs read, everything else write.
_NEEDED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"issues/.*", ("issues", "pull-requests")),
    (r"pulls/\d+/merge", ("contents",)),
    (r"pulls.*", ("pull-requests",)),
    (r"commits/[^/]+/pulls", ("pull-requests",)),
    (r"commits/[^/]+/status", ("statuses",)),
    (r"statuses/.*", ("statuses",)),
    (r"(commits|contents|branches).*", ("contents",)),
    (r"actions/.*", ("actions",)),
)


def may(grant: Mapping[str, str] | None, request: str, repo: str) -> bool:
    """Whether a token may send `METHOD /repos/OWNER/NAME/…`; one without a grant has every right.

    What is not in the table is metadata, which every token reads.
    """
    if grant is None:
        return True
    method, _, path = request.partition(f" /repos/{repo}")
    wanted = _LEVELS["read" if method == "GET" else "write"]
    for pattern, permissions in _NEEDED:
        if re.fullmatch(pattern, path.removeprefix("/")):
            return any(_LEVELS[grant.get(it, "none")] >= wanted for it in permissions)
    return method == "GET"
