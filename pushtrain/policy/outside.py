"""What the policy's door needs from outside, and what it remembers of a refusal. No effect is here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pushtrain.desired import Desired, Job
from pushtrain.errors import PushtrainError

APPROVAL_MISSING = "ApprovalMissing"
# How long one process believes a refusal while the policy stays the same: only the month, the Hub or people change it
# then, and a question about an approval is five requests of the thousand an hour that a workflow's token has.
_ASK_AGAIN_S = {APPROVAL_MISSING: 300.0}
_ASK_AGAIN_ELSE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outside:
    """What has to be asked of others: a model's licence (as `rules.Known` has it), and who approved a job; `approved`
    raises PushtrainError while nobody has, and returns what the claim's event says about it."""

    licence: Callable[[str, str], str | None] | None = None
    approved: Callable[[Desired, Job], Mapping[str, Any]] | None = None
    released: Callable[[Desired, str], list[str]] | None = None
    """Who let this very workflow run into an environment, the one who started it apart; raises GitHubError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a spec was not claimed, under which policy, and until when that is believed."""

    failure: PushtrainError
    claim: str
    policy: bytes
    until_s: float

    @classmethod
    def of(cls, failure: PushtrainError, job: Job, wanted: Desired, now_s: float) -> "Refusal":
        until_s = now_s + _ASK_AGAIN_S.get(failure.reason, _ASK_AGAIN_ELSE_S)
        return cls(failure=failure, claim=job.claim, policy=wanted.policy.text, until_s=until_s)

    def holds(self, job: Job, wanted: Desired, now_s: float) -> bool:
        return (self.claim, self.policy) == (job.claim, wanted.policy.text) and now_s < self.until_s
