"""What to do next with a run: a pure function of what the ledger says, what the cloud lists, and the time.

claimed ─► provision ─► watch ─► destroy ─► closed (receipt)
              ▲           │
              └── lost ◄──┘   given up: its pod is terminated; same volume, next attempt, from the checkpoint
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pushtrain.budget import RESERVE_S, beside_usd
from pushtrain.cloud import Pod
from pushtrain.events import POD_ENDS, POD_STATES, Event
from pushtrain.ledger import RunRecord
from pushtrain.limits import MOST_VAIN_RESTARTS, SECOND_LINE_S, Limits, Phase, phase, vain_restarts
from pushtrain.signs import Signs, tail
from pushtrain.spot import lost_machines

Kind = Literal["provision", "watch", "look", "lost", "cancel", "destroy", "over"]
Outcome = Literal["succeeded", "failed", "cancelled"]

# A pod without a word is asked about this long after its creation: an image that cannot start does so within seconds.
FIRST_LOOK_S = 60.0
# The first of these decides: what a run had become before somebody cancelled it, it stays.
_OUTCOMES: dict[str, Outcome] = {"finished": "succeeded", "failed": "failed", "cancelled": "cancelled"}
# Why a pod ended an attempt where another machine may do better. Everything else a pod says ends the run.
_ELSEWHERE = ("EnvironmentTimeout", "StepGap", "Stalled")
_GONE = "the pod is gone and did not say why"
# Every pod comes to this end there, as often as the budget's hours hold it: it uses up no attempt.
_OUTLIVED = "LifetimeOver"
_TAKEN = "the machine was taken away: somebody pays more for it (compute.spot)"
_STOPPED = "the pod was stopped from outside"
# What ends a pod in its first seconds, before anything of it can write to the ledger.
_GONE_SILENT = (
    "the pod is gone without a single word: most often its image has no python3 or git, or it could not fetch the "
    "commit (not pushed, or the ledger's token may not read it)"
)
# The only copy of an adapter, or of a session's work, is on the volume: another attempt has only to upload it.
_UPLOAD_AGAIN = ("HubUnreachable", "UploadTimeout", "WorkNotPushed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """`attempt` is the attempt the step is about; `outcome` is set for destroy. `cancel` is to say so in the ledger,
    where the pod hears of it and has `limits.closing_s` for its last words. After `look` (ask the cloud about the
    pod's container) `next_step` wants to be called again with what was seen."""

    kind: Kind
    attempt: int
    outcome: Outcome | None = None
    reason: str = ""
    message: str = ""


def next_step(
    record: RunRecord,
    *,
    pods: Sequence[Pod],
    cancel_reason: str | None,
    now_s: float,
    limits: Limits,
    signs: Signs | None = None,
    is_stopped: bool = False,
) -> Step:
    """The next step of a run. `pods` are its live pods, listed BEFORE the ledger was read: a pod missing there had
    already written all it ever will; with `is_stopped` it is still listed, and does not run any more. `cancel_reason`
    is set when HEAD no longer asks for this run."""
    events = record.events
    attempt = max(event.attempt for event in events)
    if record.is_over:
        return Step(kind="over", attempt=attempt)
    # Wherever it stands: a pod that is being taken away may still get a word in after it.
    if ending := _last(events, "destroying") or _last(events, "leak"):
        return Step(kind="destroy", attempt=attempt, outcome=ending.data["outcome"], reason=ending.reason)
    mine = [event for event in events if event.attempt == attempt]
    by_hand = (it.attempt for it in events if it.state in ("retried", "extended"))
    last_attempt = limits.max_attempts + max(by_hand, default=0) + lost_machines(events) + _outlived(events)
    again = _worth_another(mine, may_be_another=attempt < last_attempt)
    ends = [event for event in events if event.state in _OUTCOMES and _counts(event, attempt) and event is not again]
    if ends and ends[0].state == "cancelled" and _closes(mine, pods, ends[0].epoch_s, now_s, limits):
        return Step(kind="watch", attempt=attempt)
    if ends:
        outcome = _OUTCOMES[ends[0].state]
        return Step(kind="destroy", attempt=attempt, outcome=outcome, reason=ends[0].reason, message=ends[0].message)
    if cancel_reason and _closes(mine, pods, now_s, now_s, limits):
        return Step(kind="cancel", attempt=attempt, reason=cancel_reason)
    if cancel_reason:
        return Step(kind="destroy", attempt=attempt, outcome="cancelled", reason=cancel_reason)
    if lost := _last(mine, "lost"):
        return _another(attempt, last_attempt, lost)
    if again is not None:
        return Step(kind="lost", attempt=attempt, reason=again.reason, message=again.message)
    provisioned = _last(mine, "provisioned")
    if provisioned is None:
        return _unplaced(events, mine, now_s=now_s, limits=limits)
    deadline_s = _deadline_s(record, provisioned)
    step = _running(mine, provisioned, deadline_s=deadline_s, pods=pods, now_s=now_s, limits=limits, signs=signs)
    if step is None and not is_stopped and _is_unlisted(mine, provisioned, now_s, limits):
        return Step(kind="watch", attempt=attempt)
    return step or _gone(mine, provisioned, is_stopped=is_stopped)


def _closes(mine: Sequence[Event], pods: Sequence[Pod], since_s: float, now_s: float, limits: Limits) -> bool:
    """Whether a pod that was cancelled at `since_s` is still at its last words: somebody worked on it, and what they
    did is pushed first."""
    is_open = any(event.state == "training" for event in mine)
    has_ended = any(event.state in (*POD_ENDS, "lost") for event in mine)
    there = bool(pods) and is_open and not has_ended
    return there and now_s < since_s + limits.closing_s


def _unplaced(events: Sequence[Event], mine: Sequence[Event], *, now_s: float, limits: Limits) -> Step:
    """Without a pod: tried at every tick, until the placement limit. Who never got an answer has not waited yet."""
    attempt = mine[-1].attempt
    waiting = _last(mine, "waiting")
    before = _last(events, "provisioned")
    # A kept volume is billed whether somebody waits or not.
    held = before is not None and keeps(before) and not before.data.get("kept_volume_id")
    limit_s = limits.placement_held_s if held else limits.placement_s
    since = _last(events, "lost") if before is not None else events[0]
    if waiting is None or since is None or now_s <= since.epoch_s + limit_s:
        return Step(kind="provision", attempt=attempt)
    billed = ", while its volume was billed," if held else ""
    message = f"no GPU{billed} for {_time(limit_s)} (limits.placement_hours): {waiting.reason}: {waiting.message}"
    return Step(kind="destroy", attempt=attempt, outcome="failed", reason="PlacementTimeout", message=message)


def _running(
    mine: Sequence[Event],
    provisioned: Event,
    *,
    deadline_s: float,
    pods: Sequence[Pod],
    now_s: float,
    limits: Limits,
    signs: Signs | None,
) -> Step | None:
    """None where the pod is gone."""
    attempt = provisioned.attempt
    # By name, too: of two creators at once the other one's pod may have been left.
    names = provisioned.data["pod_id"], provisioned.data.get("pod_name")
    pod = next((pod for pod in pods if pod.id == names[0] or pod.name == names[1]), None)
    grace_s = float(provisioned.data.get("reserve_s", RESERVE_S))
    if now_s > deadline_s + (grace_s if pod else 0.0):
        if _is_extended(mine):
            message = "its pod's deadline came, which nobody can move; the budget was raised meanwhile"
            return Step(kind="lost", attempt=attempt, reason="DeadlineReached", message=message)
        message = "the run reached its deadline (max_hours or max_usd of the budget) before it was done"
        return Step(kind="destroy", attempt=attempt, outcome="failed", reason="DeadlineReached", message=message)
    if pod is None and limits.longest_s is not None and now_s >= provisioned.epoch_s + limits.longest_s:
        message = f"a pod lives {_time(limits.longest_s)} at most there: the next one goes on"
        return Step(kind="lost", attempt=attempt, reason=_OUTLIVED, message=message)
    if pod is None:
        return None
    if (restarts := vain_restarts(mine)) >= MOST_VAIN_RESTARTS:
        message = f"the container was restarted {restarts} times and got no further{tail(signs)}"
        return Step(kind="lost" if signs else "look", attempt=attempt, reason="CrashLoop", message=message)
    now = phase(mine, provisioned.epoch_s, limits)
    if now.reason == "BootTimeout":
        return _booting(now, attempt, now_s=now_s, signs=signs)
    return _silent(now, pod, attempt, now_s=now_s, signs=signs)


def _is_unlisted(mine: Sequence[Event], provisioned: Event, now_s: float, limits: Limits) -> bool:
    """Whether a pod may be in no list yet: one that has said something was listed before. With one more look."""
    may_be = limits.listed_within_s > 0 and now_s < provisioned.epoch_s + limits.listed_within_s + FIRST_LOOK_S
    return may_be and not any(event.state in POD_STATES for event in mine)


def _gone(mine: Sequence[Event], provisioned: Event, *, is_stopped: bool) -> Step:
    """A machine that is taken away stays in the list, stopped, or its pod has a word left; a pod that ended itself is
    in no list any more."""
    is_spot = bool(provisioned.data.get("is_spot"))
    reason, message = "PodLost", _GONE if any(event.state in POD_STATES for event in mine) else _GONE_SILENT
    if _last(mine, "preempted") or (is_spot and is_stopped):
        reason, message = "Preempted", _TAKEN if is_spot else _STOPPED
    return Step(kind="lost", attempt=provisioned.attempt, reason=reason, message=message)


def _deadline_s(record: RunRecord, provisioned: Event) -> float:
    """The pod's own deadline, less what a twin of it cost that was found later: the pod cannot know of that."""
    deadline_s, usd_per_hour = (float(provisioned.data[key]) for key in ("deadline_epoch_s", "usd_per_hour"))
    return deadline_s - beside_usd(record, provisioned.epoch_s) / usd_per_hour * 3600


def _booting(now: Phase, attempt: int, *, now_s: float, signs: Signs | None) -> Step:
    """RUNNING alone never counts as started: only the pod's first word in the ledger does."""
    waited_s = now_s - now.since_s
    if waited_s <= min(FIRST_LOOK_S, now.limit_s):
        return Step(kind="watch", attempt=attempt)
    if signs is None:
        return Step(kind="look", attempt=attempt)
    if signs.starts > MOST_VAIN_RESTARTS:
        message = f"the container was started {signs.starts} times without a word to the ledger{tail(signs)}"
        return Step(kind="lost", attempt=attempt, reason="CrashLoop", message=message)
    if waited_s > now.limit_s:
        message = f"no {now.awaited} within {_time(now.limit_s)} of its creation ({now.knob}){tail(signs)}"
        return Step(kind="lost", attempt=attempt, reason=now.reason, message=message)
    return Step(kind="watch", attempt=attempt)


def _silent(now: Phase, pod: Pod, attempt: int, *, now_s: float, signs: Signs | None) -> Step:
    """The second line: the pod's watchdog should have ended this long ago. Only where the cloud, too, sees a container
    that is silent or not there; a pod that is only cut off from the ledger goes on until its deadline."""
    allowed_s = now.limit_s + SECOND_LINE_S
    if now_s - now.since_s <= allowed_s:
        return Step(kind="watch", attempt=attempt)
    if signs is None:
        return Step(kind="look", attempt=attempt)
    seen_s = max(now.since_s, signs.stepped_s or 0.0)
    gone = pod.uptime_s is None
    if now_s - seen_s <= allowed_s or not (gone or signs.is_silent(now_s, allowed_s)):
        return Step(kind="watch", attempt=attempt)
    where = "its container does not run" if gone else "the pod's log is as silent as the ledger"
    message = f"no {now.awaited} for {_time(now_s - seen_s)} ({now.knob}), and {where}{tail(signs)}"
    return Step(kind="lost", attempt=attempt, reason=now.reason, message=message)


def _worth_another(mine: Sequence[Event], *, may_be_another: bool) -> Event | None:
    """The failure of this attempt that is not the run's end: asked for by hand, or the next attempt may do better.

    A community pod took its disk with it, adapter and all: to train once more would be a retry nobody asked for.
    """
    failed, start = _last(mine, "failed"), _last(mine, "provisioned")
    if failed is None or failed.writer != "pod":
        return None
    by_hand = any(event.state == "retried" and event.seq > failed.seq for event in mine)
    kept = start is None or keeps(start)
    published = kept and _last(mine, "publishing") is not None and failed.reason in _UPLOAD_AGAIN
    longer = failed.reason == "DeadlineReached" and _is_extended(mine)
    return failed if by_hand or longer or (may_be_another and (published or failed.reason in _ELSEWHERE)) else None


def _is_extended(mine: Sequence[Event]) -> bool:
    """Whether the budget was raised after this attempt's pod got its deadline; what it did is on its volume."""
    start = _last(mine, "provisioned")
    added = start and any(event.state == "extended" and event.seq > start.seq for event in mine)
    return bool(added) and start is not None and keeps(start)


def keeps(provisioned: Event) -> bool:
    """Whether what this pod wrote outlives it: it was in a data center, beside a network volume."""
    return provisioned.data.get("data_center", "") is not None


def _counts(event: Event, attempt: int) -> bool:
    """Somebody cancels the run, whatever the attempt; a pod ends its own attempt only."""
    return event.state == "cancelled" or event.attempt == attempt


def _another(attempt: int, last_attempt: int, lost: Event) -> Step:
    if attempt >= last_attempt:
        message = f"{attempt} attempts lost their pod, the last one by {lost.reason}: {lost.message}"
        return Step(kind="destroy", attempt=attempt, outcome="failed", reason="TooManyAttempts", message=message)
    return Step(kind="provision", attempt=attempt + 1)


def _outlived(events: Sequence[Event]) -> int:
    """How many attempts ended because no pod lives longer at their cloud."""
    return len({event.attempt for event in events if event.state == "lost" and event.reason == _OUTLIVED})


def _last(events: Sequence[Event], state: str) -> Event | None:
    return next((event for event in reversed(events) if event.state == state), None)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:g} h"
