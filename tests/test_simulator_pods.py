"""Pods of the simulator as real processes: start, restart, environment, log, and that nothing survives the end."""

import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import httpx
from simulator_client import Client, pod_file, pod_state, wait_for

from infra.simulator.container_log import LogWriter, older, read_log
from infra.simulator.pod_env import pod_key
from infra.simulator.processes import start_ticks
from infra.simulator.server import RunningSimulator

pytest_plugins = ("simulator_fixtures",)


def lines(simulator: RunningSimulator, pod_id: str, source: str = "container") -> list[str]:
    log = simulator.state_dir / "pods" / pod_id / "container.log"
    return [entry.line for entry in read_log(log) if entry.source == source]


def events(api: Client, pod_id: str, count: int, headers: dict[str, str] | None = None, **query: str) -> list[Any]:
    """The first `count` events of the pod's log stream as (id, data)."""
    found: list[Any] = []
    sent = {"Authorization": f"Bearer {api.key}", "User-Agent": "tests", **(headers or {})}
    url = f"{api.url}/v2/pods/{pod_id}/logs"
    with httpx.stream("GET", url, params=query, headers=sent, timeout=150, trust_env=False) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        event_id = ""
        for line in response.iter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            if line.startswith("data: "):
                found.append((event_id, json.loads(line[6:])))
                if len(found) == count:
                    break
    return found


def wait_gone(simulator: RunningSimulator, pod_id: str) -> None:
    wait_for(lambda: not pod_state(simulator, pod_id)["processes"])


def test_the_start_command_runs_with_the_volume_as_its_workspace(api: Client, simulator: RunningSimulator) -> None:
    volume = api.create_volume("EU-SE-1")
    mounts = {"network": [{"volumeId": volume, "path": "/workspace"}]}
    pod = api.create_pod("bash -c 'pwd; echo kept > $PUSHTRAIN_WORKSPACE/file; exec sleep 600'", mounts=mounts)
    shown = api.wait_running(pod)
    assert shown["runtime"]["uptime"] >= 0 and shown["startedAt"] and len(shown["runtime"]["gpus"]) == 1
    folder = simulator.state_dir / "volumes" / volume
    wait_for(lambda: (folder / "file").exists())
    assert lines(simulator, pod) == [str(simulator.state_dir / "pods" / pod / "root")]
    api("DELETE", f"/v2/pods/{pod}")
    wait_gone(simulator, pod)
    assert (folder / "file").read_text() == "kept\n"
    api("DELETE", f"/v2/network-volumes/{volume}")
    wait_for(lambda: not folder.exists())


