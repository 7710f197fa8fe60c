"""Every answer of `next_step`, as a table: what the ledger says, what the cloud lists, the time; then the step."""

from dataclasses import replace
from functools import partial

import pytest

from pushtrain.budget import RESERVE_S
from pushtrain.cloud import Pod
from pushtrain.events import Event, now_text
from pushtrain.ledger import RunRecord
from pushtrain.lifecycle import Step, next_step
from pushtrain.limits import SECOND_LINE_S, Limits
from pushtrain.signs import Signs

LIMITS = Limits(placement_s=24 * 3600.0, placement_held_s=6 * 3600.0, boot_s=900.0, max_attempts=3)
DEADLINE_S = 10_000.0
CONTROLS = ("RequestRejected", "BudgetSpent")
SILENT = Signs(answered=True, heard_s=50.0, starts=1, lines=("container: step 3",))
UNKNOWN = Signs(answered=False)


def event(text: str, seq: int) -> Event:
    """`state`, `state:attempt` or `state:attempt:reason`, at `seq` × 10 seconds."""
    state, attempt, reason = [*text.split(":"), "", ""][:3]
    data: dict[str, object] = {}
    if state == "provisioned":
        data = {"pod_id": f"pod{attempt or 1}", "deadline_epoch_s": DEADLINE_S, "usd_per_hour": 3.6}
    if state in ("destroying", "leak"):
        data = {"outcome": "failed"}
    if state == "training":
        data = {"resumed_from_step": int(reason or 0)}
    pod = state in ("booting", "environment", "preparing", "training", "publishing", "finished", "preempted", "failed")
    return Event(
        seq=seq,
        time=now_text(seq * 10.0),
        state=state,
        writer="pod" if pod and reason not in CONTROLS else "control",
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


def step(
    *texts: str,
    pods: str = "",
    cancel: str | None = None,
    now_s: float = 100.0,
    over: bool = False,
    signs: Signs | None = None,
    limits: Limits = LIMITS,
    is_stopped: bool = False,
) -> Step:
    """`pods` are ids; one with a `!` has no running container."""
    live = [replace(pod(name.rstrip("!")), uptime_s=None if name.endswith("!") else 10) for name in pods.split()]
    return next_step(
        record(*texts, over=over),
        pods=live,
        cancel_reason=cancel,
        now_s=now_s,
        limits=limits,
        signs=signs,
        is_stopped=is_stopped,
    )


OVER = ":LifetimeOver"
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
        ([*RUNNING, "publishing", "failed:1:HubUnreachable"], ("lost", 1)),
        ([*RUNNING, "publishing", "failed:1:HubUnreachable", "lost:1:HubUnreachable"], ("provision", 2)),
        ([*RUNNING, "publishing", "failed:1:UploadTimeout"], ("lost", 1)),
        ([*RUNNING, "failed:1:UploadTimeout"], ("destroy", 1, "failed", "UploadTimeout")),
        ([*RUNNING, "failed:1:HubUnreachable"], ("destroy", 1, "failed", "HubUnreachable")),
        ([*RUNNING, "publishing", "failed:1:HubForbidden"], ("destroy", 1, "failed", "HubForbidden")),
        ([*RUNNING, "publishing", "failed:1:HubUnreachable", "cancelled:1:X"], ("destroy", 1, "cancelled", "X")),
        (["provisioned:3", "publishing:3", "failed:3:HubUnreachable"], ("destroy", 3, "failed", "HubUnreachable")),
        # Another machine may do better; what is wrong with the training itself would only happen again.
        ([*RUNNING[:4], "failed:1:EnvironmentTimeout"], ("lost", 1)),
        ([*RUNNING, "failed:1:StepGap"], ("lost", 1)),
        ([*RUNNING, "failed:1:StepGap", "lost:1:StepGap"], ("provision", 2)),
        ([*RUNNING, "failed:1:Stalled"], ("lost", 1)),
        (["provisioned:3", "training:3", "failed:3:StepGap"], ("destroy", 3, "failed", "StepGap")),
        ([*RUNNING[:4], "failed:1:FirstStepTimeout"], ("destroy", 1, "failed", "FirstStepTimeout")),
        ([*RUNNING, "failed:1:StepGap", "cancelled:1:X"], ("destroy", 1, "cancelled", "X")),
        # Asked for again by hand, before the teardown began: on the same volume, with three attempts more.
        ([*RUNNING, "failed:1:LossNotFinite", "retried"], ("lost", 1)),
        ([*RUNNING, "failed:1:LossNotFinite", "retried", "lost:1:LossNotFinite"], ("provision", 2)),
        (["provisioned:3", "failed:3:X", "retried:3", "lost:3", "lost:4", "lost:5"], ("provision", 6)),
        (["provisioned:3", "failed:3:X", "retried:3", "lost:6"], ("destroy", 6, "failed", "TooManyAttempts")),
        ([*RUNNING, "failed:1:X", "destroying:1:X", "retried"], ("destroy", 1, "failed", "X")),
        # The budget was raised after the pod had its deadline: the next attempt goes on, and has a deadline of its own.
        ([*RUNNING, "extended", "failed:1:DeadlineReached"], ("lost", 1)),
        ([*RUNNING, "failed:1:DeadlineReached", "extended"], ("lost", 1)),
        ([*RUNNING, "extended", "failed:1:LossNotFinite"], ("destroy", 1, "failed", "LossNotFinite")),
        (
            ["claimed", "extended", *RUNNING[1:], "failed:1:DeadlineReached"],
            ("destroy", 1, "failed", "DeadlineReached"),
        ),
        (
            [*RUNNING, "extended", "lost:1", "provisioned:2", "failed:2:DeadlineReached"],
            ("destroy", 2, "failed", "DeadlineReached"),
        ),
        (["provisioned:3", "extended:3", "failed:3:DeadlineReached", "lost:3"], ("provision", 4)),
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


BOOTED_S, TRAINED_S = 40.0, 50.0  # when the events of RUNNING happened


@pytest.mark.parametrize(
    ("texts", "pods", "now_s", "expected"),
    [
        # A pod that is listed is watched: also before its first word, and while it says it is being preempted.
        (RUNNING, "pod1", 100.0, ("watch", "")),
        (RUNNING[:3], "pod1", 30.0 + 60.0, ("watch", "")),
        (RUNNING[:3], "pod1", 30.0 + 60.1, ("look", "")),
        (RUNNING[:4], "pod1", BOOTED_S + 1800 + SECOND_LINE_S, ("watch", "")),
        ([*RUNNING, "preempted"], "pod1", 100.0, ("watch", "")),
        # A pod that is not listed is lost; another pod, of an earlier attempt, is not this one.
        (RUNNING, "", 100.0, ("lost", "PodLost")),
        (RUNNING, "pod7", 100.0, ("lost", "PodLost")),
        ([*RUNNING, "preempted"], "", 100.0, ("lost", "Preempted")),
        ([*RUNNING, "lost:1", "provisioned:2"], "pod1", 100.0, ("lost", "PodLost")),
        ([*RUNNING, "lost:1", "provisioned:2"], "pod2", 100.0, ("watch", "")),
        # The deadline ends the run; a living pod's watchdog has a little longer to do it by itself.
        (RUNNING, "pod1", DEADLINE_S + RESERVE_S + 0.1, ("destroy", "DeadlineReached")),
        (RUNNING[:3], "pod1", DEADLINE_S + RESERVE_S + 0.1, ("destroy", "DeadlineReached")),
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
    assert bool(found.message) == (found.kind not in ("watch", "look"))


def test_a_pod_that_no_list_may_have_yet_is_not_gone() -> None:
    unlisted = partial(step, *RUNNING[:3], limits=replace(LIMITS, listed_within_s=300.0))
    assert unlisted(now_s=30.0 + 359.9).kind == "watch"
    assert (unlisted(now_s=30.0 + 360.0).kind, unlisted(now_s=30.0 + 360.0).reason) == ("lost", "PodLost")
    assert unlisted(now_s=100.0, is_stopped=True).kind == "lost", "it is listed, and stopped"
    spoke = step(*RUNNING, limits=replace(LIMITS, listed_within_s=300.0), now_s=100.0)
    assert (spoke.kind, spoke.reason) == ("lost", "PodLost")


def test_a_pod_that_its_cloud_ends_after_a_day_uses_up_no_attempt() -> None:
    limits = replace(LIMITS, longest_s=5000.0)
    for texts in (RUNNING, [*RUNNING, "preempted"]):
        gone = partial(next_step, record(*texts), pods=[], cancel_reason=None, limits=limits)
        assert gone(now_s=30.0 + 4999.9).reason in ("PodLost", "Preempted")
        ended = gone(now_s=30.0 + 5000.0)
        assert (ended.kind, ended.reason) == ("lost", "LifetimeOver") and "83 min" in ended.message
    many = [
        f"{state}:{attempt}{why}" for attempt in range(1, 6) for state, why in (("provisioned", ""), ("lost", OVER))
    ]
    assert (step(*many).kind, step(*many).attempt) == ("provision", 6)
    others = [f"{state}:{attempt}" for attempt in range(6, 9) for state in ("provisioned", "lost")]
    assert step(*many, *others[:4]).kind == "provision"
    assert step(*many, *others).reason == "TooManyAttempts"


LOOPING = Signs(answered=True, starts=4, lines=("system: start container", "container: exec python3: not found"))
STARTED = Signs(answered=True, heard_s=60.0, starts=1, lines=("container: ledger: 403; trying again",))


@pytest.mark.parametrize(
    ("now_s", "signs", "expected", "words"),
    [
        (30.0 + 60.1, STARTED, ("watch", ""), ""),
        (30.0 + 60.1, UNKNOWN, ("watch", ""), ""),
        (30.0 + 60.1, LOOPING, ("lost", "CrashLoop"), "python3: not found"),
        (30.0 + 900.0, STARTED, ("watch", ""), ""),
        (30.0 + 900.1, STARTED, ("lost", "BootTimeout"), "ledger: 403"),
        (30.0 + 900.1, UNKNOWN, ("lost", "BootTimeout"), "15 min"),
        (30.0 + 900.1, LOOPING, ("lost", "CrashLoop"), "4 times"),
    ],
)
def test_a_pod_that_never_spoke_is_given_up_and_its_log_says_why(
    now_s: float, signs: Signs, expected: tuple[str, str], words: str
) -> None:
    found = step(*RUNNING[:3], pods="pod1!", now_s=now_s, signs=signs)
    assert (found.kind, found.reason) == expected
    assert words in found.message


LATE = SECOND_LINE_S + 0.1


@pytest.mark.parametrize(
    ("texts", "since_s", "limit_s", "reason"),
    [
        (RUNNING[:4], BOOTED_S, LIMITS.environment_s, "EnvironmentTimeout"),
        ([*RUNNING[:4], "environment"], TRAINED_S, LIMITS.first_step_s, "FirstStepTimeout"),
        ([*RUNNING[:4], "preparing"], TRAINED_S, LIMITS.first_step_s, "FirstStepTimeout"),
        (RUNNING, TRAINED_S, LIMITS.first_step_s, "StepGap"),
        ([*RUNNING, "publishing"], 60.0, LIMITS.upload_s, "UploadTimeout"),
    ],
)
def test_a_pod_that_fell_silent_is_given_up_only_when_its_cloud_finds_it_silent_too(
    texts: list[str], since_s: float, limit_s: float, reason: str
) -> None:
    late_s = since_s + limit_s + LATE
    assert step(*texts, pods="pod1", now_s=late_s - 0.2).kind == "watch"
    assert step(*texts, pods="pod1", now_s=late_s).kind == "look"
    speaking = replace(SILENT, heard_s=late_s - 60.0)
    stepping = replace(SILENT, stepped_s=late_s - 60.0)
    for signs in (UNKNOWN, speaking, stepping):
        assert step(*texts, pods="pod1", now_s=late_s, signs=signs).kind == "watch", signs
    for pods, signs in (
        ("pod1", replace(SILENT, heard_s=None)),
        ("pod1", replace(SILENT, heard_s=10.0)),
        ("pod1!", UNKNOWN),
    ):
        found = step(*texts, pods=pods, now_s=late_s, signs=signs)
        assert (found.kind, found.reason) == ("lost", reason), (pods, signs)
        assert found.message.count("limit") + found.message.count("LIMIT") == 1, found.message


def test_containers_that_start_again_and_again_in_vain_are_a_crash_loop() -> None:
    booted = [*RUNNING[:3], *["booting"] * 3]
    assert step(*booted, pods="pod1").kind == "watch"
    assert step(*booted, "booting", pods="pod1").kind == "look"
    found = step(*booted, "booting", pods="pod1", signs=LOOPING)
    assert (found.kind, found.reason) == ("lost", "CrashLoop") and "not found" in found.message
    assert step(*booted, "booting", pods="pod1", signs=UNKNOWN).reason == "CrashLoop"
    # Each of these got further than the one before: a memory leak that costs an hour, not a loop.
    working = [*RUNNING[:3], *(it for n in range(8) for it in ("booting", f"training:1:{n * 50}"))]
    assert step(*working, pods="pod1").kind == "watch"
    stuck = [*working, *(it for _ in range(3) for it in ("booting", "training:1:350"))]
    assert step(*stuck, pods="pod1", signs=UNKNOWN).reason == "CrashLoop"


@pytest.mark.parametrize(
    ("texts", "since_s", "limit_s"),
    [
        (["claimed", "provisioning", "waiting:1:NoCapacity"], 10.0, LIMITS.placement_s),
        ([*RUNNING, "lost:1", "provisioning:2", "waiting:2:NoCapacity"], 60.0, LIMITS.placement_held_s),
    ],
)
def test_a_run_waits_for_a_place_until_its_limit(texts: list[str], since_s: float, limit_s: float) -> None:
    assert step(*texts, now_s=since_s + limit_s).kind == "provision"
    found = step(*texts, now_s=since_s + limit_s + 0.1)
    assert (found.kind, found.outcome, found.reason) == ("destroy", "failed", "PlacementTimeout")
    assert "placement_hours" in found.message and "about waiting" in found.message
    # Nobody asked for a long time, so nobody waited: first it is tried.
    assert step(*texts[:-1], now_s=since_s + limit_s + 0.1).kind == "provision"


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


CLOSING = replace(LIMITS, closing_s=180.0)


@pytest.mark.parametrize(
    ("texts", "cancel", "pods", "now_s", "expected"),
    [
        # The ledger says it first: the pod hears of it there, and pushes its branch.
        (RUNNING, "SpecDeleted", "pod1", 100.0, ("cancel", "SpecDeleted")),
        ([*RUNNING, "cancelled:1:SpecDeleted"], "SpecDeleted", "pod1", 100.0, ("watch", "")),
        ([*RUNNING, "cancelled:1:ByHand"], None, "pod1", 239.0, ("watch", "")),
        # Over when the pod has said so, is gone, never opened the session, or takes too long.
        ([*RUNNING, "cancelled:1:ByHand", "publishing", "finished"], None, "pod1", 100.0, ("destroy", "ByHand")),
        ([*RUNNING, "cancelled:1:ByHand", "failed:1:PushRefused"], None, "pod1", 100.0, ("destroy", "ByHand")),
        ([*RUNNING, "cancelled:1:ByHand"], None, "", 100.0, ("destroy", "ByHand")),
        ([*RUNNING[:4], "cancelled:1:ByHand"], None, "pod1", 100.0, ("destroy", "ByHand")),
        ([*RUNNING, "cancelled:1:ByHand"], None, "pod1", 241.0, ("destroy", "ByHand")),
        ([*RUNNING, "lost:1:PodLost"], "SpecDeleted", "pod1", 100.0, ("destroy", "SpecDeleted")),
    ],
)
def test_a_session_that_is_cancelled_has_some_minutes_for_its_branch(
    texts: list[str], cancel: str | None, pods: str, now_s: float, expected: tuple[str, str]
) -> None:
    live = [replace(pod(name), uptime_s=10) for name in pods.split()]
    found = next_step(record(*texts), pods=live, cancel_reason=cancel, now_s=now_s, limits=CLOSING)
    assert (found.kind, found.reason) == expected


def test_a_receipt_is_the_end() -> None:
    for cancel in (None, "SpecDeleted"):
        assert step(*RUNNING, "destroying", "closed", "training", over=True, cancel=cancel).kind == "over"
