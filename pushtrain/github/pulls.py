"""The pull request that brought a job spec to where it is, whichever way it was merged."""

from typing import Any

from pushtrain.github.client import GitHub, part


def pull_of(github: GitHub, commit: str, path: str) -> dict[str, Any] | None:
    """The merged pull request behind the last change of `path` in the history of `commit`; None for a direct push.

    A checkout is often one commit deep, so that GitHub is asked for the history: a squash and a rebase leave a commit
    of their own, a merge the branch's commits, and GitHub knows of all of them which pull request they are from.
    Raises GitHubError.
    """
    last = github.get("commits", sha=commit, path=path, per_page=1)
    if not last:
        return None
    return merged(github, str(last[0]["sha"]))


def merged(github: GitHub, commit: str) -> dict[str, Any] | None:
    """The merged pull request of a commit, the last one where there are several: a branch may be merged twice."""
    found = [
        pull
        for pull in github.pages(f"commits/{part(commit)}/pulls")
        if pull.get("merged_at") and (pull["base"].get("repo") or {}).get("full_name", github.repo) == github.repo
    ]
    return max(found, key=lambda pull: str(pull["merged_at"]), default=None)
