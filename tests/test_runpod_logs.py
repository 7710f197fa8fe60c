"""Log streams over real HTTP: whole lines, cuts, resumes, ends."""

import time
from http.server import ThreadingHTTPServer

import pytest
from runpod_script import GONE, KEY, LOGS, Reply, Script, event, problem

from infra.clouds.runpod.client import RunPod
from pushtrain.cloud import Cloud
from pushtrain.errors import CloudAuthFailed, CloudError, CloudUnavailable

pytest_plugins = ("runpod_fixtures",)


def lines(runpod: Cloud, last: str | None = None) -> list[str]:
    return [line.line for line in runpod.logs("pod1", last, timeout_s=5.0)]


def test_log_lines_are_read_with_their_ids_and_odd_characters_whole(runpod: RunPod, script: Script):
    odd = "half\u2028way \x85 äöü \r 100%"
    noise = b": keep-alive\n\ndata: ping\n\nevent: x\r\n\r\n"
    script.on(LOGS, Reply(200, noise + event(1, odd) + event(2).replace(b"\n", b"\r\n")))
    first, second = runpod.logs("pod1")
    assert (first.event_id, first.time, first.source) == (
        "2026-11-20T12:00:00Z/000000000001",
        "2026-11-20T12:00:00Z",
        "container",
    )
    assert (first.line, second.line) == (odd, "line 2")
    assert second.event_id == "2026-11-20T12:00:00Z/000000000002"
    assert script.sent(*LOGS)[0].query == {"tail": "5000"}
    assert "last-event-id" not in script.sent(*LOGS)[0].headers


def test_a_stream_cut_inside_an_event_is_resumed_and_no_line_is_lost_or_doubled(runpod: RunPod, script: Script):
    whole = event(3)
    script.on(
        LOGS,
        Reply(200, event(1) + event(2) + whole[: len(whole) // 2], cut=True),
        Reply(500),
        Reply(200, event(2) + event(3) + event(4)[:-1]),
    )
    assert lines(runpod) == ["line 1", "line 2", "line 3"], "the fourth event never ended"
    resumed = [seen.headers.get("last-event-id") for seen in script.sent(*LOGS)]
    assert resumed == [None, "2026-11-20T12:00:00Z/000000000002", "2026-11-20T12:00:00Z/000000000002"]
    assert script.sent(*LOGS)[-1].query == {}


def test_the_caller_resumes_where_it_stopped(runpod: RunPod, script: Script):
    script.on(LOGS, Reply(200, event(7) + event(8)))
    assert lines(runpod, "2026-11-20T12:00:00Z/000000000007") == ["line 8"]
    assert script.sent(*LOGS)[0].headers["last-event-id"] == "2026-11-20T12:00:00Z/000000000007"


def test_a_stream_that_goes_on_ends_when_the_time_is_up(scripted_server: ThreadingHTTPServer, script: Script):
    client = RunPod(KEY, f"http://127.0.0.1:{scripted_server.server_port}", environ={})
    script.on(LOGS, Reply(200, b"", delay_s=30))
    begun = time.monotonic()
    assert list(client.logs("pod1", timeout_s=0.3)) == []
    assert 0.2 < time.monotonic() - begun < 25
    client.close()


def test_the_log_of_a_pod_that_is_gone_is_empty(runpod: RunPod, script: Script):
    script.on(LOGS, Reply(404, GONE))
    assert lines(runpod) == []


@pytest.mark.parametrize(
    ("answer", "expected"), [(problem(401, "no"), CloudAuthFailed), (problem(500, "boom"), CloudUnavailable)]
)
def test_a_log_that_cannot_be_had_is_an_error(
    runpod: RunPod, script: Script, answer: Reply, expected: type[CloudError]
):
    script.on(LOGS, answer)
    with pytest.raises(expected, match="reading the logs of pod pod1"):
        lines(runpod)
