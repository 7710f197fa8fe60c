"""Lambda Cloud's words and ours, both ways, which error each of its answers means, what a machine is told to do at its
boot, and how often Lambda is asked. No process but bash's check of the script, no network."""

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from infra.clouds.answers import Answer
from infra.clouds.lambda_cloud import shapes
from infra.clouds.lambda_cloud.answers import SPEAKS, is_absent
from infra.clouds.lambda_cloud.boot import DOCKER_FILE, PER_BOOT, script, user_data
from infra.clouds.lambda_cloud.names import gpu_ids, sold_as
from infra.clouds.lambda_cloud.pace import Pace
from infra.simulator.lambda_catalog import instance_type
from infra.start import start_args
from pushtrain.capabilities import LAMBDA
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
from pushtrain.limits import limits_of
from pushtrain.placement import cap, ladder
from pushtrain.prices import storage_said, storage_usd_per_month
from pushtrain.settings import Settings
from pushtrain.spec.file import loads

PROJECT = Path(__file__).parents[1]
NOW_S = 1_780_000_000.0
ID = "0920582c7ff041399e34823a0be62549"
INSTANCE = {
    "id": ID,
    "name": "run-7f3a-a1",
    "status": "active",
    "ip": "203.0.113.7",
    "region": {"name": "us-south-2", "description": "North Texas, USA"},
    "instance_type": instance_type("NVIDIA H100 80GB HBM3", 8),
    "ssh_key_names": ["pushtrain"],
    "file_system_names": ["run-7f3a-v"],
    "file_system_mounts": [{"mount_point": "/workspace", "file_system_id": "a" * 32}],
    "tags": [
        {"key": "pushtrain-launch", "value": f"{int((NOW_S - 90) * 1000)}-0a1b"},
        {"key": "pushtrain-ports", "value": "22-8080"},
    ],
}
REQUEST = PodRequest(
    name="run-7f3a-a1",
    image="runpod/pytorch:1",
    gpu="NVIDIA H100 80GB HBM3",
    gpu_count=8,
    tier="SECURE",
    disk_gb=40,
    args="bash -c 'a && b'",
    volume_id="a" * 32,
    env={"A": "it's", "PUSHTRAIN_DEADLINE_EPOCH_S": "1780003600"},
    ports=("22/tcp", "8080/tcp"),
    ssh=True,
)


def answer(status: int, body: object) -> Answer:
    return SPEAKS.answer(status, {}, body.encode() if isinstance(body, str) else json.dumps(body).encode(), str)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "global/invalid-api-key", CloudAuthFailed),
        (403, "global/account-inactive", NoBalance),
        (403, "global/invalid-address", NoBalance),
        (403, "global/whatever", CloudAuthFailed),
        (400, "instance-operations/launch/insufficient-capacity", NoCapacity),
        (400, "global/quota-exceeded", NoCapacity),
        (400, "instance-operations/launch/file-system-in-wrong-region", RequestRejected),
        (400, "global/invalid-parameters", RequestRejected),
        (400, "filesystems/filesystem-in-use", CloudUnavailable),
        (404, "global/object-does-not-exist", CloudUnavailable),
        (429, "global/too-many-requests", CloudUnavailable),
        (500, "global/internal-error", CloudUnavailable),
    ],
)
def test_errors_are_sorted_by_who_acts(status: int, code: str, error: type[CloudError]) -> None:
    found = answer(status, {"error": {"code": code, "message": "m", "suggestion": "s"}})
    raised = SPEAKS.failure(found, "asking")
    assert type(raised) is error and raised.hint
    assert is_absent(found) == (code == "global/object-does-not-exist")


def test_what_only_a_proxy_says_proves_nothing() -> None:
    page = answer(404, "<html><body>Not Found</body></html>")
    assert isinstance(SPEAKS.failure(page, "asking"), CloudUnavailable) and not is_absent(page)


