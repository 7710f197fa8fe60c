"""More hours or dollars for a run that is active, by hand.

A pod's deadline is absolute and nobody can reach it: the budget counts from the next attempt on. A pod that comes to
its deadline is then followed by another one on the same volume, from the last checkpoint.
"""

from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from pushtrain.budget import cap_usd, extended
from pushtrain.capabilities import machine
from pushtrain.control import Control
from pushtrain.desired import Desired
from pushtrain.errors import GitHubError, PushtrainError, SpecError, UsageError
from pushtrain.events import Event, EventDraft
from pushtrain.ledger import RunRecord
from pushtrain.lifecycle import keeps
from pushtrain.lookup import newest_run
from pushtrain.policy.gate import month_so_far
from pushtrain.policy.outside import APPROVAL_MISSING
from pushtrain.policy.rules import VIOLATION, Known, violations
from pushtrain.spec import JobSpec
from pushtrain.spec.compute import Budget
from pushtrain.spec.file import loads, parse, spec_error

_ENDING = ("destroying", "leak", "cancelled", "finished", "closed")
_MONEY = ("max_usd_per_run", "max_usd_per_month", "max_hours")


@dataclass(frozen=True, kw_only=True, slots=True)
class More:
    """What is added, by whom, and why. `request` names one wish, so that a workflow that is run again adds nothing."""

    hours: float = 0.0
    usd: float = 0.0
    by: str = ""
    why: str = ""
    request: str = ""


def extend(control: Control, name: str, more: More) -> RunRecord:
    """Write it down; the next tick goes by it. Returns the run as it is then.

    Raises PushtrainError for an unknown run and one that is over or ending, SpecError where the policy of HEAD or the
    bounds of a budget do not allow the sum.
    """
    if not (more.hours >= 0 and more.usd >= 0 and more.hours + more.usd > 0):
        raise UsageError("nothing is added", hint="--hours 2, --usd 3, or both", reason="NothingAdded")
    record = newest_run(control.ledger, name)
    if more.request and any(event.data.get("request") == more.request for event in record.events):
        control.say(f"{record.run_id}: that was added already")
        return record
    _refuse_ended(record)
    raised = _raised(record, more)
    approval = _hold_against_policy(control, record, raised)
    budget = raised.budget
    data = {"hours": more.hours, "usd": more.usd, "by": more.by, "request": more.request, **approval}
    draft = EventDraft(
        state="extended",
        writer="control",
        attempt=record.last.attempt,
        reason="ExtendedByHand",
        message=more.why,
        data=data,
    )
    control.ledger.append(record.run_id, events=[draft])
    control.say(
        f"{record.run_id}: now at most ${budget.max_usd:g} and {budget.max_hours:g} h in all; a pod that is running "
        "keeps its deadline, and the attempt after it goes on from the last checkpoint"
    )
    return control.ledger.read(record.run_id)


def _refuse_ended(record: RunRecord) -> None:
    ended = [event for event in record.events if event.state in _ENDING or _ends(event, record.last.attempt)]
    if record.is_over or ended:
        what = ended[0].reason or ended[0].state if ended else "over"
        hint = "`pushtrain retry` starts it once more, with the budget of its spec"
        raise PushtrainError(f"{record.run_id} is at its end ({what})", hint=hint, reason="RunEnded")
    started = [event for event in record.events if event.state == "provisioned"]
    if started and not keeps(started[-1]):
        there = machine(str(started[-1].data.get("tier")))
        message = f"{record.run_id} is on a {there}, whose disk goes with the pod: nothing could go on"
        raise PushtrainError(message, hint="a new run with a larger budget", reason="NothingToGoOnFrom")


def _ends(event: Event, attempt: int) -> bool:
    """A failure of this attempt that more time does not mend."""
    return event.state == "failed" and event.attempt == attempt and event.reason != "DeadlineReached"


def _raised(record: RunRecord, more: More) -> JobSpec:
    path = str(record.run["spec_path"])
    spec, before = loads(record.spec, path, check_name=False), extended(record)
    hours = spec.budget.max_hours + before.hours + more.hours
    usd = spec.budget.max_usd + before.usd + more.usd
    try:
        budget = Budget.model_validate({"max_hours": hours, "max_usd": usd})
    except ValidationError as invalid:
        said = "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in invalid.errors())
        raise SpecError(f"${usd:g} and {hours:g} h in all: {said}", where=path) from None
    return spec.model_copy(update={"budget": budget})


def _hold_against_policy(control: Control, record: RunRecord, raised: JobSpec) -> dict[str, Any]:
    """The rules about money of HEAD's policy, for the sum; everything else was looked at before the claim. Returns what
    the event says of an approval."""
    wanted = control.source.desired()
    file = wanted.policy
    policy, text_file = file.required(), parse(record.spec, str(record.run["spec_path"]))
    month_usd = None
    if policy.max_usd_per_month is not None:
        month_usd = month_so_far(control.ledger, control.ledger.refs(), control.clock()) - cap_usd(record)
    broken = [it for it in violations(file, raised, text_file, Known(month_usd=month_usd)) if it.rule in _MONEY]
    if broken:
        together = spec_error([replace(it.problem, where=it.policy_where) for it in broken])
        raise SpecError(str(together), hint=together.hint, reason=VIOLATION)
    above = policy.approval and raised.budget.max_usd > policy.approval.above_usd
    if not above or raised.budget.max_usd <= cap_usd(record):
        return {}
    return _released(control, wanted, raised)


def _released(control: Control, wanted: Desired, raised: JobSpec) -> dict[str, Any]:
    """By the environment that the policy names: whoever lets the workflow run in sees whose wish it is and how much. A
    review was of the spec, and of its sum."""
    approval, released = wanted.policy.required().approval, control.outside.released
    environment = approval.environment if approval else None
    why = "and the policy names no environment whose approval would count"
    if environment is not None:
        why = f"and nobody but who started it let this workflow run into {environment}"
        try:
            if released is not None and (by := released(wanted, environment)):
                return {"approved_by": by, "environment": environment}
        except GitHubError as failure:
            why = f"and GitHub cannot be asked: {failure.reason}: {failure}"
    raise SpecError(
        f"${raised.budget.max_usd:g} in all is above the sum that needs an approval, {why}",
        where=wanted.policy.where("approval"),
        hint="approval.environment in the policy, required reviewers there, and the workflow's extend; or a pull "
        "request that raises budget.max_usd: a new run, with its review",
        reason=APPROVAL_MISSING,
    )
