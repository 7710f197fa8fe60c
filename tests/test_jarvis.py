"""JarvisLabs' words and ours, both ways, and which error each of its answers means. No process, no network."""

import json
from typing import Any

import httpx
import pytest

from infra.clouds.answers import Answer
from infra.clouds.jarvis import shapes
from infra.clouds.jarvis.answers import SPEAKS, flag, is_full, meant
from infra.clouds.jarvis.client import JarvisLabs
from infra.clouds.jarvis.names import FILE_SYSTEM_CHARS, INSTANCE_CHARS, gpu_ids, short, sold_as, whole
from infra.clouds.jarvis.scripts import multipart
from infra.simulator.jarvis_market import CATALOG, row
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
from pushtrain.run import Run

INSTANCE: dict[str, Any] = {
    "machine_id": 42,
    "instance_name": "run-7f3a-a1",
    "status": "Running",
    "framework": "pytorch",
    "gpu_type": "A100-80GB",
    "num_gpus": 2,
    "region": "india-noida-01",
    "fs_id": 7,
    "http_ports": "7860, 8080",
    "ssh_str": "ssh -o StrictHostKeyChecking=no -p 11014 root@ssha.jarvislabs.ai",
}
ROWS = [row(gpu, region, level) for gpu in CATALOG.gpus.values() for region, level in gpu.stock.items()]


def answer(status: int, body: object) -> Answer:
    return SPEAKS.answer(status, {}, body.encode() if isinstance(body, str) else json.dumps(body).encode(), str)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, {"detail": "Invalid token"}, CloudAuthFailed),
        (200, {"success": False, "message": "token expired"}, CloudAuthFailed),
        (403, {"detail": "You do not have permission"}, CloudAuthFailed),
        (403, {"detail": "Insufficient balance"}, NoBalance),
        (402, {"error": {"message": "payment required"}}, NoBalance),
        (200, {"sucess": "false", "error": "Your balance is too low"}, NoBalance),
        (200, {"success": False, "message": "A100 is not available in this region"}, NoCapacity),
        (409, {"detail": "no capacity"}, NoCapacity),
        (400, {"detail": "H100 out of stock"}, NoCapacity),
        (422, {"detail": [{"loc": ["body", "storage"], "msg": "must be available"}]}, RequestRejected),
        (200, {"success": False, "message": "Instance name must be 40 characters or fewer"}, RequestRejected),
        (200, {"success": False, "error": "Something went wrong"}, CloudUnavailable),
        (200, {"sucess": False}, CloudUnavailable),
        (200, {"success": False, "message": "Service temporarily unavailable, try again"}, CloudUnavailable),
        (200, {"success": False, "message": "Load balancer error"}, CloudUnavailable),
        (200, {"success": False, "message": "A100 is unavailable, try again"}, NoCapacity),
        (429, {"detail": "slow down"}, CloudUnavailable),
        (500, {"detail": "oops"}, CloudUnavailable),
    ],
)
def test_errors_are_sorted_by_who_acts_inside_a_200_too(status: int, body: object, error: type[CloudError]) -> None:
    found = answer(status, body)
    raised = SPEAKS.failure(found, "asking")
    assert not found.ok and type(raised) is error and raised.hint
    assert is_full(found) == (error is NoCapacity)


def test_what_succeeded_is_no_error_however_it_says_so() -> None:
    for body in ({"success": True}, {"sucess": "true"}, {"machine_id": 42}, [], {"success": "True", "message": "gone"}):
        assert meant(body) is None
    assert [flag(body) for body in ({"success": "true"}, {"sucess": False}, {"x": 1}, None)] == [
        True,
        False,
        None,
        None,
    ]


def test_what_only_a_proxy_says_proves_nothing() -> None:
    page = answer(404, "<html><body>Not Found</body></html>")
    assert isinstance(SPEAKS.failure(page, "asking"), CloudUnavailable) and not page.absent
    assert answer(404, {"detail": "Instance not found"}).absent
    assert answer(200, {"success": False, "message": "Instance does not exist"}).absent
    assert not answer(200, {"success": False, "message": "Something went wrong"}).absent


def test_a_violation_is_told_with_its_field() -> None:
    body = {"detail": [{"loc": ["body", "storage"], "msg": "must be 50 or more", "type": "value_error"}, "and this"]}
    assert SPEAKS.text(json.dumps(body).encode()) == "storage: must be 50 or more; and this"


def test_gpu_types_are_those_of_job_specs_and_come_back_as_what_they_are() -> None:
    assert set(gpu_ids()) <= set(GPU_NAMES)
    for gpu in CATALOG.gpus.values():
        sold = sold_as(gpu.id, gpu.memory_gb)
        assert sold is not None and sold == (sold[0], memory_gb(sold[0])) and sold_as(gpu.id, 0) == sold
    assert sold_as("A100", 40) == ("NVIDIA A100-SXM4-40GB", 40) and sold_as("A100", 80) is None
    assert sold_as("RTX5000", 16) is None


