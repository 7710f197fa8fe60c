"""Modal's words and ours, both ways, which error each of its SDK's means, and that nobody else pays for the SDK. Mostly
without Modal: its SDK is imported in processes of their own."""

import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from infra.clouds.modal import shapes
from infra.clouds.modal.answers import Said, failure, why
from infra.clouds.modal.client import Modal
from infra.clouds.modal.logs import LOOK_BACK, Piece, lines, since
from infra.clouds.modal.names import CORE_USD, CORES, GIB_USD, MEMORY_GIB, find, gpu_ids, sold_as, usd_per_gpu_hour
from infra.clouds.modal.works import checked
from pushtrain.cloud import PodRequest
from pushtrain.errors import (
    CloudAuthFailed,
    CloudError,
    CloudUnavailable,
    NoBalance,
    NoCapacity,
    RequestRejected,
)
from pushtrain.gpus import GPU_NAMES, memory_gb, unusable

TOKEN = {"MODAL_TOKEN_ID": "ak-1"}
NOW_S = 1_780_000_000.0
NOW = datetime.fromtimestamp(NOW_S, timezone.utc)
REQUEST = PodRequest(
    name="pt-run-a1",
    image="img",
    gpu="NVIDIA H100 80GB HBM3",
    gpu_count=2,
    tier="SECURE",
    disk_gb=40,
    args="bash -c 'a && b'",
    data_center="anywhere",
    volume_id="vo-1",
    env={"A": "1", "PUSHTRAIN_DEADLINE_EPOCH_S": str(int(NOW_S) + 3600)},
)


def raised(*classes: str, text: str = "no") -> BaseException:
    """As the SDK's: known by the names of its classes."""
    kind: type[BaseException] = Exception
    for name in reversed(classes):
        kind = type(name, (kind,), {})
    return kind(text)


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (raised("AuthError", "Error"), CloudAuthFailed),
        (raised("PermissionDeniedError", "Error"), CloudAuthFailed),
        (raised("ConflictError", "InvalidError", text="Workspace has reached its spend limit."), NoBalance),
        (raised("ResourceExhaustedError", text="Insufficient capacity to create sandbox."), NoCapacity),
        (raised("ResourceExhaustedError", text="Too many requests"), CloudUnavailable),
        (raised("ConflictError", "InvalidError", text="Sandbox already finished"), RequestRejected),
        (raised("InvalidError"), RequestRejected),
        (raised("UnimplementedError"), RequestRejected),
        (raised("ImageBuildError", text="Image build for im-1 failed"), RequestRejected),
        (raised("ImageBuildError", text="Image build for im-1 terminated due to external shut-down"), CloudUnavailable),
        (raised("ServiceError"), CloudUnavailable),
        (raised("InternalError"), CloudUnavailable),
        (raised("ConnectionError", "Error"), CloudUnavailable),
        (OSError("Network is unreachable"), CloudUnavailable),
    ],
)
def test_errors_are_sorted_by_who_acts(error: BaseException, means: type[CloudError]) -> None:
    found = failure(Said(why(error), str(error)), "asking")
    assert type(found) is means and found.hint and str(found).startswith("asking: ")


def test_gpu_types_are_those_of_job_specs_and_come_back_as_what_they_are() -> None:
    assert set(gpu_ids()) <= set(GPU_NAMES)
    for gpu in gpu_ids():
        it = find(gpu)
        assert it is not None and it.memory_gb == memory_gb(gpu) and not unusable(gpu)
        assert sold_as(it.word) == sold_as(it.asked) == gpu
    assert sold_as("T4") == "T4" and find("NVIDIA A40") is None


def test_an_hour_of_a_gpu_has_its_cores_and_its_memory_in_it() -> None:
    beside = CORES * CORE_USD + MEMORY_GIB * GIB_USD
    assert usd_per_gpu_hour("NVIDIA H100 80GB HBM3", {}) == pytest.approx(3.9492 + beside)
    assert 1.3 < beside < 1.4


@pytest.mark.parametrize("named", ["H100", "gpu_h100", "NVIDIA H100", "GPU H100"])
def test_the_workspaces_own_rates_win_whatever_they_are_called(named: str) -> None:
    rates = {named: 3.0, "L4": 9.0, "cpu": 0.01, "Sandbox CPU": 0.1, "memory": 0.02, "H200": 7.0}
    assert usd_per_gpu_hour("NVIDIA H100 80GB HBM3", rates) == pytest.approx(3.0 + CORES * 0.1 + MEMORY_GIB * 0.02)


