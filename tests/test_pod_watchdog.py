"""When a pod ends and why: verdicts with made-up clocks, ends from what a trainer leaves, text on its way out."""

import json
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pod_bench import CONTEXT_ENV, context_of, wait_for

from pushtrain.errors import PushtrainError
from pushtrain.events import EventDraft, encode
from pushtrain.pod.console import Console, lines
from pushtrain.pod.context import read_context
from pushtrain.pod.outcome import Remains, decide
from pushtrain.pod.phase import Phase, Pulse, Seen, Standing, advance, look
from pushtrain.pod.processes import within
from pushtrain.pod.terminate import pause_ticks
from pushtrain.pod.watchdog import MOST_STARTS, TOLERATED_SKEW_S, Limits, Reason, View, arrive, verdict
from pushtrain.redact import redact


def limits_at_10000(cloud_s: float | None = None) -> Limits:
    return Limits.starting(wall_s=10_000, monotonic_s=50, context=context_of(), cloud_s=cloud_s)


def view(wall_s: float, monotonic_s: float, moved_s: float, **more: Any) -> View:
    given: dict[str, Any] = {"phase": Phase.STEPS, "since_monotonic_s": moved_s, **more}
    return View(wall_s=wall_s, monotonic_s=monotonic_s, moved_monotonic_s=moved_s, **given)


def test_the_stop_comes_a_grace_before_the_deadline_on_both_clocks() -> None:
    found = limits_at_10000()
    assert (found.stop_epoch_s, found.stop_monotonic_s, found.stall_s) == (10_970, 1_020, 600)
    assert set(found.phase_s) == set(Phase), "no phase without a limit"


def test_the_grace_is_at_most_a_tenth_of_the_time_there_is() -> None:
    late = Limits.starting(wall_s=10_900, monotonic_s=50, context=context_of())
    assert (late.stop_epoch_s, late.stop_monotonic_s) == (10_990, 140)
    past = Limits.starting(wall_s=12_000, monotonic_s=50, context=context_of())
    assert verdict(view(12_000, 50, 50), past) is Reason.DEADLINE


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (view(10_001, 51, 50), None),
        (view(10_969, 1_019, 1_000), None),
        (view(10_970, 1_000, 1_000), Reason.DEADLINE),
        (view(5_000, 1_020, 1_019), Reason.DEADLINE),
        (view(10_600, 649, 50), None),
        (view(10_600, 650, 50), Reason.STALL),
        (view(10_600, 650, 50, phase=Phase.BOOT, since_monotonic_s=649), None),
        (view(10_001, 51, 50, told_to_stop=True), Reason.PREEMPTED),
        (view(10_990, 1_040, 50, told_to_stop=True), Reason.DEADLINE),
        (view(10_001, 51, 50, exit_code=0), Reason.FINISHED),
        (view(99_999, 9_999, 50, exit_code=0), Reason.FINISHED),
        (view(10_001, 51, 50, exit_code=69), Reason.BOOT_FAILED),
        (view(10_001, 51, 50, exit_code=75), Reason.PREEMPTED),
        (view(10_001, 51, 50, exit_code=1), Reason.TRAINER_GONE),
        (view(10_001, 51, 50, exit_code=-9), Reason.TRAINER_GONE),
    ],
)
def test_the_verdict_follows_from_clocks_child_and_heartbeat(seen: View, reason: Reason | None) -> None:
    assert verdict(seen, limits_at_10000()) is reason


@pytest.mark.parametrize(
    ("phase", "limit_s", "reason"),
    [
        (Phase.BOOT, 101, Reason.BOOT_TIMEOUT),
        (Phase.ENVIRONMENT, 102, Reason.ENVIRONMENT_TIMEOUT),
        (Phase.FIRST_STEP, 103, Reason.FIRST_STEP_TIMEOUT),
        (Phase.STEPS, 104, Reason.STEP_GAP),
        (Phase.UPLOAD, 105, Reason.UPLOAD_TIMEOUT),
    ],
)
def test_each_phase_has_its_own_limit_however_lively_the_pod_is(phase: Phase, limit_s: float, reason: Reason) -> None:
    limits = Limits.starting(
        wall_s=0,
        monotonic_s=0,
        context=context_of(
            limit_boot_s=101,
            limit_environment_s=102,
            limit_first_step_s=103,
            limit_step_gap_s=104,
            limit_upload_s=105,
        ),
    )
    lively = view(50, 500, 500, phase=phase, since_monotonic_s=500 - limit_s)
    assert verdict(lively, limits) is reason
    assert verdict(replace(lively, since_monotonic_s=lively.since_monotonic_s + 0.1), limits) is None