def test_a_container_that_ends_is_started_again_and_still_billed(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod("bash -c 'date +%s%N >> starts; sleep 0.3; exit 7'")
    starts = pod_file(simulator, pod, "starts")
    wait_for(lambda: starts.exists() and len(starts.read_text().split()) >= 3)
    assert api("GET", f"/v2/pods/{pod}").json()["status"] == "RUNNING"
    assert "container exited with code 7" in lines(simulator, pod, "system")
    before = pod_state(simulator, pod)["billed_usd"]
    assert wait_for(lambda: pod_state(simulator, pod)["billed_usd"] > before)


def test_a_command_that_does_not_exist_is_tried_again_and_never_runs(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod("no-such-program --here")
    wait_for(lambda: len([it for it in lines(simulator, pod, "system") if "no-such-program" in it]) >= 2)
    shown = api("GET", f"/v2/pods/{pod}").json()
    assert (shown["status"], shown["runtime"]) == ("RUNNING", None)


def test_a_pod_without_a_command_stays_up(api: Client) -> None:
    assert api.wait_running(api.create_pod(""))["args"] == ""


ESCAPE = textwrap.dedent(
    """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name in ("grandchild", "hidden"):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                open(name + ".new", "w").write(str(os.getpid()))
                os.rename(name + ".new", name)
                if name == "hidden":
                    os.execve("/bin/sleep", ["sleep", "600"], {})
                time.sleep(600)
            os._exit(0)
    time.sleep(600)
    """
)


def test_termination_reaches_processes_that_left_session_group_and_environment(
    api: Client, simulator: RunningSimulator
) -> None:
    pod = api.create_pod("python3 -c 'import os; exec(os.environ[\"CODE\"])'", env={"CODE": ESCAPE})
    wait_for(lambda: all(pod_file(simulator, pod, name).exists() for name in ("grandchild", "hidden")))
    pids = [int(pod_file(simulator, pod, name).read_text()) for name in ("grandchild", "hidden")]
    assert all(start_ticks(pid) for pid in pids)
    assert api("DELETE", f"/v2/pods/{pod}").status_code == 204
    assert api("GET", "/v2/pods").json()["pods"] == []
    wait_for(lambda: not any(start_ticks(pid) for pid in pids))
    wait_gone(simulator, pod)
    wait_for(lambda: not pod_file(simulator, pod, "hidden").exists(), 3)


def test_a_restart_of_the_container_ends_everything_inside_first(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod("bash -c 'setsid sleep 600 & echo $! >> pids; sleep 0.3'")
    pids = pod_file(simulator, pod, "pids")
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) >= 2)
    first = pids.read_text().split()[0]
    wait_for(lambda: start_ticks(int(first)) is None)


def test_a_pod_that_terminates_itself_gets_its_answer_first(api: Client, simulator: RunningSimulator) -> None:
    script = (
        "curl -s -o /dev/null -w %{http_code} -X POST -A pod -H Content-Type:application/json"
        ' -H "Authorization: Bearer $RUNPOD_API_KEY" -d "{\\"action\\":\\"terminate\\"}"'
        " $RUNPOD_API_BASE_URL/v2/pods/$RUNPOD_POD_ID/action; echo; exec sleep 600"
    )
    pod = api.create_pod(f"bash -c '{script}'")
    wait_for(lambda: api("GET", f"/v2/pods/{pod}").status_code == 404)
    wait_gone(simulator, pod)
    assert "204" in lines(simulator, pod)


def test_sigterm_comes_before_the_kill(api: Client, simulator: RunningSimulator) -> None:
    trap = 'import os; exec(os.environ["CODE"])'
    code = (
        "import signal, sys, time\n"
        "def bye(*_): print('going', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    pod = api.create_pod(f"python3 -c '{trap}'", env={"CODE": code})
    wait_for(lambda: "ready" in lines(simulator, pod))
    api("DELETE", f"/v2/pods/{pod}")
    wait_gone(simulator, pod)
    assert lines(simulator, pod)[-1] == "going"


def test_stop_ends_the_processes_and_start_begins_on_an_empty_disk(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod("bash -c 'touch $(date +%s%N); exec sleep 600'")
    api.wait_running(pod)
    root = pod_file(simulator, pod, ".")
    first = wait_for(lambda: list(root.glob("1*")))
    stopped = api("POST", f"/v2/pods/{pod}/action", {"action": "stop"}).json()
    assert (stopped["status"], stopped["runtime"]) == ("EXITED", None)
    wait_gone(simulator, pod)
    api("POST", f"/v2/pods/{pod}/action", {"action": "start"})
    api.wait_running(pod)
    second = wait_for(lambda: list(root.glob("1*")))
    assert {path.name for path in first}.isdisjoint(path.name for path in second)


def test_stop_and_start_in_one_breath_end_in_another_container(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod()
    api.wait_running(pod)
    before = pod_state(simulator, pod)["container_pid"]
    for action in ("stop", "start", "stop", "start"):
        assert api("POST", f"/v2/pods/{pod}/action", {"action": action}).status_code == 200
    wait_for(lambda: pod_state(simulator, pod)["container_pid"] not in (None, before))
    time.sleep(0.5)
    assert api.wait_running(pod)["status"] == "RUNNING" and start_ticks(before) is None


def test_restart_sets_the_uptime_back(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod()
    api.wait_running(pod)
    before = pod_state(simulator, pod)
    assert api("POST", f"/v2/pods/{pod}/action", {"action": "restart"}).status_code == 200
    after = wait_for(lambda: (it := pod_state(simulator, pod))["restarts"] == 1 and it)
    assert after["container_pid"] != before["container_pid"]


def test_the_environment_is_the_pods_and_not_the_simulators(api: Client, simulator: RunningSimulator) -> None:
    volume = api.create_volume("EU-SE-1")
    api("PUT", "/v2/account/ssh-keys", {"keys": ["ssh-ed25519 AAAA me"]})
    body = {
        "mounts": {"network": [{"volumeId": volume, "path": "/workspace"}]},
        "gpu": {"id": "NVIDIA A40", "count": 2},
        "env": {"RUN_ID": "7f3a", "RUNPOD_POD_ID": "forged", "PYTHONPATH": "/nowhere"},
        "startSsh": True,
        "ports": ["8888/http", "2222/tcp"],
    }
    pod = api.create_pod("bash -c 'env -0 > environment; sleep 600'", **body)
    api("PUT", "/v2/account/ssh-keys", {"keys": []})
    written = pod_file(simulator, pod, "environment")
    wait_for(lambda: written.exists() and b"RUN_ID" in written.read_bytes())
    env = dict(entry.split("=", 1) for entry in written.read_text().rstrip("\0").split("\0"))
    folder = simulator.state_dir / "pods" / pod
    expected = {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "TMUX_TMPDIR": f"/tmp/pt-{pod}",
        "RUN_ID": "7f3a",
        "RUNPOD_POD_ID": pod,
        "RUNPOD_DC_ID": "EU-SE-1",
        "RUNPOD_GPU_COUNT": "2",
        "RUNPOD_PUBLIC_IP": "127.0.0.1",
        "RUNPOD_TCP_PORT_2222": "2222",
        "RUNPOD_VOLUME_ID": volume,
        "RUNPOD_API_KEY": pod_key(simulator.api_key, pod),
        "RUNPOD_API_BASE_URL": simulator.url,
        "HF_ENDPOINT": simulator.url,
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),
        "PUBLIC_KEY": "ssh-ed25519 AAAA me",
        "PUSHTRAIN_WORKSPACE": str(simulator.state_dir / "volumes" / volume),
        "PUSHTRAIN_TRAINER_PYTHON": sys.executable,
    }
    assert {name: env.get(name) for name in expected} == expected
    from_bash = {"PWD", "SHLVL", "_", "OLDPWD"}
    others = {"PATH", "LANG", "PYTHONPATH", "RUNPOD_POD_HOSTNAME", "RUNPOD_CPU_COUNT"}
    assert set(env) - from_bash == set(expected) | others


def test_without_a_volume_the_workspace_is_on_the_container_disk(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod("bash -c 'echo $PUSHTRAIN_WORKSPACE; cd $PUSHTRAIN_WORKSPACE && pwd; exec sleep 600'")
    folder = str(simulator.state_dir / "pods" / pod / "root" / "workspace")
    wait_for(lambda: lines(simulator, pod) == [folder, folder])
    own = api.create_pod(
        "bash -c 'cd $PUSHTRAIN_WORKSPACE && date +%s%N >> starts; exec sleep 600'",
        mounts={"persistent": {"size": 10, "path": "/workspace"}},
    )
    starts = simulator.state_dir / "pods" / own / "volume" / "starts"
    wait_for(starts.exists)
    api("POST", f"/v2/pods/{own}/action", {"action": "stop"})
    api("POST", f"/v2/pods/{own}/action", {"action": "start"})
    wait_for(lambda: len(starts.read_text().split()) == 2)


def test_a_request_may_name_another_hub(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod("bash -c 'echo $HF_ENDPOINT; sleep 600'", env={"HF_ENDPOINT": "http://127.0.0.1:9/hub"})
    assert wait_for(lambda: lines(simulator, pod)) == ["http://127.0.0.1:9/hub"]


def test_logs_resume_after_the_last_event_seen(api: Client) -> None:
    pod = api.create_pod("bash -c 'for n in $(seq 1 9); do echo line $n; done; sleep 600'")
    api.wait_running(pod)
    seen = events(api, pod, 4, source="container", tail="5000")
    assert [data["line"] for _, data in seen] == [f"line {n}" for n in range(1, 5)]
    assert all(data["source"] == "container" and event_id.startswith(data["ts"]) for event_id, data in seen)
    rest = events(api, pod, 5, headers={"Last-Event-ID": seen[-1][0]}, source="container")
    assert [data["line"] for _, data in rest] == [f"line {n}" for n in range(5, 10)]
    assert [data["line"] for _, data in events(api, pod, 2, source="container", tail="2")] == ["line 8", "line 9"]
    since = events(api, pod, 9, source="container", since=seen[0][1]["ts"])
    assert since[0][1]["line"] == "line 1"
    assert events(api, pod, 1, source="system", tail="5000")[0][1]["line"] == "create container"


def test_logs_go_on_while_the_pod_speaks_and_end_with_it(api: Client) -> None:
    pod = api.create_pod("bash -c 'n=0; while :; do echo tick $((n++)); sleep 0.1; done'")
    api.wait_running(pod)
    assert len(events(api, pod, 12, source="container", tail="0")) == 12
    api("DELETE", f"/v2/pods/{pod}")
    assert api("GET", f"/v2/pods/{pod}/logs").status_code == 404


def test_wrong_log_queries_are_refused(api: Client) -> None:
    pod = api.create_pod()
    for query in ("tail=5001", "tail=x", "source=both", "since=yesterday"):
        assert api.raw("GET", f"/v2/pods/{pod}/logs?{query}").status_code == 422
    assert api.raw("GET", f"/v2/pods/{pod}/logs", headers={"Last-Event-ID": "a/b"}).status_code == 422


def test_a_log_keeps_counting_when_it_is_rotated_and_reopened(tmp_path: Path) -> None:
    log = tmp_path / "container.log"
    for begin in (0, 50):
        writer = LogWriter(log, cap_bytes=2000)
        for n in range(begin, begin + 50):
            writer.write("container", f"line {n} \x85 \u2028 end", 1_790_000_000.0 + n)
    assert log.stat().st_size < 2200 and older(log).exists()
    kept = list(read_log(log))
    assert [entry.number for entry in kept] == list(range(kept[0].number, 101))
    assert kept[-1].line == "line 99 \x85 \u2028 end"
    assert [entry.number for entry in read_log(log, after=98)] == [99, 100]
    log.open("a").write("2026-01-01T00:00:00Z 101 container half a li")
    assert [entry.number for entry in read_log(log, after=98)] == [99, 100]


def test_output_without_line_ends_and_with_any_bytes_reaches_the_log(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod('bash -c \'head -c 40000 /dev/zero | tr "\\0" x; printf "\\377\\n"; exec sleep 600\'')
    wait_for(lambda: sum(len(line) for line in lines(simulator, pod)) >= 40001)
    assert max(len(line) for line in lines(simulator, pod)) <= 16 * 1024
    assert lines(simulator, pod)[-1].endswith("\ufffd")


def test_a_lost_pod_is_gone_without_a_word(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod("bash -c 'trap \"echo never\" TERM; sleep 600'", name="pt-lost")
    other = api.create_pod(name="pt-kept")
    api.wait_running(pod), api.wait_running(other)
    simulator.fault("lost_pod", seconds=0, pod_name="pt-lost")
    wait_for(lambda: [it["id"] for it in api("GET", "/v2/pods").json()["pods"]] == [other])
    wait_gone(simulator, pod)
    assert "never" not in lines(simulator, pod)
    assert pod_state(simulator, pod)["ended_at"] is not None


def test_a_container_restart_happens_once_and_a_crash_loop_until_switched_off(
    api: Client, simulator: RunningSimulator
) -> None:
    pod = api.create_pod()
    api.wait_running(pod)
    simulator.fault("container_restart", seconds=0, pod_id=pod)
    wait_for(lambda: pod_state(simulator, pod)["restarts"] == 1)
    time.sleep(0.6)
    assert pod_state(simulator, pod)["restarts"] == 1
    simulator.fault("crash_loop", times=None, seconds=0, pod_id=pod)
    wait_for(lambda: (pod_state(simulator, pod)["restarts"] or 0) >= 3)
    simulator.request("DELETE", "/_simulator/faults")
    last = api.wait_running(pod) and pod_state(simulator, pod)["restarts"]
    time.sleep(0.6)
    assert pod_state(simulator, pod)["restarts"] in (last, (last or 0) + 1)


def test_a_pod_may_say_running_for_ever_and_never_start(api: Client, simulator: RunningSimulator) -> None:
    simulator.fault("never_starts", pod_name="pt-stuck")
    stuck, fine = api.create_pod(name="pt-stuck"), api.create_pod()
    api.wait_running(fine)
    shown = api("GET", f"/v2/pods/{stuck}").json()
    assert (shown["status"], shown["runtime"]) == ("RUNNING", None)
    assert pod_state(simulator, stuck)["processes"] == []


def test_a_runner_that_dies_is_replaced(api: Client, simulator: RunningSimulator) -> None:
    pod = api.create_pod("bash -c 'echo $$ >> pids; exec sleep 600'")
    api.wait_running(pod)
    published = json.loads((simulator.state_dir / "pods" / pod / "container.json").read_text())
    os.kill(published["runner"]["pid"], signal.SIGKILL)
    pids = pod_file(simulator, pod, "pids")
    wait_for(lambda: len(pids.read_text().split()) == 2)
    first = pids.read_text().split()[0]
    assert start_ticks(int(first)) is None
    assert len(pod_state(simulator, pod)["processes"]) <= 2
