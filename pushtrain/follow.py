"""Keep ticking until nothing is active: what `reconcile --follow` and `run` do inside one process."""

from collections.abc import Callable

from pushtrain.control import Control
from pushtrain.errors import CloudUnavailable, LedgerError, LedgerUnavailable
from pushtrain.events import EventDraft
from pushtrain.lookup import newest_run
from pushtrain.reconcile import Tick, tick
from pushtrain.redact import redact


def follow(control: Control, *, max_minutes: float, only: str | None = None, once: Callable[[Tick], None]) -> int:
    """Tick every `tick_s` until no run is active or the time box is full; returns the exit code of all ticks together.

    An unreachable cloud or ledger is waited for: the pods look after themselves meanwhile. So is a ledger that refuses
    after it once did not: hosting services say 'not found' for a while, too. `once` sees every tick.
    When the source's default branch moves it stops early: this checkout no longer is what people want, and the
    reconcile of the new commit may be waiting for this one to end.
    """
    end_s = control.clock() + max_minutes * 60
    worst, known = 0, False
    began_at = None if only else control.source.head()
    while True:
        try:
            done = tick(control, only=only)
        except (CloudUnavailable, LedgerError) as away:
            if not known and not isinstance(away, CloudUnavailable | LedgerUnavailable):
                raise
            control.say(f"{away.reason}: {redact(str(away))}; trying again")
            code, active = away.exit_code, True
        else:
            known = True
            once(done)
            active = bool(done.active)
            # A run that waits for balance or a key may recover; what stays wrong is reported by the last tick.
            code = done.exit_code
            worst = max(worst, 1 if "failed" in done.closed.values() else 0)
        if not active:
            return max(worst, code)
        if began_at and control.source.head() not in (began_at, None):
            control.say("the default branch moved: the reconcile of the new commit goes on with the runs")
            return max(worst, code)
        if control.clock() >= end_s:
            control.say(f"time box of {max_minutes:g} minutes is full; the runs go on, the next reconcile follows them")
            return max(worst, code)
        control.sleep(control.settings.tick_s)


def cancel(control: Control, run_id: str, *, reason: str) -> Tick:
    """Say `cancelled` in the ledger, then bring the run down at once. A run that is over stays as it is.

    Raises PushtrainError for an unknown run.
    """
    record = newest_run(control.ledger, run_id)
    if not record.is_over:
        attempt = record.last.attempt
        control.ledger.append(
            record.run_id, events=[EventDraft(state="cancelled", writer="control", attempt=attempt, reason=reason)]
        )
    return tick(control, only=str(record.run["job"]), may_claim=False)