def test_names_of_any_run_come_back_whole_and_are_never_taken_for_another_runs() -> None:
    runs = [
        Run(job="j" * 41, commit=f"{n:08x}" * 5, spec_digest=f"{n:08x}" * 8, ledger_url="file:///l") for n in range(40)
    ]
    names = [name for run in runs for name in (run.pod_name(1), run.pod_name(2), run.volume_name)]
    for chars in (INSTANCE_CHARS, FILE_SYSTEM_CHARS):
        shown = [short(name, chars) for name in names]
        assert len(set(shown)) == len(names) and {len(name) for name in shown} == {chars}
        assert [whole(name, chars, names) for name in shown] == names
        assert all(name.startswith(names[0][:10]) for name in shown), "the ledger's mark stays readable"
        assert whole("x" * chars, chars, names) == "x" * chars and short("x" * chars, chars) == "x" * chars


def test_an_instance_reads_as_a_pod_whichever_endpoint_told_of_it() -> None:
    pod = shapes.pod(INSTANCE, known=[], usd_per_gpu_hour=1.5, fs_name="run-v")
    assert (pod.id, pod.name, pod.gpu, pod.gpu_count) == ("jl-42", "run-7f3a-a1", "NVIDIA A100-SXM4-80GB", 2)
    assert (pod.status, pod.usd_per_hour, pod.data_center, pod.uptime_s) == ("RUNNING", 3.0, "india-noida-01", 0)
    assert (pod.ports, pod.volume_id) == (("7860/http", "8080/http"), "jlfs-run-v")
    assert pod.ssh_direct is not None
    assert (pod.ssh_direct.host, pod.ssh_direct.port, pod.ssh_direct.user) == ("ssha.jarvislabs.ai", 11014, "root")
    other = {key: value for key, value in INSTANCE.items() if key not in ("instance_name", "framework", "ssh_str")}
    late = {"name": "run-7f3a-a1", "template": "pytorch", "ssh_command": "ssh root@ssha.jarvislabs.ai -p 11014"}
    assert shapes.pod({**other, **late}, known=[], usd_per_gpu_hour=1.5, fs_name="run-v") == pod


@pytest.mark.parametrize(
    ("status", "ours", "is_alive"),
    [
        ("Creating", "STARTING", True),
        ("Resuming", "STARTING", True),
        ("Paused", "EXITED", False),
        ("Failed", "ERROR", False),
        ("Destroying", "TERMINATED", False),
    ],
)
def test_what_is_paused_never_runs_again_by_itself(status: str, ours: str, is_alive: bool) -> None:
    raw = {**INSTANCE, "status": status}
    pod = shapes.pod(raw, known=[], usd_per_gpu_hour=0.0, fs_name=None)
    assert (pod.status, pod.is_alive, pod.uptime_s, pod.ssh_direct) == (ours, is_alive, None, None)
    assert shapes.is_going(raw) == (status == "Destroying")


def test_offers_are_by_region_with_what_is_free_for_so_many_gpus() -> None:
    found = {(it.gpu, it.data_center): it for it in shapes.offers(ROWS, 1)}
    a6000 = found["NVIDIA RTX A6000", "india-noida-01"]
    assert (a6000.stock, a6000.usd_per_gpu_hour, a6000.has_network_volumes) == ("HIGH", 0.79, True)
    assert found["NVIDIA H200", "india-noida-01"].stock == "NONE"
    assert found["NVIDIA H100 80GB HBM3", "europe-01"].max_count == 1
    several = {(it.gpu, it.data_center): it.stock for it in shapes.offers(ROWS, 4)}
    assert several["NVIDIA H100 80GB HBM3", "europe-01"] == "NONE"
    assert several["NVIDIA RTX A6000", "india-noida-01"] == "MEDIUM"
    strange = [
        {**ROWS[0], "region": "mars-01"},
        {**ROWS[0], "price_per_hour": None},
        {**ROWS[0], "workload_type": "vm"},
    ]
    assert shapes.offers([*strange, {**ROWS[0], "gpu_type": "GTX1080"}], 1) == []
    assert {
        it.gpu_memory_gb for vram in ("24", "24 GB", 24, None) for it in shapes.offers([{**ROWS[0], "vram": vram}], 1)
    } == {24}


def test_a_number_that_is_not_told_is_none_free() -> None:
    assert [shapes.free({"effective_num_free_devices": it, "num_free_devices": 3}) for it in (0, "2", None, "")] == [
        0,
        2,
        3,
        3,
    ]
    assert shapes.free({}) == 0


