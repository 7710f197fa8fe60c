"""What a pod's log at the cloud says about a pod that the ledger hears nothing of."""

from dataclasses import replace

from test_lifecycle import pod

from pushtrain.cloud import LogLine
from pushtrain.signs import Signs, Uptimes, read_signs, tail


def line(source: str, text: str, time: str = "2026-11-01T10:00:00Z") -> LogLine:
    return LogLine(event_id="", time=time, source=source, line=text)


def test_starts_are_counted_in_the_system_log_and_the_newest_line_in_the_containers() -> None:
    signs = read_signs(
        [
            line("system", "create container runpod/pytorch:1.0"),
            line("system", "start container for runpod/pytorch:1.0: begin"),
            line("container", "start container of my own", "2026-11-01T10:00:30Z"),
            line("container", "older, of another stream", "2026-11-01T10:00:20Z"),
            line("container", "no time at all", "yesterday"),
            line("system", "error starting container: no such runtime", "2026-11-01T11:00:00Z"),
            line("system", "failed to start container: exec 'bash': not found"),
        ]
    )
    assert (signs.answered, signs.starts, signs.heard_s) == (True, 3, 1793527230.0)
    assert signs.is_silent(1793527230.0 + 60.1, 60.0)
    assert not signs.is_silent(1793527230.0 + 60.0, 60.0)


def test_a_container_whose_uptime_goes_backwards_was_restarted() -> None:
    seen = Uptimes()
    for uptime_s in (None, 3, 12, None, 2, 9, 9, 1, None, 4):
        seen.note("runpod", [replace(pod("p1"), uptime_s=uptime_s), replace(pod("p2"), uptime_s=7)])
    assert [seen.restarts("runpod", name) for name in ("p1", "p2", "p3")] == [2, 0, 0]


def test_two_clouds_may_give_one_id_to_two_pods() -> None:
    seen = Uptimes()
    for there, elsewhere in ((900, 3), (960, 63), (1020, 4)):
        seen.note("vast", [replace(pod("27500001"), uptime_s=there)])
        seen.note("elsewhere", [replace(pod("27500001"), uptime_s=elsewhere)])
    assert (seen.restarts("vast", "27500001"), seen.restarts("elsewhere", "27500001")) == (0, 1)


def test_no_line_is_silence_and_no_answer_is_none() -> None:
    assert read_signs([]).is_silent(0.0, 60.0)
    assert not Signs(answered=False).is_silent(1e9, 60.0)


def test_the_last_lines_end_a_message_short_and_without_secrets(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HF_TOKEN", "canary-secret-hub")
    signs = read_signs([line("container", f"line {n} canary-secret-hub" + "x" * 500) for n in range(9)])
    text = tail(signs)
    assert "line 3" not in text and "line 4" in text and "line 8" in text
    assert "canary-secret-hub" not in text and len(text) < 1300
    assert tail(None) == tail(Signs(answered=True)) == ""
