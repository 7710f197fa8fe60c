"""What to do next with a run: a pure function of what the ledger says, what the cloud lists, and the time.

claimed ─► provision ─► watch ─► destroy ─► closed (receipt)
              ▲           │
              └── lost ◄──┘   a pod gone without a word: same volume, next attempt, from the checkpoint
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pushtrain.cloud import Pod
from pushtrain.events import POD_STATES, Event
from pushtrain.ledger import RunRecord

Kind = Literal["provision", "watch", "lost", "destroy", "over"]
Outcome = Literal["succeeded", "failed", "cancelled"]

# The watchdog ends the run at its deadline; only this much later does the control plane, in case the watchdog is dead.
DEADLINE_GRACE_S = 120.0
# The first of these decides: what a run had become before somebody cancelled it, it stays.
_OUTCOMES: dict[str, Outcome] = {"finished": "succeeded", "failed": "failed", "cancelled": "cancelled"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """`attempt` is the attempt the step is about; `outcome` is set for destroy."""

    kind: Kind
    attempt: int
    outcome: Outcome | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    boot_limit_s: float
    max_attempts: int


def next_step(
    record: RunRecord, *, pods: Sequence[Pod], cancel_reason: str | None, now_s: float, limits: Limits
) -> Step:
    """The next step of a run. `pods` are its live pods, listed BEFORE the ledger was read: a pod missing there had
    already written all it ever will. `cancel_reason` is set when HEAD no longer asks for this run."""
    events = record.events
    attempt = max(event.attempt for event in events)
    if record.is_over:
        return Step(kind="over", attempt=attempt)
    # Wherever it stands: a pod that is being taken away may still get a word in after it.
    if ending := _last(events, "destroying") or _last(events, "leak"):
        return Step(kind="destroy", attempt=attempt, outcome=ending.data["outcome"], reason=ending.reason)
    mine = [event for event in events if event.attempt == attempt]
    unpublished = attempt < limits.max_attempts and _is_unpublished(mine)
    ends = (event for event in events if event.state in _OUTCOMES and _counts(event, attempt))
    if ended := next((event for event in ends if not (unpublished and event.state == "failed")), None):
        outcome = _OUTCOMES[ended.state]
        return Step(kind="destroy", attempt=attempt, outcome=outcome, reason=ended.reason, message=ended.message)
    if cancel_reason:
        return Step(kind="destroy", attempt=attempt, outcome="cancelled", reason=cancel_reason)
    if unpublished or _last(mine, "lost"):
        return _another(attempt, limits)
    provisioned = _last(mine, "provisioned")
    if provisioned is None:
        return Step(kind="provision", attempt=attempt)
    return _running(mine, provisioned, pods=pods, now_s=now_s, limits=limits)


def used(record: RunRecord, now_s: float | None = None) -> tuple[float, float]:
    """Hours of pods and dollars (GPU and storage) so far, by the ledger's clock and the recorded prices.

    An attempt lasts from its `provisioned` event to the last event that names it; between attempts, and until `now_s`
    (None: the last event), only the volume costs.
    """
    # Two reconciles at once may both have said it: an attempt counts once.
    starts = {event.attempt: event for event in reversed(record.events) if event.state == "provisioned"}
    hours = usd = 0.0
    for attempt, start in starts.items():
        end_s = max(event.epoch_s for event in record.events if event.attempt == attempt)
        hours += (end_s - start.epoch_s) / 3600
        usd += (end_s - start.epoch_s) / 3600 * float(start.data.get("usd_per_hour", 0.0))
    if starts:
        first = min(starts.values(), key=lambda event: event.epoch_s)
        # An attempt on a community machine had no volume: the dear side is that there was one all along.
        volume_usd = max(float(start.data.get("volume_usd_per_hour", 0.0)) for start in starts.values())
        until_s = max(event.epoch_s for event in record.events) if now_s is None else now_s
        idle_hours = max(0.0, (until_s - first.epoch_s) / 3600 - hours)
        usd += idle_hours * volume_usd
    return hours, usd


def _running(mine: Sequence[Event], provisioned: Event, *, pods: Sequence[Pod], now_s: float, limits: Limits) -> Step:
    attempt = provisioned.attempt
    # By name, too: of two creators at once the other one's pod may have been left.
    names = provisioned.data["pod_id"], provisioned.data.get("pod_name")
    alive = any(pod.id == names[0] or pod.name == names[1] for pod in pods)
    deadline_s = float(provisioned.data["deadline_epoch_s"])
    if now_s > deadline_s + (DEADLINE_GRACE_S if alive else 0.0):
        message = "the run reached its deadline (max_hours or max_usd of the budget) before it was done"
        return Step(kind="destroy", attempt=attempt, outcome="failed", reason="DeadlineReached", message=message)
    if not alive:
        preempted = _last(mine, "preempted")
        reason = "Preempted" if preempted else "PodLost"
        return Step(kind="lost", attempt=attempt, reason=reason, message="the pod is gone and did not say why")
    spoke = any(event.state in POD_STATES for event in mine)
    if not spoke and now_s > provisioned.epoch_s + limits.boot_limit_s:
        message = f"no word from the pod within {limits.boot_limit_s:.0f} s of its creation"
        return Step(kind="lost", attempt=attempt, reason="BootTimeout", message=message)
    return Step(kind="watch", attempt=attempt)


def _is_unpublished(mine: Sequence[Event]) -> bool:
    """Trained, but the Hub was away: the only copy is on the volume, and another attempt has only to upload it.

    A community pod took its disk with it: to train once more would be a retry nobody asked for.
    """
    failed = _last(mine, "failed")
    start = _last(mine, "provisioned")
    kept = start is None or start.data.get("tier") != "COMMUNITY"
    return kept and failed is not None and failed.reason == "HubUnreachable" and _last(mine, "publishing") is not None


def _counts(event: Event, attempt: int) -> bool:
    """Somebody cancels the run, whatever the attempt; a pod ends its own attempt only."""
    return event.state == "cancelled" or event.attempt == attempt


def _another(attempt: int, limits: Limits) -> Step:
    if attempt >= limits.max_attempts:
        message = f"{attempt} attempts lost their pod"
        return Step(kind="destroy", attempt=attempt, outcome="failed", reason="TooManyAttempts", message=message)
    return Step(kind="provision", attempt=attempt + 1)


def _last(events: Sequence[Event], state: str) -> Event | None:
    return next((event for event in reversed(events) if event.state == state), None)
