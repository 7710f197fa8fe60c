"""`pushtrain run JOB`: one job now, and whoever stops this process stops the run."""

from collections.abc import Callable

from pushtrain.control import Control
from pushtrain.desired import Job
from pushtrain.errors import PushtrainError, SpecError
from pushtrain.follow import cancel, follow
from pushtrain.lookup import run_of_spec
from pushtrain.reconcile import Tick
from pushtrain.signals import INTERRUPTED, Stopped, stoppable

# A claim that was being pushed when the interrupt came is there by now, or was refused.
CLAIM_LANDS_S = 2.0


def run_job(
    control: Control,
    name: str,
    *,
    max_minutes: float,
    once: Callable[[Tick], None],
    report: Callable[[PushtrainError], None],
) -> int:
    """Claim and follow the job at HEAD; returns the exit code. SIGINT and SIGTERM cancel the run and take it down.

    Raises SpecError when HEAD has no such job, or has it suspended.
    """
    job = _at_head(control, name, report)
    earlier = run_of_spec(control.ledger, job)
    if earlier is not None and earlier.receipt is not None:
        outcome = earlier.receipt.get("outcome")
        control.say(f"{earlier.run_id}: {outcome} already; one spec runs once: change a value in it, commit, push")
        if outcome != "succeeded":
            control.say(f"or run it once more as it is: pushtrain retry {name}")
        return 0 if outcome == "succeeded" else 1
    with stoppable() as listen_again:
        try:
            return follow(control, max_minutes=max_minutes, only=name, once=once)
        except Stopped as stopped:
            control.say(f"{stopped.name}: cancelling {name}; stop again only if you will run `pushtrain cancel {name}`")
        listen_again()
        try:
            _cancel(control, job, once)
        except Stopped as stopped:
            control.say(f"{stopped.name}: not taken down yet: run `pushtrain cancel {name}`")
    return INTERRUPTED


def _at_head(control: Control, name: str, report: Callable[[PushtrainError], None]) -> Job:
    wanted = control.source.desired()
    if name not in wanted.jobs:
        for problem in wanted.problems:
            report(problem)
        known = ", ".join(sorted(wanted.jobs)) or "none"
        raise SpecError(f"no job '{name}' in jobs/ at HEAD", hint=f"jobs at HEAD: {known}; commit the spec first")
    if wanted.jobs[name].spec.suspend:
        raise SpecError(f"job '{name}' is suspended at HEAD", hint="take `suspend: true` out and commit")
    return wanted.jobs[name]


def _cancel(control: Control, job: Job, once: Callable[[Tick], None]) -> None:
    mine = run_of_spec(control.ledger, job)
    if mine is None:
        control.sleep(CLAIM_LANDS_S)
        mine = run_of_spec(control.ledger, job)
    if mine is not None:
        once(cancel(control, mine.run_id, reason="Interrupted"))
