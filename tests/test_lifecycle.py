"""Every answer of `next_step`, as a table: what the ledger says, what the cloud lists, the time; then the step."""

import pytest

from pushtrain.cloud import Pod
from pushtrain.events import Event, now_text
from pushtrain.ledger import RunRecord
from pushtrain.lifecycle import DEADLINE_GRACE_S, Limits, Step, next_step, used

LIMITS = Limits(boot_limit_s=900.0, max_attempts=3)
DEADLINE_S = 10_000.0


def event(text: str, seq: int) -> Event:
    """`state`, `state:attempt` or `state:attempt:reason`, at `seq` × 10 seconds."""
    state, attempt, reason = [*text.split(":"), "", ""][:3]
    data: dict[str, object] = {}
    if state == "provisioned":
        data = {"pod_id": f"pod{attempt or 1}", "deadline_epoch_s": DEADLINE_S, "usd_per_hour": 3.6}
    if state in ("destroying", "leak"):
        data = {"outcome": "failed"}
    pod = state in ("booting", "environment", "preparing", "training", "publishing", "finished", "preempted")
    return Event(
        seq=seq,
        time=now_text(seq * 10.0),
        state=state,
        writer="pod" if pod else "control",
        attempt=int(attempt or 1),
        reason=reason,
        message=f"about {state}",
        data=data,
        prev=None,
        digest="",
    )


def record(*texts: str, over: bool = False) -> RunRecord:
    events = tuple(event(text, seq) for seq, text in enumerate(texts, 1))
    receipt = {"outcome": "succeeded"} if over else None
    return RunRecord(run_id="r", tip="t", spec=b"", run={}, events=events, result=None, receipt=receipt, paths={})


def pod(pod_id: str) -> Pod:
    fields = {"id": pod_id, "name": pod_id, "status": "RUNNING"}
    for name, kind in Pod.__annotations__.items():
        fields.setdefault(name, {"int": 1, "float": 0.0}.get(str(kind), None if "None" in str(kind) else ""))  # type: ignore[arg-type]
    return Pod(**fields)  # type: ignore[arg-type]


def step(*texts: str, pods: str = "", cancel: str | None = None, now_s: float = 100.0, over: bool = False) -> Step:
    live = [pod(name) for name in pods.split()]
    return next_step(record(*texts, over=over), pods=live, cancel_reason=cancel, now_s=now_s, limits=LIMITS)


RUNNING = ("claimed", "provisioning", "provisioned", "booting", "training")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        # Nothing rented yet.
        (["claimed"], ("provision", 1)),
        (["claimed", "provisioning"], ("provision", 1)),
        (["claimed", "provisioning", "waiting:1:NoCapacity"], ("provision", 1)),
        # A pod ends its attempt.
        ([*RUNNING, "finished"], ("destroy", 1, "succeeded", "")),
        ([*RUNNING, "failed:1:LossNotFinite"], ("destroy", 1, "failed", "LossNotFinite")),
        ([*RUNNING, "finished", "lost:1:PodLost"], ("destroy", 1, "succeeded", "")),
        (["claimed", "failed:1:RequestRejected"], ("destroy", 1, "failed", "RequestRejected")),
        # Somebody cancels; what came first decides.
        (["claimed", "cancelled:1:CancelledByHand"], ("destroy", 1, "cancelled", "CancelledByHand")),
        ([*RUNNING, "cancelled:1:CancelledByHand", "failed:1:Killed"], ("destroy", 1, "cancelled", "CancelledByHand")),
        ([*RUNNING, "finished", "cancelled:1:CancelledByHand"], ("destroy", 1, "succeeded", "")),
        ([*RUNNING, "cancelled:1:ByHand", "lost:1", "provisioned:2"], ("destroy", 2, "cancelled", "ByHand")),
        # Attempts.
        ([*RUNNING, "lost:1:PodLost"], ("provision", 2)),
        ([*RUNNING, "lost:1", "provisioning:2", "waiting:2"], ("provision", 2)),
        ([*RUNNING, "lost:1", "provisioned:2", "lost:2"], ("provision", 3)),
        ([*RUNNING, "lost:1", "lost:2", "lost:3"], ("destroy", 3, "failed", "TooManyAttempts")),
        ([*RUNNING, "failed:1:Late", "lost:1", "provisioning:2"], ("provision", 2)),
        # Trained, not uploaded: the adapter is on the volume, so the volume lives and another attempt uploads it.
        ([*RUNNING, "publishing", "failed:1:HubUnreachable"], ("provision", 2)),
        ([*RUNNING, "failed:1:HubUnreachable"], ("destroy", 1, "failed", "HubUnreachable")),
        ([*RUNNING, "publishing", "failed:1:HubForbidden"], ("destroy", 1, "failed", "HubForbidden")),
        ([*RUNNING, "publishing", "failed:1:HubUnreachable", "cancelled:1:X"], ("destroy", 1, "cancelled", "X")),
        (["provisioned:3", "publishing:3", "failed:3:HubUnreachable"], ("destroy", 3, "failed", "HubUnreachable")),
        # An end that was begun is gone on with, whatever a dying pod still gets said.
        ([*RUNNING, "destroying:1:DeadlineReached"], ("destroy", 1, "failed", "DeadlineReached")),
        ([*RUNNING, "destroying:1:DeadlineReached", "training"], ("destroy", 1, "failed", "DeadlineReached")),
        ([*RUNNING, "destroying:1:DeadlineReached", "preempted"], ("destroy", 1, "failed", "DeadlineReached")),
        ([*RUNNING, "destroying:1:X", "finished"], ("destroy", 1, "failed", "X")),
        ([*RUNNING, "destroying:1:X", "leak:1:X", "booting"], ("destroy", 1, "failed", "X")),
    ],
)
def test_what_the_ledger_says_decides(texts: list[str], expected: tuple[object, ...]) -> None:
    for pods in ("", "pod1 pod2"):
        found = step(*texts, pods=pods)
        assert (found.kind, found.attempt, *([found.outcome, found.reason] if found.outcome else [])) == expected


