"""Why a session ends now, and what its people are told before. Pure."""

from dataclasses import dataclass

# Before the deadline: time for the last push, which the watchdog's SIGTERM leaves little of.
CLOSING_S = 60.0
# In a short budget a tenth of what there is.
CLOSING_SHARE = 10
WARN_IDLE_S = 300.0
WARN_DEADLINE_S = (1800.0, 600.0, 120.0)


@dataclass(frozen=True, kw_only=True)
class End:
    """`is_over`: the run has reached its end with it; else the next attempt opens the session again."""

    reason: str
    message: str
    is_over: bool = True


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is known at one look. `left_s`: to the deadline; `stopped`: SIGTERM came, with the watchdog's word for it;
    `asked`: somebody ran exit-session; `cancelled`: why the ledger says that the run is being taken down."""

    idle_s: float
    left_s: float
    stopped: str | None = None
    asked: bool = False
    cancelled: str = ""


def end_of(moment: Moment, *, idle_limit_s: float, closing_s: float) -> End | None:
    """None while the session stays open."""
    if moment.stopped is not None:
        if moment.stopped == "Deadline":
            return _deadline()
        return End(reason="Preempted", message=moment.stopped or "stopped from outside", is_over=False)
    if moment.cancelled:
        return End(reason=moment.cancelled, message="cancelled from outside")
    if moment.asked:
        return End(reason="SessionClosed", message="somebody ran exit-session on the pod")
    if moment.left_s <= closing_s:
        return _deadline()
    if moment.idle_s >= idle_limit_s:
        minutes = idle_limit_s / 60
        message = f"no ssh connection, no GPU use and no running command in tmux for {minutes:g} minutes"
        return End(reason="SessionIdle", message=message)
    return None


def closing_s(total_s: float) -> float:
    """How long before the deadline a session of `total_s` ends by itself."""
    return min(CLOSING_S, total_s / CLOSING_SHARE)


def warning(before: Moment, now: Moment, *, idle_limit_s: float) -> str:
    """What people in tmux are told once, when a threshold is crossed between two looks; empty where none is."""
    for threshold_s in reversed(WARN_DEADLINE_S):
        if now.left_s <= threshold_s < before.left_s:
            return f"the budget of this session ends in {_time(now.left_s)}; its branch is pushed before"
    threshold_s = idle_limit_s - min(WARN_IDLE_S, idle_limit_s / 2)
    if before.idle_s < threshold_s <= now.idle_s:
        return f"nothing is in use: this session ends in {_time(idle_limit_s - now.idle_s)}"
    return ""


def _deadline() -> End:
    return End(reason="DeadlineReached", message="the budget of this session is used up (max_hours or max_usd)")


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