def test_a_clock_that_the_cloud_contradicts_counts_for_nothing() -> None:
    behind = limits_at_10000(cloud_s=10_900)
    assert (behind.stop_epoch_s, behind.stop_monotonic_s) == (math.inf, 140)
    assert verdict(view(10_000 + 90, 140, 139), behind) is Reason.DEADLINE
    ahead = limits_at_10000(cloud_s=9_000)
    assert (ahead.stop_epoch_s, ahead.stop_monotonic_s) == (math.inf, 2_020)
    assert verdict(view(99_999_999, 2_019, 2_018), ahead) is None, "nor does it when it is set right later"
    for cloud_s in (None, 10_000 - TOLERATED_SKEW_S, 10_000 + TOLERATED_SKEW_S):
        assert limits_at_10000(cloud_s) == limits_at_10000()


BEGUN = Standing(phase=Phase.BOOT, moved_s=0, since_s=0)
QUIET = Seen(heartbeat_ns=5, step_ns=5, metrics_bytes=5, events_bytes=5)


@pytest.mark.parametrize(
    ("phase", "now", "states", "expected"),
    [
        # Nothing new: the clock of the phase goes on.
        (Phase.BOOT, QUIET, [], (Phase.BOOT, 0, 0)),
        (Phase.STEPS, QUIET, [], (Phase.STEPS, 0, 0)),
        # The agent is there, the trainer is, it steps, it uploads.
        (Phase.BOOT, replace(QUIET, heartbeat_ns=6), [], (Phase.ENVIRONMENT, 9, 9)),
        (Phase.ENVIRONMENT, replace(QUIET, heartbeat_ns=6), [], (Phase.ENVIRONMENT, 9, 0)),
        (Phase.ENVIRONMENT, QUIET, ["preparing"], (Phase.FIRST_STEP, 0, 9)),
        (Phase.FIRST_STEP, QUIET, ["training"], (Phase.FIRST_STEP, 0, 0)),
        (Phase.FIRST_STEP, replace(QUIET, metrics_bytes=6), [], (Phase.STEPS, 0, 9)),
        (Phase.FIRST_STEP, replace(QUIET, step_ns=6), [], (Phase.STEPS, 0, 9)),
        (Phase.STEPS, replace(QUIET, metrics_bytes=6), [], (Phase.STEPS, 0, 9)),
        (Phase.STEPS, replace(QUIET, step_ns=6), [], (Phase.STEPS, 0, 9)),
        (Phase.STEPS, replace(QUIET, heartbeat_ns=6), [], (Phase.STEPS, 9, 0)),
        (Phase.FIRST_STEP, QUIET, ["evaluating"], (Phase.STEPS, 0, 9)),
        (Phase.STEPS, QUIET, ["evaluating"], (Phase.STEPS, 0, 0)),
        (Phase.STEPS, QUIET, ["publishing"], (Phase.UPLOAD, 0, 9)),
        # All of it between two looks; what nobody knows; nothing goes back.
        (Phase.BOOT, replace(QUIET, heartbeat_ns=6), ["preparing", "training", "x"], (Phase.FIRST_STEP, 9, 9)),
        (Phase.ENVIRONMENT, QUIET, ["", "finished"], (Phase.ENVIRONMENT, 0, 0)),
        (Phase.UPLOAD, replace(QUIET, step_ns=6, metrics_bytes=6), ["preparing"], (Phase.UPLOAD, 0, 0)),
    ],
)
def test_the_phase_follows_from_what_is_new_on_the_volume(
    phase: Phase, now: Seen, states: list[str], expected: tuple[Phase, float, float]
) -> None:
    found = advance(replace(BEGUN, phase=phase), QUIET, now, states, now_s=9)
    assert (found.phase, found.moved_s, found.since_s) == expected


