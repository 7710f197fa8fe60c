"""One comment of ours in a pull request, found again by a hidden marker and its author, and edited in place."""

from collections.abc import Mapping

from pushtrain.errors import GitHubNotFound
from pushtrain.github.client import GitHub

# Who a workflow's own token is. An App or a person's token is told by PUSHTRAIN_GITHUB_LOGIN.
WORKFLOW_BOT = "github-actions[bot]"


def marker(name: str) -> str:
    """Hidden in the rendered comment. `name` is ours: no `-->` in it."""
    return f"<!-- pushtrain:{name} -->"


def login(environ: Mapping[str, str]) -> str:
    return environ.get("PUSHTRAIN_GITHUB_LOGIN", "").strip() or WORKFLOW_BOT


class Sticky:
    """`name` tells this comment from our others. Remembers its id: a later `put` is one request."""

    def __init__(self, github: GitHub, pull: int, name: str, *, author: str) -> None:
        self._github, self._pull, self._author = github, pull, author
        self._marker = marker(name)
        self._id: int | None = None

    def put(self, body: str, *, only_edit: bool = False) -> None:
        """Make the comment say `body`. One that a person has edited is overwritten; where it was deleted, or lost its
        marker, it is made anew, unless `only_edit`. Raises GitHubError."""
        text = f"{self._marker}\n{body}"
        number = self._id or self._find()
        if number is not None:
            try:
                self._github.patch(f"issues/comments/{number}", {"body": text})
                self._id = number
                return
            except GitHubNotFound:
                self._id = None
        if only_edit:
            return
        self._id = int(self._github.post(f"issues/{self._pull}/comments", {"body": text})["id"])

    def _find(self) -> int | None:
        for comment in self._github.pages(f"issues/{self._pull}/comments"):
            user = comment.get("user") or {}
            if user.get("login") == self._author and str(comment.get("body") or "").startswith(self._marker):
                return int(comment["id"])
        return None
