"""Who approved a job spec: reviews of its pull request, or the approval of this workflow run's environment.

GitHub's own branch rules say who may merge. This says whether somebody beside the author, who may write here, has seen
the very spec that is about to cost money. A direct push has no pull request, and so nobody has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pushtrain.desired import Desired, Job
from pushtrain.errors import GitHubError, GitHubNotFound, SpecError
from pushtrain.github.client import GitHub, part
from pushtrain.github.pulls import pull_of
from pushtrain.policy.model import Approval
from pushtrain.policy.outside import APPROVAL_MISSING

_DECIDES = ("APPROVED", "CHANGES_REQUESTED", "DISMISSED")
_MAY_WRITE = ("admin", "write")  # `maintain` is told as write


@dataclass(frozen=True, kw_only=True, slots=True)
class Approvals:
    """Asks GitHub. `workflow_run` is the id of the run that this process is part of."""

    github: GitHub
    workflow_run: str = ""

    def __call__(self, wanted: Desired, job: Job) -> Mapping[str, Any]:
        """`approved_by`, and `pull` where it was by a review. Raises SpecError (reason ApprovalMissing) that says what
        is missing, also where GitHub does not answer: nothing is taken for an approval."""
        policy = wanted.policy.required()
        assert policy.approval is not None
        try:
            missing, reviewed = self._reviewed(wanted, job, policy.approval)
            if not missing:
                return reviewed
            if policy.approval.environment and (by := self.released(wanted, policy.approval.environment)):
                return {"approved_by": by, "environment": policy.approval.environment}
        except GitHubError as failure:
            missing = f"GitHub cannot be asked: {failure.reason}: {failure}"
        usd, above = job.spec.budget.max_usd, policy.approval.above_usd
        message = f"${usd:g} is above the ${above:g} that need an approval: {missing}"
        hint = "a review by somebody who may write here; or a budget below it"
        raise SpecError(message, where=job.spec_path, hint=hint, reason=APPROVAL_MISSING)

    def _reviewed(self, wanted: Desired, job: Job, approval: Approval) -> tuple[str, dict[str, Any]]:
        """What is missing (empty: nothing), and what is to be recorded."""
        pull = pull_of(self.github, wanted.commit, job.spec_path)
        if pull is None:
            return "the spec came by a direct push, which nobody can have reviewed", {}
        number, head = int(pull["number"]), str(pull["head"]["sha"])
        if not self._is_the_same(wanted.commit, head, job.spec_path):
            return f"the spec is not what pull request {number} had at its end", {}
        own = self._authors(pull, head)
        by = [who for who in self._approving(number, head) if who not in own and self._may_write(who)]
        if len(by) < approval.reviews:
            needed = f"{approval.reviews} approving review{'s' if approval.reviews > 1 else ''}"
            return f"pull request {number} at {head[:8]} has {len(by)} of {needed}", {}
        return "", {"approved_by": sorted(by), "pull": number, "approved_commit": head}

    def _is_the_same(self, commit: str, head: str, path: str) -> bool:
        """A merge may be edited on its way: only what stood in the approved commit counts as approved."""
        try:
            blobs = {str(self.github.get(f"contents/{_path(path)}", ref=ref)["sha"]) for ref in (commit, head)}
        except GitHubNotFound:
            return False
        return len(blobs) == 1

    def _authors(self, pull: Mapping[str, Any], head: str) -> set[str]:
        """Who opened the pull request, and who wrote its last commit: nobody approves what is their own."""
        last = self.github.get(f"commits/{part(head)}")
        people = (pull.get("user"), last.get("author"), last.get("committer"))
        return {str(who["login"]) for who in people if who and who.get("login")}

    def _approving(self, number: int, head: str) -> list[str]:
        """People whose last word on the pull request is an approval of its last commit. Bots have no word."""
        last: dict[str, Mapping[str, Any]] = {}
        for review in self.github.pages(f"pulls/{number}/reviews"):
            user = review.get("user") or {}
            if review.get("state") in _DECIDES and user.get("type") == "User":
                last[str(user["login"])] = review
        return [who for who, it in last.items() if it["state"] == "APPROVED" and it.get("commit_id") == head]

    def _may_write(self, who: str) -> bool:
        try:
            said = self.github.get(f"collaborators/{part(who)}/permission")
        except GitHubNotFound:
            return False
        return said.get("permission") in _MAY_WRITE

    def released(self, wanted: Desired, environment: str) -> list[str]:
        """Who let this workflow run into the environment, the one who started it apart; of this very commit only."""
        if not self.workflow_run.isdigit():
            return []
        run = self.github.get(f"actions/runs/{self.workflow_run}")
        if run.get("head_sha") != wanted.commit:
            return []
        started = {str((run.get(who) or {}).get("login")) for who in ("actor", "triggering_actor")}
        return sorted(
            {
                str(it["user"]["login"])
                for it in self.github.get(f"actions/runs/{self.workflow_run}/approvals")
                if it.get("state") == "approved"
                and environment in [named.get("name") for named in it.get("environments") or ()]
            }
            - started
        )


def _path(path: str) -> str:
    return "/".join(part(name) for name in path.split("/"))
