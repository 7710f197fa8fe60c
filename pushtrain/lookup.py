"""Which run a person means, and what of a ledger can be read."""

from collections.abc import Mapping

from pushtrain.desired import Job
from pushtrain.errors import LedgerError, LedgerUnavailable, UsageError
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.refs import runs_of_spec
from pushtrain.run import RUN_ID


def newest_run(ledger: Ledger, name: str) -> RunRecord:
    """A run by its job, its id or the beginning of it, the newest of several of one job.

    Raises UsageError when there is none, or when runs of several jobs begin like that: nobody's run is guessed.
    """
    refs = ledger.refs()
    if name in refs:
        return ledger.read(name, refs[name])
    job_of = {run_id: match["job"] for run_id in refs if (match := RUN_ID.fullmatch(run_id))}
    matches = [run_id for run_id in refs if job_of[run_id] == name]
    matches = matches or [run_id for run_id in refs if name and run_id.startswith(name)]
    if not matches:
        known = ", ".join(sorted(refs)[:5]) or "none"
        raise UsageError(f"no run '{name}' in the ledger", hint=f"known runs: {known}", reason="UnknownRun")
    jobs = sorted({job_of[run_id] for run_id in matches})
    if len(jobs) > 1:
        message = f"'{name}' begins runs of {len(jobs)} jobs: {', '.join(jobs[:5])}"
        raise UsageError(message, hint="give the whole name of the job, or the run id", reason="UnknownRun")
    records = ledger.read_all({run_id: refs[run_id] for run_id in matches})
    return max(records.values(), key=lambda record: record.events[0].epoch_s)


def run_of_spec(ledger: Ledger, job: Job) -> RunRecord | None:
    """The newest run of this very spec, whatever commit it was claimed at; None before the claim."""
    runs = ledger.refs()
    name, _, spec8 = job.claim.rpartition("-")
    mine = runs_of_spec(runs, name, spec8)
    return ledger.read(mine[-1], runs[mine[-1]]) if mine else None


def family(ledger: Ledger, record: RunRecord) -> list[RunRecord]:
    """Every run of the same spec, the first one first and the newest retry last."""
    runs = ledger.refs()
    match = RUN_ID.fullmatch(record.run_id)
    ids = runs_of_spec(runs, match["job"], match["spec"]) if match else [record.run_id]
    return list(ledger.read_all({run_id: runs[run_id] for run_id in ids}).values())


def read_each(ledger: Ledger, tips: Mapping[str, str]) -> tuple[dict[str, RunRecord], dict[str, LedgerError]]:
    """Every run, and a failure for each branch that no run wrote: one bad branch stops nobody else from being looked
    after. What it may own nobody knows, so it counts as owned. Raises LedgerUnavailable."""
    try:
        return ledger.read_all(tips), {}
    except LedgerUnavailable:
        raise
    except LedgerError:
        records, failures = dict[str, RunRecord](), dict[str, LedgerError]()
    for run_id, tip in tips.items():
        try:
            records |= ledger.read_all({run_id: tip})
        except LedgerUnavailable:
            raise
        except LedgerError as failure:
            failures[run_id] = failure
    return records, failures