def test_what_is_asked_for_is_also_the_limit_and_the_tags_say_what_it_is() -> None:
    gpu = shapes.check(REQUEST, "creating")
    tags = shapes.tags(REQUEST, gpu, 10.5, NOW_S)
    words = shapes.words(REQUEST, gpu, tags, NOW_S)
    assert words.args == ("bash", "-c", "a && b") and words.options["gpu"] == "H100!:2"
    assert words.options["cpu"] == (8.0, 8.0) and words.options["memory"] == (65536, 65536)
    assert all(len(value) <= 63 and not set(value) & set(" :/!") for value in tags.values())
    pod = shapes.pod("sb-1", tags, NOW_S + 90)
    assert (pod.name, pod.gpu, pod.gpu_count, pod.usd_per_hour) == (REQUEST.name, REQUEST.gpu, 2, 10.5)
    assert (pod.data_center, pod.volume_id, pod.uptime_s) == ("anywhere", "vo-1", 90)
    assert shapes.pod("sb-2", {}, NOW_S).name == "", "somebody else's"


@pytest.mark.parametrize(
    ("deadline_s", "lifetime_s"),
    [(NOW_S + 3600, 3600 + shapes.GRACE_S), (NOW_S + 10 * 86400, 86400), (NOW_S - 86400, 1), (None, 86400)],
)
def test_modal_is_told_the_deadline_of_the_run_and_a_day_at_most(deadline_s: float | None, lifetime_s: int) -> None:
    env = {} if deadline_s is None else {shapes.DEADLINE: str(int(deadline_s))}
    request = PodRequest(
        name="x", image="i", gpu="NVIDIA L4", gpu_count=1, tier="SECURE", disk_gb=1, args="true", env=env
    )
    assert shapes.lifetime_s(request, NOW_S) == lifetime_s


def test_a_log_goes_on_after_the_last_line_that_was_seen_also_in_the_middle_of_a_moment() -> None:
    later = NOW + timedelta(seconds=1)
    pieces = [
        Piece(NOW, "stdout", "a\nb\n"),
        Piece(NOW, "stderr", "half "),
        Piece(later, "stdout", "c\n"),
        Piece(later, "stderr", "a line\n"),
        Piece(later, "system", "over"),
    ]
    found = list(lines(pieces, None))
    assert [it.line for it in found] == ["a", "b", "c", "half a line", "over"]
    assert [it.source for it in found] == ["container"] * 4 + ["system"]
    assert len({it.event_id for it in found}) == 5
    for at, line in enumerate(found):
        seen = since(line.event_id, NOW)
        assert list(lines([it for it in pieces if it.time >= NOW], line.event_id)) == found[at + 1 :] and seen >= NOW
    assert since(None, NOW) == since("from another cloud", NOW) == NOW - LOOK_BACK


@pytest.mark.parametrize(
    "url", ["http://api.modal.com", "https://ok.example,http://10.0.0.7:80", "https://user:pw@api.modal.com", "x"]
)
def test_a_token_never_travels_in_clear_text(url: str) -> None:
    with pytest.raises(RequestRejected, match="MODAL_SERVER_URL"):
        Modal("as-1", url, environ=TOKEN)


def test_a_token_is_letters_and_an_id_is_a_sandboxs() -> None:
    with pytest.raises(CloudAuthFailed, match="MODAL_TOKEN_SECRET"):
        Modal("as 1", environ=TOKEN)
    with pytest.raises(CloudAuthFailed, match="MODAL_TOKEN_ID"):
        Modal("as-1", environ={})
    for wrong in ("", "12345678", "sb-../x", "vo-" + "A" * 22):
        with pytest.raises(RequestRejected, match="not an id"):
            checked(wrong)


def test_nobody_imports_modals_sdk_before_it_is_asked_something() -> None:
    code = """
import sys
import infra.clouds.modal.client, infra.simulator.server, pushtrain.cli
infra.clouds.modal.client.Modal("as-1", environ={"MODAL_TOKEN_ID": "ak-1"})
print([name for name in sys.modules if name.partition(".")[0] in ("modal", "modal_proto", "grpclib", "synchronicity")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=150)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_without_its_sdk_modal_is_refused_in_words() -> None:
    code = """
import sys
sys.modules["modal"] = None
from infra.clouds.modal.client import Modal
from pushtrain.errors import RequestRejected
try:
    Modal("as-1", environ={"MODAL_TOKEN_ID": "ak-1"}).offers()
except RequestRejected as refusal:
    print(refusal, "/", refusal.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=150)
    assert "not installed" in done.stdout and "extra `modal`" in done.stdout, done


def test_nobody_there_is_no_answer_in_time_and_sorted_so() -> None:
    code = """
import socket, time
from infra.clouds.modal.client import Modal
from infra.clouds.wire import Limits
from pushtrain.errors import CloudUnavailable
with socket.socket() as door:
    door.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{door.getsockname()[1]}"
    cloud = Modal("as-canary", url, environ={"MODAL_TOKEN_ID": "ak-1"}, limits=Limits(read_s=1))
    for call in (cloud.offers, lambda: cloud.find(""), lambda: cloud.terminate("sb-" + "A" * 22)):
        try:
            call()
        except CloudUnavailable as refusal:
            print(refusal, "/", refusal.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.stdout.count("run the same command again later") == 3 and "canary" not in done.stdout, done
