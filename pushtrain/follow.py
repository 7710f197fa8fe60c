"""Keep ticking until nothing is active: what `reconcile --follow` and `run` do inside one process."""

from collections.abc import Callable

from pushtrain.control import Control
from pushtrain.errors import CloudUnavailable, LedgerError, LedgerUnavailable
from pushtrain.events import EventDraft
from pushtrain.lookup import newest_run
from pushtrain.reconcile import Tick, tick
from pushtrain.redact import redact
from pushtrain.teardown import may_be_unlisted_s

# How long a run may wait for a place while somebody follows: places come back within minutes, or not for hours.
PATIENCE_S = 300.0


def follow(control: Control, *, max_minutes: float, only: str | None = None, once: Callable[[Tick], None]) -> int:
    """Tick every `tick_s` until no run is active or the time box is full; returns the exit code of all ticks together.

    An unreachable cloud or ledger is waited for: the pods look after themselves meanwhile. So is a ledger that refuses
    after it once did not: hosting services say 'not found' for a while, too. `once` sees every tick.
    When the source's default branch moves it stops early: this checkout no longer is what people want, and the
    reconcile of the new commit may be waiting for this one to end. So it does when runs are left that only wait for a
    place: nothing is billed for them but the runner this may be running on. A person who follows one run goes on.
    """
    end_s = control.clock() + max_minutes * 60
    worst, known, idle = 0, False, False
    began_at = None if only else control.source.head()
    while True:
        try:
            done = tick(control, only=only)
        except (CloudUnavailable, LedgerError) as away:
            if not known and not isinstance(away, CloudUnavailable | LedgerUnavailable):
                raise
            control.say(f"{away.reason}: {redact(str(away))}; trying again")
            code, active, idle = away.exit_code, True, False
        else:
            known = True
            once(done)
            active, idle = bool(done.active), only is None and _only_waits(done, control.clock())
            # A run that waits for balance or a key may recover; what stays wrong is reported by the last tick.
            code = done.exit_code
            worst = max(worst, 1 if "failed" in done.closed.values() else 0)
        if not active:
            return max(worst, code)
        if idle:
            waiting = ", ".join(sorted(done.waiting))
            control.say(
                f"only waiting for a place: {waiting}; the next reconcile tries again, nothing is rented for it"
            )
            return max(worst, code)
        if began_at and control.source.head() not in (began_at, None):
            control.say("the default branch moved: the reconcile of the new commit goes on with the runs")
            return max(worst, code)
        if control.clock() >= end_s:
            control.say(f"time box of {max_minutes:g} minutes is full; the runs go on, the next reconcile follows them")
            return max(worst, code)
        control.sleep(control.settings.tick_s)


def _only_waits(done: Tick, now_s: float) -> bool:
    """Every active run has been without a place for a while. Who has a key that is refused waits, too."""
    patient = all(now_s - since_s > PATIENCE_S for since_s in done.waiting.values())
    return bool(done.active) and set(done.active) == set(done.waiting) and patient


def cancel(control: Control, run_id: str, *, reason: str, by: str = "", why: str = "") -> Tick:
    """Say `cancelled` in the ledger, by whom and why, then bring the run down at once; a session has some minutes for
    its last push. One that is over stays as it is.

    Raises PushtrainError for an unknown run.
    """
    record = newest_run(control.ledger, run_id)
    if record.receipt is not None:
        control.say(f"{record.run_id}: over already: {record.receipt.get('outcome')}")
    else:
        attempt = record.last.attempt
        draft = EventDraft(
            state="cancelled", writer="control", attempt=attempt, reason=reason, message=why, data={"by": by}
        )
        control.ledger.append(record.run_id, events=[draft])
    job, closing_s = str(record.run["job"]), control.limits(record).closing_s
    wait_s = closing_s + (may_be_unlisted_s(record) if record.receipt is None else 0.0)
    done, end_s = tick(control, only=job, may_claim=False), control.clock() + wait_s
    if closing_s and record.run_id in done.active:
        control.say(f"{record.run_id}: its work is pushed first, for at most {closing_s / 60:g} minutes")
    while record.run_id in done.active and control.clock() < end_s:
        control.sleep(control.settings.tick_s)
        done = tick(control, only=job, may_claim=False)
    return done