def test_what_an_earlier_container_left_is_no_news_and_a_torn_line_waits(tmp_path: Path) -> None:
    for name in ("heartbeat", "step", "metrics.jsonl"):
        (tmp_path / name).write_text("old\n")
    events = tmp_path / "events.jsonl"
    events.write_text('{"state": "publishing"}\n')
    pulse = Pulse(tmp_path, look(tmp_path, Seen()), tick_s=0.01)
    late = Pulse(tmp_path, None, tick_s=0.01)
    time.sleep(0.1)
    assert pulse.standing.phase is late.standing.phase is Phase.BOOT
    with events.open("a") as file:
        file.write('not json\n[]\n{"state": "prep')
        file.flush()
        time.sleep(0.1)
        assert pulse.standing.phase is Phase.BOOT
        file.write('aring"}\n')
    wait_for(lambda: pulse.standing.phase is late.standing.phase is Phase.FIRST_STEP)


def test_containers_that_start_from_the_same_checkpoint_again_and_again_are_counted(tmp_path: Path) -> None:
    context = context_of(workspace=tmp_path)
    assert [arrive(context, "pod").vain_starts for _ in range(3)] == [1, 2, 3]
    for step in (9, 10):
        folder = context.run_dir / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        assert arrive(context, "pod").vain_starts > 1, "one that is not whole is none"
        (folder / "COMPLETE.json").touch()
        assert arrive(context, "pod").vain_starts == 1, f"step {step} is further than all before"
    assert context.starts.read_text().split() == ["0"] * 4 + ["9"] * 2 + ["10"]
    assert not arrive(context, "pod").is_over
    context.ended.touch()
    assert arrive(context, "pod").is_over and MOST_STARTS >= 3


def test_of_two_pods_of_one_attempt_the_second_starts_nothing(tmp_path: Path) -> None:
    """A create may be carried out minutes after its client gave up and sent another."""
    context = context_of(workspace=tmp_path)
    assert not arrive(context, "first").is_twin
    assert arrive(context, "second").is_twin
    assert not arrive(context, "first").is_twin, "a container that is restarted is the same pod"
    assert context.starts.read_text().split() == ["0", "0"]
    assert not arrive(replace(context, attempt=2), "second").is_twin
    context.owner.write_text("")
    assert not arrive(context, "second").is_twin, "died between the two: nobody's"


def test_termination_is_tried_often_for_a_minute_and_then_within_the_rate_limit() -> None:
    assert [pause_ticks(elapsed) for elapsed in (0, 59, 60, 10_000)] == [5, 5, 60, 60]


def test_what_hangs_is_left_behind() -> None:
    began = time.monotonic()
    assert within(0.1, lambda: time.sleep(60) or "late", "otherwise") == "otherwise"
    assert time.monotonic() - began < 30
    assert within(150, lambda: Path("/nowhere/at/all").read_text(), "otherwise") == "otherwise"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUSHTRAIN_COMMIT", "main"),
        ("PUSHTRAIN_RUN_ID", "../../etc"),
        ("PUSHTRAIN_SPEC_PATH", "../secrets"),
        ("PUSHTRAIN_SPEC_PATH", "/etc/passwd"),
        ("PUSHTRAIN_SPEC_PATH", "--help"),
        ("PUSHTRAIN_SOURCE_URL", "--upload-pack=touch"),
        ("PUSHTRAIN_DEADLINE_EPOCH_S", "-1"),
        ("PUSHTRAIN_STALL_S", ""),
    ],
)
def test_a_malformed_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(PushtrainError, match=name):
        read_context(CONTEXT_ENV | {name: value})


def reader(*chunks: bytes) -> Any:
    parts = iter([*chunks, b""])
    return lambda size: next(parts)


def test_lines_are_cut_at_newlines_and_carriage_returns_however_they_arrive() -> None:
    assert list(lines(reader(b"on", b"e\ntw", b"o\r50%\r100%\r\nrest"))) == ["one", "two", "50%", "100%", "rest"]


def test_an_endless_line_is_cut_at_white_space_so_that_no_secret_is_cut() -> None:
    secret = b"canary-secret-" + b"y" * 30
    out = list(lines(reader(b"x" * 65_000 + b" " + secret[:20], b"z" * 2_000, secret[20:])))
    assert out == ["x" * 65_000, (secret[:20] + b"z" * 2_000 + secret[20:]).decode()]


def test_a_line_longer_than_the_console_holds_is_said_when_nothing_else_waits() -> None:
    seen: list[bytes] = []
    Console({}, seen.append, capacity_bytes=10).say("x" * 100)
    wait_for(lambda: seen == [b"x" * 100 + b"\n"])


