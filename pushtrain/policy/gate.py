"""The policy at the door: what HEAD's policy says about a spec, right before it would be claimed.

A pull request was held against the base's policy before; here everything is, a direct push to the default branch, too.
"""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from pushtrain.budget import cap_usd
from pushtrain.desired import Desired, Job
from pushtrain.errors import SpecError
from pushtrain.events import parse_time
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.policy.outside import APPROVAL_MISSING, Outside
from pushtrain.policy.rules import VIOLATION, Known, violations
from pushtrain.receipt import cost
from pushtrain.spec.file import parse, spec_error


def admit(
    outside: Outside, wanted: Desired, job: Job, ledger: Ledger, runs: Mapping[str, str], now_s: float
) -> dict[str, Any]:
    """What the claim says about its admission. `runs` are the tips of every run there is, `now_s` the time.

    Raises SpecError that names every broken rule, or that an approval is missing.
    """
    policy = wanted.policy.required()
    spec_file = parse(job.text, job.spec_path)
    licence = outside.licence if policy.licences is not None else None
    month_usd = month_so_far(ledger, runs, now_s) if policy.max_usd_per_month is not None else None
    broken = violations(wanted.policy, job.spec, spec_file, Known(licence=licence, month_usd=month_usd))
    if broken:
        together = spec_error([violation.problem for violation in broken])
        text = str(together).removeprefix(f"{together.where}: ")
        raise SpecError(text, where=together.where, hint=together.hint, reason=VIOLATION)
    if policy.approval is None or job.spec.budget.max_usd <= policy.approval.above_usd:
        return {}
    if outside.approved is None:
        where = spec_file.where("budget", "max_usd")
        message = f"a job of ${job.spec.budget.max_usd:g} needs an approval, and there is no GitHub here to ask"
        hint = "set GITHUB_TOKEN and GITHUB_REPOSITORY, as a workflow has them"
        raise SpecError(message, where=where, hint=hint, reason=APPROVAL_MISSING)
    return dict(outside.approved(wanted, job))


def month_so_far(ledger: Ledger, runs: Mapping[str, str], now_s: float) -> float:
    """Dollars of this calendar month (UTC): the runs closed in it by their cost, the active ones by their cap.

    Raises LedgerUnavailable, and LedgerError for a branch that cannot be read: nobody's cost is taken for nothing.
    """
    return sum(_counted(record, now_s) for record in ledger.read_all(runs).values())


def _counted(record: RunRecord, now_s: float) -> float:
    if record.receipt is None:
        return cap_usd(record)
    closed = _month(parse_time(str(record.receipt["closed"]))) if record.receipt.get("closed") else None
    known = cost(record)
    return known[0] if known is not None and closed in (None, _month(now_s)) else 0.0


def _month(epoch_s: float) -> tuple[int, int]:
    at = datetime.fromtimestamp(epoch_s, timezone.utc)
    return at.year, at.month
