"""Which run a person means."""

from pushtrain.desired import Job
from pushtrain.errors import PushtrainError
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.run import RUN_ID


def newest_run(ledger: Ledger, name: str) -> RunRecord:
    """A run by its job, its id or the beginning of it, the newest of several of one job.

    Raises PushtrainError when there is none, or when runs of several jobs begin like that: nobody's run is guessed.
    """
    refs = ledger.refs()
    job_of = {run_id: match["job"] for run_id in refs if (match := RUN_ID.fullmatch(run_id))}
    matches = [run_id for run_id in refs if job_of[run_id] == name]
    matches = matches or [run_id for run_id in refs if name and run_id.startswith(name)]
    if not matches:
        known = ", ".join(sorted(refs)[:5]) or "none"
        raise PushtrainError(f"no run '{name}' in the ledger", hint=f"known runs: {known}", reason="UnknownRun")
    jobs = sorted({job_of[run_id] for run_id in matches})
    if len(jobs) > 1:
        message = f"'{name}' begins runs of {len(jobs)} jobs: {', '.join(jobs[:5])}"
        raise PushtrainError(message, hint="give the whole name of the job, or the run id", reason="UnknownRun")
    records = ledger.read_all({run_id: refs[run_id] for run_id in matches})
    return max(records.values(), key=lambda record: record.events[0].epoch_s)


def run_of_spec(ledger: Ledger, job: Job) -> RunRecord | None:
    """The run that claimed this very spec, whatever commit it was claimed at; None before the claim."""
    name, _, spec8 = job.claim.rpartition("-")
    for run_id, tip in ledger.refs().items():
        match = RUN_ID.fullmatch(run_id)
        if match and (match["job"], match["spec"]) == (name, spec8):
            return ledger.read(run_id, tip)
    return None