def test_gpu_types_are_those_of_job_specs() -> None:
    assert set(gpu_ids()) <= set(GPU_NAMES)
    for words in ("A100 (40 GB SXM4)", "A100 (80 GB SXM4)", "H100 (80 GB PCIe)", "H100 (80 GB SXM5)", "A6000 (48 GB)"):
        sold = sold_as(words)
        assert sold is not None and memory_gb(sold[0]) == sold[1]
    assert sold_as("A6000 (48 GB PCIe)") == sold_as("RTX A6000 (48 GB)") == ("NVIDIA RTX A6000", 48)
    assert sold_as("A10 (24 GB PCIe)") == ("NVIDIA A10", 24)
    assert sold_as("A100 (40 GB PCIe)") == ("NVIDIA A100-PCIE-40GB", 40)
    for words in ("GH200 (96 GB)", "Tesla V100 (16 GB)", "RTX 6000 (24 GB)", "N/A", ""):
        assert sold_as(words) is None


def test_an_instance_reads_as_a_pod() -> None:
    pod = shapes.pod(INSTANCE, NOW_S)
    assert (pod.id, pod.name, pod.gpu, pod.gpu_count) == (ID, "run-7f3a-a1", "NVIDIA H100 80GB HBM3", 8)
    assert (pod.status, pod.uptime_s, pod.data_center, pod.volume_id) == ("RUNNING", 90, "us-south-2", "a" * 32)
    assert pod.usd_per_hour == pytest.approx(23.92) and pod.ports == ("22/tcp", "8080/tcp")
    assert pod.ssh_direct is not None and (pod.ssh_direct.host, pod.ssh_direct.port) == ("203.0.113.7", 22)
    bare = shapes.pod({**INSTANCE, "tags": [], "file_system_mounts": None}, NOW_S)
    assert (bare.created_at, bare.volume_id, bare.ports, bare.ssh_direct) == (None, None, (), None)


@pytest.mark.parametrize(
    ("said", "status", "is_alive"),
    [
        ("booting", "STARTING", True),
        ("unhealthy", "OFFLINE", True),
        ("preempted", "EXITED", False),
        ("terminating", "EXITED", False),
        ("terminated", "TERMINATED", False),
        ("new-in-2027", "UNKNOWN", True),
    ],
)
def test_what_is_being_terminated_is_there_until_it_is_gone(said: str, status: str, is_alive: bool) -> None:
    pod = shapes.pod({**INSTANCE, "status": said}, NOW_S)
    assert (pod.status, pod.is_alive, pod.uptime_s, pod.ssh_direct) == (status, is_alive, None, None)


def test_a_launch_names_one_key_its_file_system_and_itself() -> None:
    volume = shapes.volume({"id": "a" * 32, "name": "run-7f3a-v", "region": {"name": "us-south-2"}})
    launch = shapes.launch_name(NOW_S, 0.5)
    body = shapes.launch_body(
        REQUEST, kind="gpu_8x_h100_sxm5", region="us-south-2", user_data="#cloud-config", launch=launch, volume=volume
    )
    assert body["ssh_key_names"] == ["pushtrain"] and body["file_system_names"] == ["run-7f3a-v"]
    assert body["file_system_mounts"] == [{"mount_point": "/workspace", "file_system_id": "a" * 32}]
    assert shapes.launched_s(body["tags"][0]["value"]) == NOW_S and body["tags"][1]["value"] == "22-8080"
    assert shapes.launched_s("somebody else's") is None and "quantity" not in body


def test_the_user_data_is_one_script_for_every_boot_and_no_value_is_in_a_command_line() -> None:
    secrets, keys = {"HF_TOKEN": "canary'; rm -rf /; '"}, ["ssh-ed25519 AAAA me", "ssh-ed25519 BBBB you"]
    head, _, body = user_data(REQUEST, secrets, keys, "1-0a").partition("\n")
    docker, file = json.loads(body)["write_files"]
    assert head == "#cloud-config" and (file["path"], file["permissions"]) == (PER_BOOT, "0700")
    assert docker["path"] == DOCKER_FILE and json.loads(docker["content"])["exec-opts"]
    text = base64.b64decode(file["content"]).decode()
    assert text == script(REQUEST, secrets, keys, "1-0a")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=150)
    run = text[text.index("docker run") :]
    assert "canary" not in run and "-e HF_TOKEN" in run and "-p 22:22 -p 8080:8080" in run and "--gpus all" in run
    assert "systemctl stop ssh" in text and "mountpoint -q /workspace" in text and " -lt 1780003900 ]" in text
    printed = "\n".join(
        line for line in text.splitlines() if line.startswith("export") or "AAAA" in line or "BBBB" in line
    )
    shown = subprocess.run(
        ["bash", "-c", f'e=/x; {printed}\necho "$HF_TOKEN|$A|$PUBLIC_KEY|$LAMBDA_LAUNCH|$PUSHTRAIN_END_FILE"'],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    ).stdout
    assert shown.strip() == f"{secrets['HF_TOKEN']}|it's|{keys[0]}\n{keys[1]}|1-0a|/x/end"


