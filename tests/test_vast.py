"""Vast.ai's words and ours, both ways, and which error each of its answers means. No process, no network."""

import json

import pytest

from infra.clouds.answers import Answer
from infra.clouds.vast import shapes
from infra.clouds.vast.answers import SPEAKS, is_absent, is_taken, wait_s
from infra.clouds.vast.names import gpu_ids, sold_as, vast_names
from infra.simulator.catalog import DEFAULT_CATALOG
from infra.simulator.vast_market import fits, machines
from pushtrain.cloud import PodRequest
from pushtrain.errors import (
    CloudAuthFailed,
    CloudError,
    CloudUnavailable,
    NoBalance,
    NoCapacity,
    RequestRejected,
)
from pushtrain.gpus import GPU_NAMES, memory_gb

NOW_S = 1_780_000_000.0
INSTANCE = {
    "id": 777,
    "label": "run-7f3a-a1",
    "actual_status": "running",
    "intended_status": "running",
    "gpu_name": "RTX 4090",
    "gpu_ram": 24564,
    "num_gpus": 2,
    "dph_total": 0.68,
    "start_date": NOW_S - 90.5,
    "hosting_type": 1,
    "extra_env": [["A", "B"], ["-p 22:22", "1"], ["-p 8080:8080/tcp", "1"]],
    "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40122"}]},
    "public_ipaddr": "203.0.113.7 ",
}


def answer(status: int, body: object) -> Answer:
    return SPEAKS.answer(status, {}, body.encode() if isinstance(body, str) else json.dumps(body).encode(), str)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}, CloudAuthFailed),
        (404, {"success": False, "error": "auth_error", "msg": "Invalid user key"}, CloudAuthFailed),
        (403, {"success": False, "error": "forbidden", "msg": "no"}, CloudAuthFailed),
        (404, {"success": False, "error": "no_such_ask", "msg": "error 404/3603"}, NoCapacity),
        (410, {"success": False, "msg": "the offer is no longer available"}, NoCapacity),
        (200, {"success": False, "error": "no_such_ask", "msg": "gone"}, NoCapacity),
        (400, {"success": False, "error": "invalid_args", "msg": "disk"}, RequestRejected),
        # Asked are machines whose least bid is ours or less: this one was outbid since, and the next one may not be.
        (400, {"success": False, "error": "invalid_price", "msg": "bid"}, NoCapacity),
        (402, {"success": False, "msg": "pay"}, NoBalance),
        (400, {"success": False, "error": "x", "msg": "Your account lacks credit; see the billing page."}, NoBalance),
        (500, {"success": False, "msg": "oops"}, CloudUnavailable),
    ],
)
def test_errors_are_sorted_by_who_acts(status: int, body: object, error: type[CloudError]) -> None:
    found = answer(status, body)
    raised = SPEAKS.failure(found, "asking")
    assert not found.ok and type(raised) is error and raised.hint
    assert is_taken(found) == (error is NoCapacity)


def test_what_only_a_proxy_says_proves_nothing() -> None:
    page = answer(404, "<html><body>Not Found</body></html>")
    assert isinstance(SPEAKS.failure(page, "asking"), CloudUnavailable) and not is_absent(page)
    assert is_absent(answer(404, {"success": False, "error": "no_such_instance", "msg": "x"}))


def test_a_limit_says_in_its_text_how_long_to_wait() -> None:
    assert wait_s(b"API requests too frequent: endpoint threshold=4.5") == 4.5
    assert wait_s(b"API requests too frequent") == 2.0
    assert wait_s(b'{"error": "search_quota_exceeded"}') is None


def test_gpu_types_are_those_of_job_specs_and_come_back_as_what_they_are() -> None:
    assert set(gpu_ids()) <= set(GPU_NAMES)
    for gpu in gpu_ids():
        (name,), gb = vast_names([gpu]), memory_gb(gpu)
        assert gb is not None and sold_as(name, gb * 1000) == (gpu, gb)
    assert sold_as("A100 SXM4", 40960) == ("NVIDIA A100-SXM4-40GB", 40)
    assert sold_as("A100_SXM4", 81920) == ("NVIDIA A100-SXM4-80GB", 80)
    assert sold_as("GTX 1080", 8192) is None and vast_names(["NVIDIA Nobody"]) == []


def test_an_instance_reads_as_a_pod() -> None:
    pod = shapes.pod(INSTANCE, NOW_S)
    assert (pod.id, pod.name, pod.gpu, pod.gpu_count) == ("777", "run-7f3a-a1", "NVIDIA GeForce RTX 4090", 2)
    assert (pod.status, pod.uptime_s, pod.tier, pod.data_center) == ("RUNNING", 90, "SECURE", None)
    assert pod.ports == ("22/tcp", "8080/tcp") and pod.ssh_direct is not None
    assert (pod.ssh_direct.host, pod.ssh_direct.port) == ("203.0.113.7", 40122)


@pytest.mark.parametrize(
    ("changes", "status", "is_alive"),
    [
        ({"actual_status": None}, "STARTING", True),
        ({"actual_status": "loading"}, "STARTING", True),
        ({"actual_status": "offline"}, "OFFLINE", True),
        ({"actual_status": "exited"}, "EXITED", False),
        ({"intended_status": "stopped", "actual_status": None}, "EXITED", False),
    ],
)
def test_what_is_stopped_never_runs_again_and_what_is_away_may(changes: dict, status: str, is_alive: bool) -> None:
    pod = shapes.pod({**INSTANCE, **changes}, NOW_S)
    assert (pod.status, pod.is_alive, pod.uptime_s, pod.ssh_direct) == (status, is_alive, None, None)


def test_a_pod_is_asked_for_with_its_words_its_ports_and_its_disks_in_one() -> None:
    request = PodRequest(
        name="run-a1",
        image="img",
        gpu="NVIDIA A40",
        gpu_count=1,
        tier="COMMUNITY",
        disk_gb=40,
        persistent_gb=60,
        args="bash -c 'a && b'",
        env={"A": "1"},
        ports=("22/tcp",),
        ssh=True,
        max_usd_per_hour=0.5,
        min_cuda_version="13.0",
    )
    body = shapes.create_body(request, {"TOKEN": "t"}, ["ssh-ed25519 AAAA me"])
    assert body["args"] == ["bash", "-c", "a && b"] and (body["runtype"], body["disk"]) == ("args", 100)
    assert body["env"] == {"A": "1", "TOKEN": "t", "PUBLIC_KEY": "ssh-ed25519 AAAA me", "-p 22:22": "1"}
    query = shapes.search_for(request)
    assert query["datacenter"] == {"eq": False} and query["cuda_max_good"] == {"gte": 13.0}
    assert query["dph_base"] == {"lte": 0.5} and query["disk_space"] == {"gte": 100}


def test_of_many_machines_one_offer_by_type_at_the_price_of_the_cheapest() -> None:
    documents = [it.document(DEFAULT_CATALOG, 50) for it in machines(DEFAULT_CATALOG)]
    query = shapes.search_body(2, "SECURE", "13.0")
    found = shapes.offers([it for it in documents if fits(it, query)], "SECURE")
    a40 = next(it for it in found if it.gpu == "NVIDIA A40")
    assert (a40.usd_per_gpu_hour, a40.stock, a40.max_count, a40.data_center) == (0.40, "HIGH", 2, None)
    assert len({it.gpu for it in found}) == len(found) and all(it.volume_kinds == () for it in found)


def test_only_digits_make_a_path() -> None:
    for wrong in ("", "1/../2", "abc", "7 7"):
        with pytest.raises(RequestRejected):
            shapes.instance_path(wrong)