def test_a_console_nobody_reads_drops_lines_and_says_how_many() -> None:
    gate, seen = threading.Event(), []

    def write(raw: bytes) -> None:
        gate.wait(150)
        seen.append(raw)

    console = Console({"HF_TOKEN": "canary-secret-1"}, write, capacity_bytes=30)
    began = time.monotonic()
    for number in range(100):
        console.say(f"line {number} canary-secret-1")
    assert time.monotonic() - began < 60, "saying something never waits"
    gate.set()
    wait_for(lambda: b"line 1 " in b"".join(seen))
    text = b"".join(seen).decode()
    assert len(text) < 200, "what waits is bounded in bytes, not in lines"
    assert "line 0 ***" in text and "lines were not shown here" in text and "canary" not in text


RESULT = b'{"metrics": {}}'
FAILURE = b'{"reason": "LossNotFinite", "message": "step 3"}'


@pytest.mark.parametrize(
    ("remains", "state", "reason", "exit_code"),
    [
        (Remains(exit_code=0, result=RESULT), "finished", "", 0),
        (Remains(exit_code=-11, result=RESULT), "finished", "", 0),
        (Remains(exit_code=0, result=RESULT, stopped=True, stop_reason="Deadline"), "finished", "", 0),
        (Remains(exit_code=0, result=b"{"), "failed", "ResultInvalid", 1),
        (Remains(exit_code=0), "failed", "ResultMissing", 1),
        (Remains(exit_code=1, failure=FAILURE), "failed", "LossNotFinite", 1),
        (Remains(exit_code=2, failure=FAILURE), "failed", "LossNotFinite", 2),
        (Remains(exit_code=1, failure=b"torn"), "failed", "Failed", 1),
        (Remains(exit_code=75), "preempted", "Preempted", 75),
        (Remains(exit_code=-15, stopped=True, stop_reason="Preempted"), "preempted", "Preempted", 75),
        (Remains(exit_code=None, stopped=True), "preempted", "Preempted", 75),
        (Remains(exit_code=75, stopped=True, stop_reason="Deadline"), "failed", "DeadlineReached", 1),
        (Remains(exit_code=-9, stopped=True, stop_reason="FirstStepTimeout"), "failed", "FirstStepTimeout", 1),
        (Remains(exit_code=75, stopped=True, stop_reason="Stall"), "failed", "Stalled", 1),
        (Remains(exit_code=-9, stopped=True, stop_reason="StepGap"), "failed", "StepGap", 1),
        (
            Remains(exit_code=None, stopped=True, stop_reason="EnvironmentTimeout"),
            "failed",
            "EnvironmentTimeout",
            1,
        ),
        (Remains(exit_code=1, failure=FAILURE, stop_reason="UploadTimeout"), "failed", "UploadTimeout", 1),
        (Remains(exit_code=0, result=RESULT, stopped=True, stop_reason="UploadTimeout"), "finished", "", 0),
        (Remains(exit_code=-9, tail=("one",)), "failed", "TrainerKilled", 1),
        (Remains(exit_code=3), "failed", "TrainerKilled", 1),
    ],
)
def test_the_end_follows_from_what_the_trainer_left(remains: Remains, state: str, reason: str, exit_code: int) -> None:
    outcome = decide(remains)
    assert (outcome.state, outcome.reason, outcome.exit_code) == (state, reason, exit_code)
    assert (outcome.files == {"result.json": RESULT}) == (state == "finished")
    assert bool(outcome.message) == (state != "finished")


def test_every_limit_has_a_reason_that_the_agent_can_tell() -> None:
    told = [Reason.DEADLINE, Reason.STALL, *(reason for reason in Reason if "imeout" in reason.value), Reason.STEP_GAP]
    told.remove(Reason.BOOT_TIMEOUT)  # there is no agent yet
    outcomes = [decide(Remains(exit_code=-9, stopped=True, stop_reason=reason.value)) for reason in told]
    assert len({outcome.reason for outcome in outcomes}) == len({outcome.message for outcome in outcomes}) == len(told)
    assert "Preempted" not in {outcome.reason for outcome in outcomes}


def test_an_event_that_quotes_a_credential_is_still_json_after_redaction() -> None:
    said = EventDraft(
        state="failed", writer="pod", attempt=1, message='GET "https://h/?token=abc" said "x://a:b"@\nnext'
    )
    _, raw = encode(said, seq=1, prev=None, now_s=0)
    assert json.loads(redact(raw.decode(), {}))["message"] == 'GET "https://h/?token=***" said "x://a:b"@\nnext'
