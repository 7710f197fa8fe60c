"""Where a review is said: in the step summary always, as a comment where the token may."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pushtrain.errors import GitHubError
from pushtrain.github.client import connect
from pushtrain.github.event import PullRequest, pull_request
from pushtrain.github.markdown import shortened
from pushtrain.github.review import Review, review
from pushtrain.github.sticky import Sticky, login
from pushtrain.redact import redact
from pushtrain.source import head_commit

# GitHub takes 1 MiB of a step; what is longer is not shown at all.
_LONGEST_SUMMARY_BYTES = 1024 * 1024
# A review has nobody waiting for it at once: a limit may be sat out.
PATIENCE_S = 60.0


def review_here(root: Path, base: str, environ: Mapping[str, str], say: Callable[[str], None]) -> Review:
    """A review of HEAD, said wherever it can be; printed where there is no workflow to say it in."""
    event = pull_request(environ)
    text, is_news = "## pushtrain\n\n❌ **The check could not be made.** Its log says why.", True
    try:
        head = head_commit(root)
        found = review(root, base, event.head if event else head, environ)
        text, is_news = redact(found.as_markdown(), environ), found.is_news
    finally:  # said in any case: a reviewer must not take silence, or an older comment, for a yes
        post(text, environ, say, only_edit=not is_news)
    if not environ.get("GITHUB_STEP_SUMMARY"):
        print(text)
    for warning in found.warnings:
        say(f"warning: {warning}")
    return found


def post(body: str, environ: Mapping[str, str], say: Callable[[str], None], *, only_edit: bool = False) -> None:
    """Says `body` wherever it can be said, with `only_edit` in no new comment; never raises, since the plan's own
    outcome is what counts."""
    summarize(body, environ, say)
    pull = pull_request(environ)
    if pull is None:
        return
    if pull.is_fork:
        say("a pull request from a fork: its token only reads, so the plan is in the step summary and the annotations")
        return
    try:
        _comment(pull, body, environ, say, only_edit)
    except GitHubError as refused:
        hint = f" ({refused.hint})" if refused.hint else ""
        say(f"no comment: {refused}{hint}; the plan is in the step summary")


def summarize(text: str, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Adds to the summary of this step; outside a workflow there is none."""
    path = environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        file = Path(path)
        left = _LONGEST_SUMMARY_BYTES - (file.stat().st_size if file.exists() else 0) - 1024
        raw = shortened(text, max(0, left // 4)) if len(text.encode(errors="replace")) > left else text
        with file.open("a", encoding="utf-8", errors="replace") as out:
            out.write(raw + "\n\n")
    except OSError as error:
        say(f"no step summary: {error.strerror or error}")


def _comment(
    pull: PullRequest, body: str, environ: Mapping[str, str], say: Callable[[str], None], only_edit: bool
) -> None:
    github = connect(environ, wait_s=PATIENCE_S)
    if github is None:
        say("no comment: GITHUB_TOKEN or GITHUB_REPOSITORY is not set; the plan is in the step summary")
        return
    try:
        now = str(github.get(f"pulls/{pull.number}")["head"]["sha"])
        if now != pull.head:
            say(f"no comment: the branch has moved on to {now[:8]}, whose own check comments")
            return
        Sticky(github, pull.number, "plan", author=login(environ)).put(body, only_edit=only_edit)
    finally:
        github.close()
