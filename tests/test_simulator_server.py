"""The simulator's process: keys, ports, restarts with pods alive, its end, and where secrets may not be."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi
from simulator_client import Client, pod_file, pod_state, wait_for

from infra.simulator import processes
from infra.simulator.container_log import read_log
from infra.simulator.pod_env import pod_key
from infra.simulator.server import RunningSimulator, SimulatorConfig, start
from pushtrain.errors import CloudError

Start = Callable[..., RunningSimulator]
TICKS = "bash -c 'n=0; while :; do echo tick $((n++)); sleep 0.05; done'"


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Start]:
    """Start a simulator in this test's state folder; whatever was started is stopped, with every pod."""
    started: list[RunningSimulator] = []

    def begin(**options: Any) -> RunningSimulator:
        started.append(start(SimulatorConfig(state_dir=tmp_path / "state", **{"max_hours": 0.2, **options})))
        return started[-1]

    yield begin
    for simulator in started:
        simulator.stop()
    left = processes.of_pods(path.name for path in (tmp_path / "state" / "pods").glob("*"))
    assert not any(left.values())


def client(simulator: RunningSimulator) -> Client:
    return Client(simulator.url, simulator.api_key)


def command_line(pid: int) -> str:
    """Empty for a process that ended since it was listed."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_after_a_crash_living_pods_are_adopted_and_dead_runners_replaced(begin: Start) -> None:
    first = begin()
    alive, orphan, ended = (client(first).create_pod(TICKS) for _ in range(3))
    for pod in (alive, orphan, ended):
        client(first).wait_running(pod)
    before = {pod["id"]: pod["container_pid"] for pod in first.state()["pods"]}
    runner = next(pid for pid in processes.of_pod(orphan) if "container.py" in command_line(pid))
    client(first)("DELETE", f"/v2/pods/{ended}")
    first.process.kill()
    first.process.wait()
    os.kill(runner, signal.SIGKILL)
    log = first.state_dir / "pods" / alive / "container.log"
    seen = max(entry.number for entry in read_log(log))
    wait_for(lambda: any(True for _ in read_log(log, after=seen + 3)))

    again = begin()
    assert (again.url, again.api_key, again.hf_token) == (first.url, first.api_key, first.hf_token)
    assert pod_state(again, alive)["container_pid"] == before[alive]
    wait_for(lambda: pod_state(again, orphan)["container_pid"] not in (None, before[orphan]))
    assert processes.start_ticks(before[orphan]) is None
    wait_for(lambda: not pod_state(again, ended)["processes"])
    assert client(again)("GET", f"/v2/pods/{ended}").status_code == 404
    assert [pod["id"] for pod in client(again)("GET", "/v2/pods").json()["pods"]] == [alive, orphan]
    own = Client(again.url, pod_key(again.api_key, alive))
    assert own("DELETE", f"/v2/pods/{alive}").status_code == 204


def test_a_simulator_may_end_without_its_pods_and_its_pods_with_the_next(begin: Start) -> None:
    first = begin(keep_pods=True)
    pod = client(first).create_pod()
    client(first).wait_running(pod)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(timeout=150) == 0
    assert processes.of_pod(pod)
    again = begin()
    api = client(again)
    stopped = api("POST", f"/v2/pods/{pod}/action", {"action": "stop"})
    assert stopped.json()["status"] == "EXITED"
    wait_for(lambda: not processes.of_pod(pod))
    api("POST", f"/v2/pods/{pod}/action", {"action": "start"})
    api.wait_running(pod)
    again.stop(stop_pods=True)
    assert not processes.of_pod(pod)


def test_a_signal_ends_every_pod_and_the_bill(begin: Start) -> None:
    simulator = begin()
    api = client(simulator)
    pods = [api.create_pod("bash -c 'trap : TERM; while :; do sleep 0.1; done'") for _ in range(3)]
    for pod in pods:
        api.wait_running(pod)
    with httpx.stream("GET", f"{simulator.url}/v2/pods/{pods[0]}/logs", headers=dict(simulator.http.headers)):
        simulator.process.send_signal(signal.SIGTERM)
        assert simulator.process.wait(timeout=150) == 0
    assert not any(processes.of_pods(pods).values())
    assert {pod["status"] for pod in begin().state()["pods"]} == {"TERMINATED"}


def test_the_shutdown_endpoint_ends_streams_and_pods(begin: Start) -> None:
    simulator = begin()
    pod = client(simulator).create_pod(TICKS)
    client(simulator).wait_running(pod)
    with httpx.stream("GET", f"{simulator.url}/v2/pods/{pod}/logs", headers=dict(simulator.http.headers)) as logs:
        begun = time.monotonic()
        simulator.stop()
        assert simulator.process.returncode == 0 and time.monotonic() - begun < 100
        assert "tick" in "".join(logs.iter_text())
    assert not processes.of_pod(pod)


def test_it_ends_by_itself_with_every_pod(begin: Start) -> None:
    simulator = begin(max_hours=2.5 / 3600)
    pod = client(simulator).create_pod("bash -c 'trap \"\" TERM; sleep 600'")
    client(simulator).wait_running(pod)
    assert simulator.process.wait(timeout=150) == 0
    assert not processes.of_pod(pod)


def test_a_container_ends_by_itself_when_nobody_is_left_to_end_it(begin: Start) -> None:
    simulator = begin(max_hours=2.5 / 3600)
    pod = client(simulator).create_pod()
    client(simulator).wait_running(pod)
    simulator.process.kill()
    simulator.process.wait()
    wait_for(lambda: not processes.of_pod(pod))


def test_no_secret_of_user_or_account_reaches_a_pod_or_a_file(
    begin: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "canary-secret-of-the-user"
    for name in ("AWS_SECRET_ACCESS_KEY", "RUNPOD_API_KEY", "HF_TOKEN", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, secret)
    simulator = begin(api_key="canary-secret-account-key", hf_token="canary-secret-hub-token")
    pod = client(simulator).create_pod("bash -c 'env; cat /proc/$PPID/environ /proc/$PPID/cmdline; exec sleep 600'")
    api = client(simulator)
    api.wait_running(pod)
    main = Path(f"/proc/{pod_state(simulator, pod)['container_pid']}")
    wait_for(lambda: (main / "cmdline").read_bytes().startswith(b"sleep"))
    environs = b"".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in processes.of_pod(pod))
    assert b"canary" not in environs and pod.encode() in environs
    assert "canary" not in Path(f"/proc/{simulator.pid}/cmdline").read_text()
    api("DELETE", f"/v2/pods/{pod}")
    simulator.stop()
    files = [path for path in simulator.state_dir.rglob("*") if path.is_file()]
    holders = {path.name for path in files if b"canary" in path.read_bytes()}
    assert len(files) >= 5 and holders == {"keys.json"}
    keys = simulator.state_dir / "keys.json"
    assert (keys.stat().st_mode & 0o777, simulator.state_dir.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "canary" not in repr(simulator) and "canary" not in repr(SimulatorConfig(state_dir=tmp_path, api_key=secret))


def test_a_taken_port_and_a_taken_folder_are_said_clearly(begin: Start, tmp_path: Path) -> None:
    simulator = begin()
    with pytest.raises(CloudError, match="another simulator uses"):
        begin()
    port = int(simulator.url.rpartition(":")[2])
    with pytest.raises(CloudError, match=f"port {port} .* cannot be used: Address already in use"):
        start(SimulatorConfig(state_dir=tmp_path / "other", port=port))


def test_when_the_old_port_is_taken_it_takes_another(begin: Start) -> None:
    first = begin()
    first.stop()
    port = int(first.url.rpartition(":")[2])
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        assert begin().url != first.url


def test_clients_get_everything_from_its_environment_and_the_hub_is_there(begin: Start) -> None:
    simulator = begin()
    env = simulator.env()
    hub = {"HF_ENDPOINT", "HF_TOKEN", "HF_HUB_DISABLE_XET"}
    volumes = {"RUNPOD_S3_URL", "RUNPOD_S3_ACCESS_KEY", "RUNPOD_S3_SECRET_KEY"}
    assert set(env) == {"RUNPOD_API_BASE_URL", "RUNPOD_API_KEY", *hub, *volumes}
    assert env["RUNPOD_API_BASE_URL"] == env["HF_ENDPOINT"] == simulator.url
    api = HfApi(endpoint=env["HF_ENDPOINT"], token=env["HF_TOKEN"])
    assert api.whoami()["name"] == "simulator"
    assert api.create_repo("any-org/adapter", private=True).repo_id == "any-org/adapter"


def test_lists_may_be_unpaged_and_the_quota_small(begin: Start) -> None:
    api = client(begin(page_size=None, requests_per_minute=4))
    pod = api.create_pod()
    listed = api("GET", "/v2/pods", limit="1").json()
    assert [it["id"] for it in listed["pods"]] == [pod] and "pagination" not in listed
    answers = [api("GET", "/v2/pods") for _ in range(10)]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["detail"] == "rate limit exceeded for the minute window"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60 and '"minute";r=0' in refused.headers["RateLimit"]


def test_a_pod_gets_no_python_when_none_is_lent(begin: Start) -> None:
    simulator = begin(lend_python=False)
    pod = client(simulator).create_pod("bash -c 'env > new; mv new environment; exec sleep 600'")
    written = pod_file(simulator, pod, "environment")
    wait_for(written.exists)
    assert "PUSHTRAIN_TRAINER_PYTHON" not in written.read_text() and "RUNPOD_POD_ID" in written.read_text()


def test_in_the_foreground_it_says_where_it_listens(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.simulator", "--state", str(tmp_path / "state"), "--max-hours", "0.1"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("simulator on http://127.0.0.1:")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=150) == 0
        process.stdout and process.stdout.close()
