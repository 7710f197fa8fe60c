"""`pushtrain replay RUN`: the run once more from its lock, as a run of its own; then the verdict on the two.

It runs the same spec at the same commit on the same revisions, whatever HEAD says by now, with a budget of its own.
What is published goes to a branch of its own on the Hub, never over the first run's.
"""

from collections.abc import Sequence
from dataclasses import replace

from pushtrain.claim import candidates_for, claim
from pushtrain.control import Control
from pushtrain.desired import Job
from pushtrain.errors import AlreadyClaimed, PushtrainError, SpecError
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.lookup import family, newest_run
from pushtrain.policy.gate import admit
from pushtrain.reconcile import Tick, tick
from pushtrain.refs import claim_of
from pushtrain.replay.verdict import TOLERANCE, Verdict, compare, told
from pushtrain.run import MOST_RETRIES
from pushtrain.spec.file import loads


def find(ledger: Ledger, name: str) -> tuple[RunRecord, list[RunRecord]]:
    """The run that is meant, and its replays, the newest last. A replay's own name stands for the run it repeats.

    Raises PushtrainError for an unknown run.
    """
    named = newest_run(ledger, name)
    if of := (named.run.get("replay") or {}).get("of"):
        named = ledger.read(str(of))
    mine = [it for it in family(ledger, named) if (it.run.get("replay") or {}).get("of") == named.run_id]
    return named, mine


def verdict(ledger: Ledger, name: str, tolerance: float = TOLERANCE) -> Verdict:
    """Of the newest replay that is over. Raises PushtrainError (NotOver) while there is none."""
    first, replays = find(ledger, name)
    over = [it for it in replays if it.is_over]
    if not over:
        state = f"{replays[-1].run_id} is {replays[-1].last.state}" if replays else "it was never replayed"
        hint = "`pushtrain reconcile --follow` stays with it" if replays else f"start it: pushtrain replay {name}"
        raise PushtrainError(f"{first.run_id}: no verdict yet: {state}", hint=hint, reason="NotOver")
    both = [told(record, ledger.text(record, "metrics")[0]) for record in (first, over[-1])]
    return compare(both[0], both[1], tolerance)


def replay(control: Control, name: str, *, by: str, why: str, again: bool) -> Tick | None:
    """Start it, or with None say that there is one that is over. One that is active is left at work.

    Raises PushtrainError for a run that cannot be replayed.
    """
    first, replays = find(control.ledger, name)
    if replays and not replays[-1].is_over:
        newest = replays[-1]
        control.say(f"{newest.run_id}: {newest.last.state}, attempt {newest.last.attempt}: replays {first.run_id}")
        return Tick(active=[newest.run_id])
    if replays and not again:
        return None
    job = _job(first)
    runs = control.ledger.look().runs
    admitted = admit(control.outside, control.source.desired(), job, control.ledger, runs, control.clock())
    candidates = candidates_for(control, job)
    number = _number(control, job, first)
    run, budget = replace(job.run(control.settings.ledger_url), retry=number), job.spec.budget
    control.say(
        f"{run.id}: replays {first.run_id} at commit {job.commit[:8]}, with a budget of its own: at most "
        f"${budget.max_usd:g} and {budget.max_hours:g} h"
    )
    lock = (first.result or {})["lock"]
    recorded = {
        "replay": {"of": first.run_id, "pins": lock.get("pins") or {}},
        "lock": first.run.get("lock"),
        "committed_epoch_s": first.run.get("committed_epoch_s"),
    }
    try:
        said = {**admitted, "of": first.run_id, "by": by, "why": why}
        claim(control, job, candidates, trigger="replay", retry=number, said=said, recorded=recorded)
    except AlreadyClaimed:
        control.say(f"{run.id}: somebody else has just started it")
    return tick(control, only=job.spec.name, may_claim=False)


def _job(first: RunRecord) -> Job:
    """The run's own spec at its own commit. Raises PushtrainError for a run that has no lock to start from."""
    if not first.is_over:
        raise PushtrainError(f"{first.run_id} is not over yet", hint="call again when it is closed", reason="NotOver")
    if (first.receipt or {}).get("outcome") != "succeeded" or not (first.result or {}).get("lock"):
        raise PushtrainError(
            f"{first.run_id}: there is no result with a lock to compare a second run with",
            hint="only a training that succeeded can be replayed; `pushtrain retry` runs a failed one again",
            reason="NoLock",
        )
    path = str(first.run["spec_path"])
    spec = loads(first.spec, path, check_name=False)
    if spec.digest != first.run["spec_digest"]:
        raise SpecError(
            "the ledger's copy is not the spec that was run", where=f"{first.run_id}:spec.yaml", reason="SpecChanged"
        )
    return Job(spec=spec, spec_path=path, text=first.spec, commit=str(first.run["commit"]))


def _number(control: Control, job: Job, first: RunRecord) -> int:
    claims: Sequence[str] | set[str] = control.ledger.look().claimed
    run = job.run(control.settings.ledger_url)
    number = next((n for n in range(2, MOST_RETRIES + 1) if claim_of(replace(run, retry=n).id) not in claims), None)
    if number is None:
        raise PushtrainError(
            f"{first.run_id}: run {MOST_RETRIES} times", hint="change the spec", reason="TooManyRetries"
        )
    return number
