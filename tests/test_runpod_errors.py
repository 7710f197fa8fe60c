"""Every row of the client's error table over real HTTP, and no secret in any error."""

import json
import time
import traceback
from http.server import ThreadingHTTPServer

import pytest
from runpod_script import (
    CREATE_POD,
    CUT,
    HF,
    KEY,
    LOGS,
    PODS,
    Reply,
    Script,
    Time,
    event,
    pod_json,
    pod_request,
    pods,
    problem,
)

from infra.clouds.runpod.client import RunPod
from infra.clouds.wire import Limits
from pushtrain.errors import (
    CloudAuthFailed,
    CloudError,
    CloudUnavailable,
    NoBalance,
    NoCapacity,
    RequestRejected,
)

pytest_plugins = ("runpod_fixtures",)

CAPACITY = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again.",
    "There are no instances currently available",
    "There are not enough free GPUs on the host machine to start this pod.",
    "This machine does not have the resources to deploy your pod. Please try a different machine",
    "insufficient capacity",
    "no available machine found",
    "GPU is out of stock",
)


@pytest.mark.parametrize("text", CAPACITY)
def test_every_known_capacity_text_of_a_400_asks_for_the_next_candidate(runpod: RunPod, script: Script, text: str):
    script.on(PODS, pods())
    script.on(CREATE_POD, problem(400, text))
    with pytest.raises(NoCapacity) as caught:
        runpod.create_pod(pod_request())
    assert text in str(caught.value), "when every candidate says 400 the detail is all there is"
    assert "2 x NVIDIA A40" in str(caught.value) and "EU-SE-1" in str(caught.value)
    assert len(script.sent(*CREATE_POD)) == 1


@pytest.mark.parametrize(
    "answer",
    [
        problem(400, "No.", errors=["GPU is OUT OF STOCK"]),
        problem(400, "x" * 500 + " Insufficient Capacity"),
        Reply(400, {"errors": [{"message": "There are not enough free GPUs on the host", "path": ["x"]}]}),
        problem(400, "THERE ARE NO LONGER ANY INSTANCES AVAILABLE WITH ENOUGH DISK SPACE."),
    ],
    ids=["errors", "behind-the-cut", "graphql", "capitals"],
)
def test_a_capacity_text_counts_wherever_it_stands(runpod: RunPod, script: Script, answer: Reply):
    script.on(PODS, pods())
    script.on(CREATE_POD, answer)
    with pytest.raises(NoCapacity):
        runpod.create_pod(pod_request())


def test_a_5xx_that_says_no_capacity_is_the_next_candidates_turn_once_nothing_is_found(
    runpod: RunPod, script: Script, timer: Time
):
    script.on(PODS, pods())
    script.on(CREATE_POD, problem(500, CAPACITY[0]))
    with pytest.raises(NoCapacity):
        runpod.create_pod(pod_request())
    assert len(script.sent(*CREATE_POD)) == 1 and timer.sleeps == [1.0, 3.0, 6.0], "looked for, not sent again"