@pytest.mark.parametrize(
    ("texts", "pods", "now_s", "expected"),
    [
        # A pod that is listed is watched: also before its first word, and while it says it is being preempted.
        (RUNNING, "pod1", 100.0, ("watch", "")),
        (RUNNING[:3], "pod1", 30.0 + 900.0, ("watch", "")),
        (RUNNING[:3], "pod1", 30.0 + 900.1, ("lost", "BootTimeout")),
        (RUNNING[:4], "pod1", 5000.0, ("watch", "")),
        ([*RUNNING, "preempted"], "pod1", 100.0, ("watch", "")),
        # A pod that is not listed is lost; another pod, of an earlier attempt, is not this one.
        (RUNNING, "", 100.0, ("lost", "PodLost")),
        (RUNNING, "pod7", 100.0, ("lost", "PodLost")),
        ([*RUNNING, "preempted"], "", 100.0, ("lost", "Preempted")),
        ([*RUNNING, "lost:1", "provisioned:2"], "pod1", 100.0, ("lost", "PodLost")),
        ([*RUNNING, "lost:1", "provisioned:2"], "pod2", 100.0, ("watch", "")),
        ([*RUNNING, "lost:1", "provisioned:2"], "pod2", 70.0 + 900.1, ("lost", "BootTimeout")),
        # The deadline ends the run; a living pod's watchdog has a little longer to do it by itself.
        (RUNNING, "pod1", DEADLINE_S + DEADLINE_GRACE_S, ("watch", "")),
        (RUNNING, "pod1", DEADLINE_S + DEADLINE_GRACE_S + 0.1, ("destroy", "DeadlineReached")),
        (RUNNING, "", DEADLINE_S, ("lost", "PodLost")),
        (RUNNING, "", DEADLINE_S + 0.1, ("destroy", "DeadlineReached")),
    ],
)
def test_while_it_runs_the_cloud_and_the_clock_decide(
    texts: list[str], pods: str, now_s: float, expected: tuple[str, str]
) -> None:
    found = step(*texts, pods=pods, now_s=now_s)
    assert (found.kind, found.reason) == expected
    assert found.outcome == ("failed" if found.kind == "destroy" else None)
    assert bool(found.message) == (found.kind != "watch")


@pytest.mark.parametrize(
    ("texts", "outcome", "reason"),
    [
        (["claimed"], "cancelled", "SpecDeleted"),
        (RUNNING, "cancelled", "SpecDeleted"),
        ([*RUNNING, "lost:1"], "cancelled", "SpecDeleted"),
        ([*RUNNING, "finished"], "succeeded", ""),
        ([*RUNNING, "failed:1:Diverged"], "failed", "Diverged"),
        ([*RUNNING, "destroying:1:Diverged"], "failed", "Diverged"),
    ],
)
def test_a_spec_that_head_no_longer_has_cancels_what_is_not_at_its_end(
    texts: list[str], outcome: str, reason: str
) -> None:
    found = step(*texts, pods="pod1", cancel="SpecDeleted")
    assert (found.kind, found.outcome, found.reason) == ("destroy", outcome, reason)


def test_a_receipt_is_the_end() -> None:
    for cancel in (None, "SpecDeleted"):
        assert step(*RUNNING, "destroying", "closed", "training", over=True, cancel=cancel).kind == "over"


def test_what_was_used_is_time_times_price_of_every_attempt() -> None:
    assert used(record("claimed", "waiting")) == (0.0, 0.0)
    hours, usd = used(record("claimed", "provisioned", "training", "lost", "waiting:2", "provisioned:2", "finished:2"))
    assert hours == pytest.approx((20 + 10) / 3600)
    assert usd == pytest.approx(3.6 * (20 + 10) / 3600)