def test_the_start_command_of_a_pod_survives_the_script() -> None:
    request = PodRequest(
        name="a", image="img", gpu="NVIDIA B200", gpu_count=1, tier="SECURE", disk_gb=10, args=start_args()
    )
    text = script(request, {}, [], "1-0a")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=150)
    assert start_args() in text and "systemctl stop" not in text and "mountpoint" not in text and "date +%s" not in text


def test_requests_and_launches_keep_their_distance() -> None:
    pace = Pace(request_s=1.0, launch_s=12.0)
    assert [pace.wait_s(0.0, launch=True), pace.wait_s(0.0), pace.wait_s(0.5)] == [0.0, 1.0, 1.5]
    assert pace.wait_s(3.0, launch=True) == 9.0
    assert pace.wait_s(60.0, launch=True) == 0.0


def test_only_ids_make_a_path_and_keys_have_names_of_their_own() -> None:
    for wrong in ("", "../instances", "A" * 32, "a" * 31):
        with pytest.raises(RequestRejected):
            shapes.path("instances", wrong)
    assert shapes.key_name("ssh-ed25519 AAAA me@here now", ["x"]) == "me@here-now"
    assert (
        shapes.key_name("ssh-ed25519 AAAA me", ["me", "me-2"]) == "me-3" and shapes.key_name("ssh-rsa A", []) == "key"
    )


def test_the_speedrun_on_eight_h100_moves_by_one_word() -> None:
    text = (PROJECT / "jobs" / "nanochat-speedrun.yaml").read_text(encoding="utf-8")
    moved = text.replace("cloud: runpod", "cloud: lambda")
    assert moved != text
    spec = loads(moved, "jobs/nanochat-speedrun.yaml")
    kind = instance_type(spec.compute.gpus[0], spec.compute.count)
    regions = [{"name": "us-south-2", "description": "North Texas, USA"}]
    types = {kind["name"]: {"instance_type": kind, "regions_with_capacity_available": regions}}
    (place,) = ladder(spec, shapes.offers(types, spec.compute.count), known_gpus=gpu_ids())
    assert (kind["name"], place.gpu, place.data_center) == ("gpu_8x_h100_sxm5", "NVIDIA H100 80GB HBM3", "us-south-2")
    assert place.usd_per_hour == pytest.approx(8 * 2.99) and place.cloud == "lambda"
    assert 3.9 < cap(spec, place).deadline_hours <= 4.0


def test_a_machine_gets_more_time_to_its_first_word_than_a_container() -> None:
    here = Path()
    settings = Settings(root=here, ledger_url="x", source_url="x", state_dir=here, ledger_token=None)
    plain, machine = limits_of({}, settings), limits_of({}, settings, LAMBDA)
    assert machine == replace(plain, boot_s=plain.boot_s + 1200.0)


def test_a_plan_counts_storage_as_lambda_does() -> None:
    assert storage_said(["lambda"]) == (
        "storage at Lambda Cloud a GB and month: network volume $0.20, the machine's disk is in its price "
        "(Lambda's page of August 2026, for what is on it)"
    )
    assert (storage_usd_per_month("STANDARD", 200, "lambda"), storage_usd_per_month("DISK", 60, "lambda")) == (
        40.0,
        0.0,
    )
    assert storage_said(["runpod", "lambda"]).startswith("storage a GB and month: network volume $0.07")