@pytest.mark.parametrize(
    ("answer", "expected", "said", "hinted"),
    [
        (problem(400, "`gpu` and `cpu` are both set"), RequestRejected, "both set", "do not retry"),
        (problem(401, "missing bearer token"), CloudAuthFailed, "missing bearer token", "RUNPOD_API_KEY"),
        (problem(402, "Your account balance is too low"), NoBalance, "balance is too low", "add funds"),
        (problem(403, "access denied"), CloudAuthFailed, "access denied", "may not do this"),
        (Reply(403, b"error code: 1010"), CloudAuthFailed, "error code: 1010", "User-Agent"),
        (Reply(403, b"<title>Access denied</title> Error 1010"), CloudAuthFailed, "Error 1010", "Cloudflare"),
        (problem(404, "network volume not found"), CloudUnavailable, "volume not found", "makes it again"),
        (Reply(404, b"<h1>Not Found</h1>"), CloudUnavailable, "404", "RUNPOD_API_BASE_URL"),
        (problem(422, "registry out of stock"), RequestRejected, "registry", "do not retry"),
        (problem(405, "method not allowed"), RequestRejected, "405", "do not retry"),
        (problem(409, "conflict"), CloudUnavailable, "conflict", "try again"),
        (problem(410, "gone"), RequestRejected, "410: gone", "update pushtrain"),
        (Reply(301, b"", {"Location": "https://elsewhere.example"}), RequestRejected, "301", "do not retry"),
        (
            problem(422, "Request validation failed.", errors=["$: additional properties 'x' not allowed", "$.y: no"]),
            RequestRejected,
            "validation failed. ($: additional properties 'x' not allowed; $.y: no)",
            "do not retry",
        ),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_a_refused_create_is_sent_once_and_sorted_by_who_acts_next(
    runpod: RunPod, script: Script, answer: Reply, expected: type[CloudError], said: str, hinted: str
):
    script.on(PODS, pods())
    script.on(CREATE_POD, answer)
    with pytest.raises(CloudError) as caught:
        runpod.create_pod(pod_request())
    assert type(caught.value) is expected
    assert said in str(caught.value)
    assert hinted in (caught.value.hint or "")
    assert len(script.sent(*CREATE_POD)) == 1


def test_a_pool_the_account_may_not_use_can_be_told_from_a_refused_key(runpod: RunPod, script: Script):
    script.on(PODS, pods())
    script.on(CREATE_POD, problem(403, "access denied"))
    with pytest.raises(CloudAuthFailed) as caught:
        runpod.create_pod(pod_request())
    assert caught.value.reason == "AccessDenied"


@pytest.mark.parametrize("trouble", [problem(500, "boom"), Reply(502, b"<html>bad</html>"), Reply(200, b"<p>"), CUT])
def test_a_read_is_tried_again_with_growing_pauses_and_then_unavailable(
    runpod: RunPod, script: Script, timer: Time, trouble: Reply
):
    script.on(("GET", "/v2/pods/pod1"), trouble, trouble, pod_json())
    assert runpod.read_pod("pod1") is not None
    assert timer.sleeps == [1.0, 2.0]
    script.on(("GET", "/v2/pods/pod1"), trouble)
    with pytest.raises(CloudUnavailable):
        runpod.read_pod("pod1")
    assert timer.sleeps[2:] == [1.0, 2.0, 4.0], "four tries, then the caller decides"


def test_jitter_spreads_the_pauses(scripted_server: ThreadingHTTPServer, script: Script, timer: Time):
    rolls = iter([0.0, 1.0, 0.25])
    client = RunPod(
        KEY,
        f"http://127.0.0.1:{scripted_server.server_port}",
        environ={},
        limits=Limits(jitter=lambda: next(rolls)),
        sleep=timer.sleep,
        clock=lambda: timer.now_s,
    )
    script.on(("GET", "/v2/pods/pod1"), problem(500, "boom"))
    with pytest.raises(CloudUnavailable):
        client.read_pod("pod1")
    assert timer.sleeps == [0.5, 3.0, 3.0]
    client.close()


def test_nothing_listening_is_unavailable(timer: Time):
    client = RunPod(KEY, "http://127.0.0.1:9", environ={}, sleep=timer.sleep, clock=lambda: timer.now_s)
    with pytest.raises(CloudUnavailable, match="no answer \\(ConnectError"):
        client.find("pt-")


def test_an_answer_that_drips_for_ever_ends_at_the_deadline(scripted_server: ThreadingHTTPServer, script: Script):
    client = RunPod(
        KEY, f"http://127.0.0.1:{scripted_server.server_port}", environ={}, limits=Limits(read_s=0.2, attempts=1)
    )
    script.on(("GET", "/v2/pods/pod1"), Reply(200, pod_json(), drip_s=0.05))
    begun = time.monotonic()
    with pytest.raises(CloudUnavailable, match="took longer than"):
        client.read_pod("pod1")
    assert time.monotonic() - begun < 25
    client.close()


def test_429_waits_as_long_as_it_is_told_also_for_a_create(runpod: RunPod, script: Script, timer: Time):
    limited = problem(429, "rate limit exceeded for the minute window")
    limited.headers["Retry-After"] = "12"
    script.on(PODS, pods())
    script.on(CREATE_POD, limited, Reply(201, pod_json()))
    assert runpod.create_pod(pod_request()).id == "pod1"
    assert timer.sleeps == [12.5]


@pytest.mark.parametrize("retry_after", ["1812", None])
def test_429_is_given_up_when_the_wait_is_too_long_or_never_ends(
    runpod: RunPod, script: Script, timer: Time, retry_after: str | None
):
    limited = problem(429, "rate limit exceeded for the hour window")
    if retry_after:
        limited.headers["Retry-After"] = retry_after
    script.on(PODS, limited)
    with pytest.raises(CloudUnavailable, match="hour window"):
        runpod.find("pt-")
    assert timer.sleeps == ([] if retry_after else [1.5, 2.5, 4.5])


def test_an_empty_quota_is_waited_for_before_the_next_request(runpod: RunPod, script: Script, timer: Time):
    empty = '"minute";r=0;t=12, "hour";r=2800;t=1812, "day";r=49500;t=45012'
    plenty = '"minute";r=7;t=12, "hour";r=2800;t=1812'
    script.on(
        ("GET", "/v2/pods/pod1"),
        Reply(200, pod_json(), {"RateLimit": empty}),
        Reply(200, pod_json(), {"RateLimit": plenty}),
    )
    runpod.read_pod("pod1")
    assert timer.sleeps == []
    timer.now_s += 2
    runpod.read_pod("pod1")
    runpod.read_pod("pod1")
    assert timer.sleeps == [11.0]


def test_a_window_that_runs_short_for_hours_is_left_to_what_ends_something(runpod: RunPod, script: Script, timer: Time):
    short = {"RateLimit": '"day";r=5000;t=45012', "RateLimit-Policy": '"day";q=50000;w=86400'}
    script.on(("GET", "/v2/pods/pod1"), Reply(200, pod_json(), short))
    script.on(("POST", "/v2/pods/pod1/action"), Reply(204))
    script.on(("DELETE", "/v2/network-volumes/vol1"), Reply(204))
    runpod.read_pod("pod1")
    with pytest.raises(CloudUnavailable, match=r"room to terminate \(5000 of 50000 requests left in this day, new in"):
        runpod.read_pod("pod1")
    runpod.terminate("pod1")
    runpod.delete_volume("vol1")
    assert timer.sleeps == [] and len(script.sent("GET", "/v2/pods/pod1")) == 1


def test_what_ends_something_is_tried_even_when_nothing_seems_to_be_left(runpod: RunPod, script: Script, timer: Time):
    script.on(("GET", "/v2/pods/pod1"), Reply(200, pod_json(), {"RateLimit": '"hour";r=0;t=1800'}))
    script.on(("POST", "/v2/pods/pod1/action"), Reply(204))
    runpod.read_pod("pod1")
    runpod.terminate("pod1")
    assert timer.sleeps == []


def everything_about(error: BaseException | None) -> str:
    """What a person, a log or a debugger could see of an error: texts, reprs, the chain, and httpx's request in it."""
    seen = []
    while error is not None:
        request = getattr(error, "_request", None)
        seen += [str(error), repr(error), str(vars(error)), "".join(traceback.format_exception(error))]
        seen += [str(request.headers.raw), str(request.content)] if request is not None else []
        error = error.__cause__ or error.__context__
    return "\n".join(seen)


@pytest.mark.parametrize(
    "answer",
    [
        problem(400, f"bad env HF_TOKEN={HF} for Bearer {KEY}"),
        problem(422, "Request validation failed.", errors=[f"$.env.HF_TOKEN: {HF}", f"authorization: {KEY}"]),
        Reply(500, f"<html><pre>{json.dumps(HF)} {HF} {KEY}</pre></html>".encode()),
        problem(400, "x" * 380 + KEY),
        Reply(403, f"error code: 1010 {KEY} {HF}".encode()),
        CUT,
    ],
    ids=["detail", "errors", "html", "cut-by-the-limit", "cloudflare", "closed"],
)
def test_no_error_shows_the_key_or_a_secret_variable(runpod: RunPod, script: Script, answer: Reply):
    script.on(PODS, pods())
    script.on(CREATE_POD, answer)
    with pytest.raises(CloudError) as caught:
        runpod.create_pod(pod_request())
    assert script.sent(*CREATE_POD)[0].body["env"]["HF_TOKEN"] == HF, "the pod itself must get it"
    shown = everything_about(caught.value) + repr(runpod)
    for secret in (KEY, HF, json.dumps(HF)[1:-1], "canary-secret"):
        assert secret not in shown


def test_log_lines_and_pods_do_not_carry_secrets(runpod: RunPod, script: Script):
    script.on(PODS, pods())
    script.on(CREATE_POD, Reply(201, pod_json()))
    assert "canary-secret" not in repr(runpod.create_pod(pod_request()))
    script.on(LOGS, Reply(200, event(1, f"token is {HF}")))
    assert [line.line for line in runpod.logs("pod1")] == ["token is ***"]


@pytest.mark.parametrize("key", ["", "canary-secret key", "canary-secret\n", "canary-sécret"])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str):
    with pytest.raises(CloudAuthFailed) as caught:
        RunPod(key)
    assert "canary" not in everything_about(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://api.runpod.io", "ftp://127.0.0.1", "api.runpod.io", "", "https://user:canary-secret@h", "https://h:x"],
)
def test_a_base_url_that_would_expose_the_key_is_refused(url: str):
    with pytest.raises(RequestRejected) as caught:
        RunPod(KEY, url)
    assert "canary" not in str(caught.value)
