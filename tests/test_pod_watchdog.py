"""When a pod ends and why: verdicts with made-up clocks, ends from what a trainer leaves, text on its way out."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pod_bench import CONTEXT_ENV, context_of

from pushtrain.errors import PushtrainError
from pushtrain.events import EventDraft, encode
from pushtrain.pod.console import Console, lines
from pushtrain.pod.context import read_context
from pushtrain.pod.outcome import Remains, decide
from pushtrain.pod.processes import within
from pushtrain.pod.terminate import pause_ticks
from pushtrain.pod.watchdog import Limits, Reason, View, verdict
from pushtrain.redact import redact


def limits_at_10000() -> Limits:
    return Limits.starting(wall_s=10_000, monotonic_s=50, context=context_of())


def test_the_stop_comes_a_grace_before_the_deadline_on_both_clocks() -> None:
    assert limits_at_10000() == Limits(stop_epoch_s=10_970, stop_monotonic_s=1_020, stall_s=600)


def test_the_grace_is_at_most_a_tenth_of_the_time_there_is() -> None:
    late = Limits.starting(wall_s=10_900, monotonic_s=50, context=context_of())
    assert (late.stop_epoch_s, late.stop_monotonic_s) == (10_990, 140)
    past = Limits.starting(wall_s=12_000, monotonic_s=50, context=context_of())
    assert verdict(View(wall_s=12_000, monotonic_s=50, moved_monotonic_s=50), past) is Reason.DEADLINE


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50), None),
        (View(wall_s=10_969, monotonic_s=1_019, moved_monotonic_s=1_000), None),
        (View(wall_s=10_970, monotonic_s=1_000, moved_monotonic_s=1_000), Reason.DEADLINE),
        (View(wall_s=5_000, monotonic_s=1_020, moved_monotonic_s=1_019), Reason.DEADLINE),
        (View(wall_s=10_600, monotonic_s=649, moved_monotonic_s=50), None),
        (View(wall_s=10_600, monotonic_s=650, moved_monotonic_s=50), Reason.STALL),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, told_to_stop=True), Reason.PREEMPTED),
        (View(wall_s=10_990, monotonic_s=1_040, moved_monotonic_s=50, told_to_stop=True), Reason.DEADLINE),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=0), Reason.FINISHED),
        (View(wall_s=99_999, monotonic_s=9_999, moved_monotonic_s=50, exit_code=0), Reason.FINISHED),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=69), Reason.BOOT_FAILED),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=75), Reason.PREEMPTED),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=1), Reason.TRAINER_GONE),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=-9), Reason.TRAINER_GONE),
    ],
)
def test_the_verdict_follows_from_clocks_child_and_heartbeat(view: View, reason: Reason | None) -> None:
    assert verdict(view, limits_at_10000()) is reason


def test_termination_is_tried_often_for_a_minute_and_then_within_the_rate_limit() -> None:
    assert [pause_ticks(elapsed) for elapsed in (0, 59, 60, 10_000)] == [5, 5, 60, 60]


def test_what_hangs_is_left_behind() -> None:
    began = time.monotonic()
    assert within(0.1, lambda: time.sleep(5) or "late", "otherwise") == "otherwise"
    assert time.monotonic() - began < 1
    assert within(1, lambda: Path("/nowhere/at/all").read_text(), "otherwise") == "otherwise"


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


def test_a_console_nobody_reads_drops_lines_and_says_how_many() -> None:
    gate, seen = threading.Event(), []

    def write(raw: bytes) -> None:
        gate.wait(5)
        seen.append(raw)

    console = Console({"HF_TOKEN": "canary-secret-1"}, write, capacity=3)
    began = time.monotonic()
    for number in range(100):
        console.say(f"line {number} canary-secret-1")
    assert time.monotonic() - began < 1, "saying something never waits"
    gate.set()
    give_up = time.monotonic() + 5
    while len(seen) < 3 and time.monotonic() < give_up:
        time.sleep(0.01)
    text = b"".join(seen).decode()
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
        (Remains(exit_code=75, stopped=True, stop_reason="Stall"), "failed", "Stalled", 1),
        (Remains(exit_code=-9, tail=("one",)), "failed", "TrainerKilled", 1),
        (Remains(exit_code=3), "failed", "TrainerKilled", 1),
    ],
)
def test_the_end_follows_from_what_the_trainer_left(remains: Remains, state: str, reason: str, exit_code: int) -> None:
    outcome = decide(remains)
    assert (outcome.state, outcome.reason, outcome.exit_code) == (state, reason, exit_code)
    assert (outcome.files == {"result.json": RESULT}) == (state == "finished")


def test_an_event_that_quotes_a_credential_is_still_json_after_redaction() -> None:
    said = EventDraft(
        state="failed", writer="pod", attempt=1, message='GET "https://h/?token=abc" said "x://a:b"@\nnext'
    )
    _, raw = encode(said, seq=1, prev=None, now_s=0)
    assert json.loads(redact(raw.decode(), {}))["message"] == 'GET "https://h/?token=***" said "x://a:b"@\nnext'
