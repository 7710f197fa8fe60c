"""Every error pushtrain raises on purpose, sorted by who has to act next.

PushtrainError                reason · exit_code · hint
├── SpecError            2    a person edits the job spec (where: file:line:column)
├── CloudError           3    the cloud said no, or said nothing
│   ├── NoCapacity            another GPU, another data center, or later
│   ├── CloudAuthFailed       a person fixes the key
│   ├── NoBalance             a person adds funds
│   ├── RequestRejected       a bug or a wrong value in the request: never retried
│   └── CloudUnavailable      retry later; after a create, look the name up first
├── EngineError          3    Pulumi, or the state it keeps
│   └── StackLocked           somebody works on the stack: nothing, as long as `passing`, else a person
├── LedgerError          3    the git remote that holds the runs
│   ├── AlreadyClaimed        somebody else owns this run: success for the caller who only wants it run once
│   └── LedgerUnavailable     retry later; training goes on
├── HubError             3    the Hugging Face Hub
├── GitHubError          3    GitHub's API; reporting fails alone, a run never does
│   ├── GitHubRefused         the token may not, or is none: a person changes permissions
│   ├── GitHubNotFound        it is not there, or the token may not see it
│   └── GitHubUnavailable     retry later, not before `retry_s`
├── SshError             3    a pod cannot be reached by ssh; the reason says why, and `may_pass` whether waiting helps
├── RunFailed            1    the run itself: training, data, a limit
└── LeakError            4    money may still be burning: the ids are in the message

Only the outermost function of a process prints one of these and exits.
"""

# Reasons the control plane decides by, finer than the class.
ACCESS_DENIED = "AccessDenied"  # CloudAuthFailed: the key is right, but not for this pool
INVALID_REQUEST = "InvalidRequest"  # RequestRejected: the body breaks the API's contract, whatever the candidate
API_RETIRED = "ApiRetired"  # RequestRejected: this generation of the API is gone
UNKNOWN_TEMPLATE = "UnknownTemplate"  # RequestRejected: compute.template names none that a pod can be made from


class PushtrainError(Exception):
    """Base of all expected failures.

    `reason` is a CamelCase constant for machines, the message one sentence for people, `hint` what to do next.
    """

    exit_code = 1
    reason = "Error"

    def __init__(self, message: str, *, hint: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if reason is not None:
            self.reason = reason


class SpecError(PushtrainError):
    """A job spec (or a file it names) is wrong. `where` is `file:line:column`, or the path alone."""

    exit_code = 2
    reason = "InvalidSpec"

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(f"{where}: {message}" if where else message, hint=hint, reason=reason)
        self.where = where

    def as_json(self) -> dict[str, str | None]:
        return {"where": self.where, "message": str(self), "hint": self.hint}


class UsageError(PushtrainError):
    """The command line names what is not there, or asks for nothing: nothing was begun."""

    exit_code = 2
    reason = "WrongUsage"


class CloudError(PushtrainError):
    exit_code = 3
    reason = "CloudFailed"


class NoCapacity(CloudError):
    reason = "NoCapacity"


class CloudAuthFailed(CloudError):
    reason = "CloudAuthFailed"


class NoBalance(CloudError):
    reason = "NoBalance"


class RequestRejected(CloudError):
    reason = "RequestRejected"


class CloudUnavailable(CloudError):
    reason = "CloudUnavailable"


class EngineError(PushtrainError):
    exit_code = 3
    reason = "EngineFailed"


class StackLocked(EngineError):
    """Another process holds the stack, and nothing was changed.

    `passing` when its owner lives, or may: the next tick is soon enough, and this is no failure. Otherwise nobody but a
    person can tell, and the hint is the command that breaks the lock.
    """

    reason = "StackLocked"
    passing = False

    @classmethod
    def for_now(cls, message: str, *, hint: str) -> "StackLocked":
        locked = cls(message, hint=hint)
        locked.passing = True
        return locked


class LedgerError(PushtrainError):
    exit_code = 3
    reason = "LedgerFailed"


class AlreadyClaimed(LedgerError):
    reason = "AlreadyClaimed"


class LedgerMoved(LedgerError):
    """Another writer was first, and what was to be written stands on what the ledger said before."""

    reason = "LedgerMoved"


class LedgerUnavailable(LedgerError):
    reason = "LedgerUnavailable"


class HubError(PushtrainError):
    exit_code = 3
    reason = "HubFailed"


class GitHubError(PushtrainError):
    exit_code = 3
    reason = "GitHubFailed"


class GitHubRefused(GitHubError):
    reason = "GitHubRefused"


class GitHubNotFound(GitHubError):
    reason = "GitHubNotFound"


class GitHubUnavailable(GitHubError):
    """No answer, or a limit; `retry_s` is how many seconds from now asking again makes sense."""

    reason = "GitHubUnavailable"

    def __init__(self, message: str, *, retry_s: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_s = retry_s


class SshError(PushtrainError):
    """Nobody can log in, now or at all. `may_pass`: the same question may have an answer some seconds later."""

    exit_code = 3
    reason = "SshFailed"

    def __init__(self, message: str, *, hint: str | None = None, reason: str | None = None, may_pass: bool = False):
        super().__init__(message, hint=hint, reason=reason)
        self.may_pass = may_pass


class RunFailed(PushtrainError):
    exit_code = 1
    reason = "RunFailed"


class LeakError(PushtrainError):
    exit_code = 4
    reason = "Leak"
