"""A run once more, by hand: a training that failed is not retried by itself, because mostly it would fail again.

Before its teardown began, a failed run goes on with its next attempt on the same volume. One that is over is closed for
good; its spec then gets another run, `…-r2`, with a branch, a claim, a volume and a budget of its own.
"""

from collections.abc import Sequence
from dataclasses import replace

from pushtrain.capabilities import CLOUDS
from pushtrain.claim import candidates_for, claim
from pushtrain.control import Control
from pushtrain.desired import Job
from pushtrain.errors import AlreadyClaimed, PushtrainError, SpecError
from pushtrain.events import EventDraft
from pushtrain.fleet import cloud_of
from pushtrain.ledger import RunRecord
from pushtrain.lookup import family, newest_run
from pushtrain.policy.gate import admit
from pushtrain.receipt import cost
from pushtrain.reconcile import Tick, tick
from pushtrain.refs import claim_of
from pushtrain.run import MOST_RETRIES

_HINTS = {
    "SpecDeleted": "commit the spec again",
    "SpecChanged": "a changed spec is a run of its own, which needs no retry",
    "Suspended": "take `suspend: true` out and commit",
}
# What says that a run is on its way out, whatever else is said after it.
_ENDING = ("destroying", "leak", "cancelled", "finished")


def retry(control: Control, name: str, *, by: str, why: str, cloud: str = "") -> Tick:
    """Start the newest run of that spec once more; calling it again while that is active changes nothing.

    `by` and `why` go into the ledger. With `cloud`, one of those that the spec allows, the new run goes there and to no
    other. Raises SpecError when HEAD no longer asks for this very spec, or not for that cloud, PushtrainError for an
    unknown run, and when the run cannot be brought to its end first, or is tied to another cloud (TiedToItsCloud).
    """
    named = newest_run(control.ledger, name)
    job = _still_wanted(control, named)
    if cloud:
        _check_cloud(control, job, cloud)
    done = Tick()
    for _ in range(3):
        runs = [it for it in family(control.ledger, named) if not it.run.get("replay")]
        newest = runs[-1]
        if newest.is_over:
            return _run_again(control, job, runs, by=by, why=why, cloud=cloud)
        if cloud and cloud_of(newest) != cloud:
            raise _tied(newest, cloud)
        states = [event.state for event in newest.events]
        failed = newest.last.state == "failed" and newest.last.writer == "pod"
        ending = any(state in _ENDING for state in states)
        if not ending and not failed:
            control.say(f"{newest.run_id}: {newest.last.state}, attempt {newest.last.attempt}: nothing to retry")
            return Tick(active=[newest.run_id])
        if not ending:
            draft = EventDraft(
                state="retried",
                writer="control",
                attempt=newest.last.attempt,
                reason="RetriedByHand",
                message=why,
                data={"by": by},
            )
            control.ledger.append(newest.run_id, events=[draft])
            control.say(f"{newest.run_id}: the next attempt goes on with its volume, on what is left of its budget")
        done = tick(control, only=job.spec.name, may_claim=False)
        if newest.run_id in done.active and not ending:
            return done
    raise PushtrainError(
        f"{runs[-1].run_id} is being taken down and is not over yet",
        hint="call retry again when `pushtrain runs` shows it closed",
        reason="NotOver",
    )


def _check_cloud(control: Control, job: Job, cloud: str) -> None:
    """Raises SpecError for a cloud that the spec does not allow, CloudAuthFailed for one without a key."""
    if cloud not in job.spec.compute.clouds:
        raise SpecError(
            f"compute.cloud of {job.spec.name} does not allow {cloud}: {', '.join(job.spec.compute.clouds)}",
            where=job.spec_path,
            hint=f"write cloud: {cloud} there and commit: a changed spec is a run of its own, and cancels this one",
            reason="CloudNotAllowed",
        )
    control.at(cloud)


def _tied(record: RunRecord, cloud: str) -> PushtrainError:
    here = CLOUDS[cloud_of(record)].title
    return PushtrainError(
        f"{record.run_id} is at {here}, and stays there: its volume, its checkpoints and its bill are",
        hint=f"`pushtrain cancel {record.run_id}`, then `pushtrain retry {record.run_id} --cloud {cloud}`: "
        "a run of its own from step 0, with a budget of its own",
        reason="TiedToItsCloud",
    )


def _still_wanted(control: Control, record: RunRecord) -> Job:
    wanted = control.source.desired()
    name = str(record.run["job"])
    job = wanted.jobs.get(name)
    if job is None and name in wanted.named:
        raise next(it for it in wanted.problems if f"/{name}." in f"/{it.where}")
    reason = (
        "SpecDeleted"
        if job is None
        else "Suspended"
        if job.spec.suspend
        else "SpecChanged"
        if job.digest != record.run["spec_digest"]
        else ""
    )
    if reason or job is None:
        where = str(record.run.get("spec_path", name))
        raise SpecError(
            f"HEAD no longer asks for the spec of {record.run_id}", where=where, hint=_HINTS[reason], reason=reason
        )
    return job


def _run_again(control: Control, job: Job, runs: Sequence[RunRecord], *, by: str, why: str, cloud: str) -> Tick:
    newest = runs[-1]
    outcome = (newest.receipt or {}).get("outcome")
    if outcome == "succeeded" and job.spec.task != "session":
        control.say(f"{newest.run_id}: succeeded already; a spec with a changed value runs again")
        return Tick()
    first = job.run(control.settings.ledger_url)
    look = control.ledger.look()
    admitted = admit(control.outside, control.source.desired(), job, control.ledger, look.runs, control.clock())
    claims = look.claimed
    numbers = range(2, MOST_RETRIES + 1)
    number = next((n for n in numbers if claim_of(replace(first, retry=n).id) not in claims), None)
    if number is None:
        raise PushtrainError(
            f"{newest.run_id}: retried {MOST_RETRIES} times", hint="change the spec", reason="TooManyRetries"
        )
    run, budget = replace(first, retry=number), job.spec.budget
    candidates = candidates_for(control, job, [cloud] if cloud else ())
    pinned = {"clouds": [cloud], "cloud": cloud} if cloud and len(job.spec.compute.clouds) > 1 else {}
    spent = sum((known[0] for record in runs if (known := cost(record))), 0.0)
    control.say(
        f"{run.id}: run {number} of this spec, with a budget of its own: at most ${budget.max_usd:g} and "
        f"{budget.max_hours:g} h; the {len(runs)} before cost ${spent:.2f}"
    )
    try:
        said = {**admitted, "of": newest.run_id, "by": by, "why": why}
        claim(control, job, candidates, trigger="retry", retry=number, said=said, recorded=pinned)
    except AlreadyClaimed:
        control.say(f"{run.id}: somebody else has just retried it")
    return tick(control, only=job.spec.name, may_claim=False)