def test_a_pod_is_asked_for_with_its_disks_in_one_and_nothing_secret_in_the_request() -> None:
    request = PodRequest(
        name="pt-012345-" + "a" * 50,
        image=None,
        gpu="NVIDIA L4",
        gpu_count=1,
        tier="SECURE",
        disk_gb=40,
        persistent_gb=60,
        args="bash -c 'a && b'",
        env={"A": 'it\'s "1" $HOME\n2'},
        ports=("8888/http",),
    )
    body = shapes.create_body(request, ROWS[0], script_id=7, fs_id=None)
    assert (body["hdd"], body["http_ports"], body["script_id"], body["is_spot"]) == (100, "8888", "7", False)
    assert len(body["name"]) == INSTANCE_CHARS
    script = shapes.start_script(request, {"TOKEN": "canary's"}, "l1").decode()
    assert "canary" not in json.dumps(body) and "export TOKEN='canary'\"'\"'s'\n" in script
    assert script.splitlines()[-1].startswith("setsid nohup bash -c 'a && b' > ") and script.endswith("&\n")
    assert "/home/pushtrain" in script and "/home/jl_fs" not in script
    with pytest.raises(RequestRejected, match="no name of a variable"):
        shapes.start_script(request, {"A B": "1"}, "l1")


def test_only_our_own_ids_make_a_machine_number_and_each_kind_is_destroyed_its_own_way() -> None:
    assert shapes.machine_number("jl-42") == 42
    assert [shapes.machine_number(it) for it in ("", "42", "jl-", "jl-4/2", "jl-x")] == [None] * 5
    kinds: list[dict[str, str]] = [{"framework": "pytorch"}, {"template": "vm"}, {"template": "vm", "gpu_type": "CPU"}]
    assert [shapes.destroy_path(it) for it in kinds] == [
        "/misc/destroy",
        "/templates/vm/destroy",
        "/templates/vm/cpu/destroy",
    ]


def test_a_script_is_sent_as_a_form_sends_a_file() -> None:
    body, headers = multipart("script", "startup.sh", b"#!/bin/bash\r\n\r\n--x\n")
    border = headers["Content-Type"].partition("boundary=")[2]
    parts = body.split(f"--{border}".encode())
    assert len(parts) == 3 and parts[0] == b"" and parts[2] == b"--\r\n"
    head, _, content = parts[1].partition(b"\r\n\r\n")
    assert b'name="script"; filename="startup.sh"' in head and content == b"#!/bin/bash\r\n\r\n--x\n\r\n"


@pytest.mark.parametrize("region", ["backendn", "backendeu"])
def test_an_instance_that_no_list_shows_is_destroyed_wherever_it_is(region: str) -> None:
    """Before its first start it is in none, and billed; its number does not tell its region."""
    asked, there = list[str](), [f"{region}.jarvislabs.net"]

    def cloud(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/users/fetch":
            return httpx.Response(200, json={"success": "true", "instances": []})
        if request.url.path != "/misc/destroy":
            return httpx.Response(200, json={"success": False, "message": "Instance not found"})
        asked.append(str(request.url.host))
        if request.url.host in there:
            there.remove(request.url.host)
            return httpx.Response(200, json={"success": True})
        return httpx.Response(404, json={"detail": "Instance not found"})

    client = JarvisLabs("key", environ={}, sleep=lambda seconds: None, transport=httpx.MockTransport(cloud))
    client.terminate("jl-42")
    assert not there and asked[-1] == f"{region}.jarvislabs.net"
    client.terminate("jl-42")  # gone is success


def test_what_no_host_answers_for_is_not_gone() -> None:
    def cloud(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/misc/destroy":
            raise httpx.ConnectError("refused")
        if request.url.path == "/users/fetch":
            return httpx.Response(200, json={"success": "true", "instances": []})
        return httpx.Response(200, json={"success": False, "message": "Instance not found"})

    client = JarvisLabs("key", environ={}, sleep=lambda seconds: None, transport=httpx.MockTransport(cloud))
    with pytest.raises(CloudUnavailable):
        client.terminate("jl-42")


def test_a_file_system_whose_label_is_gone_is_its_runs_by_its_name() -> None:
    run = "pt-a7e28f-job-761eb249-c896bcae"

    def cloud(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/filesystem/list":
            name = short(f"{run}-v", FILE_SYSTEM_CHARS)
            return httpx.Response(200, json=[{"fs_id": 7, "fs_name": name, "storage": 50, "region": "india-noida-01"}])
        listed = {"success": "true", "instances": [], "script_meta": []}
        return httpx.Response(200, json=listed)

    client = JarvisLabs("key", environ={}, sleep=lambda seconds: None, transport=httpx.MockTransport(cloud))
    assert [it.name for it in client.find(f"{run}-").volumes] == [f"{run}-v"]
    assert not client.find("pt-a7e28f-job-761eb249-ffffffff-").volumes
