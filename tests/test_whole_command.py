"""Whole runs of `task: command`: programs of one commit on simulated pods, all at once, from push to receipt."""

import hashlib
import json
import os
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from whole import CANARY, PROJECT, World, end, make_world

from pushtrain.ledger import RunRecord

# Counts to 12 and keeps how far it is; tells of a step as nanochat does.
COUNTER = """
    import os, pathlib, sys, time
    files = pathlib.Path(os.environ["PUSHTRAIN_RUN_DIR"])
    saved = files / "state"
    first = int(saved.read_text()) if saved.exists() else 0
    print("attempt", os.environ["PUSHTRAIN_ATTEMPT"], "from", first, flush=True)
    for step in range(first + 1, 13):
        if step % 2 == 1:
            saved.write_text(str(step - 1))
        print(f"step {step:05d}/00012 (50.00%) | loss: {3 / step:.6f} | tok/sec: 1,{step:03d}", flush=True)
        time.sleep(0.1)
        while step == 7 and first == 0 and "WAIT" in os.environ:
            time.sleep(0.1)
    (files / "out").mkdir(exist_ok=True)
    (files / "out" / "model.bin").write_bytes(b"weights" * 1000)
    (files / "out" / "report.md").write_text("# counted to 12\\n")
"""
PROGRESS = """
    {step: 'step (\\d+)/', total_steps: 'step \\d+/(\\d+)', loss: 'loss: ([\\d.]+)',
     metrics: {tokens_per_s: 'tok/sec: ([\\d,]+)'}}
"""
FAILING = """
    import os, pathlib, sys
    (pathlib.Path(os.environ["PUSHTRAIN_RUN_DIR"]) / "half.bin").write_bytes(b"half")
    print("it does not work", flush=True)
    sys.exit(3)
"""
# Daemons that left session and environment behind; one writes into a file that is kept.
DAEMONS = """
    import os, pathlib, subprocess, time
    files = pathlib.Path(os.environ["PUSHTRAIN_RUN_DIR"])
    line = f"trap '' TERM; i=0; while :; do i=$((i+1)); echo $i > {files}/ticks; sleep 0.02; done"
    clean = {name: value for name, value in os.environ.items() if name != "RUNPOD_POD_ID"}
    subprocess.Popen(["setsid", "sh", "-c", line], env=clean, start_new_session=True)
    while not (files / "ticks").exists():
        time.sleep(0.05)
"""
FORKING = """
    import subprocess, time
    line = "trap '' TERM; setsid sleep 300 & setsid setsid sleep 301"
    for _ in range(3):
        subprocess.Popen(["sh", "-c", line], start_new_session=True)
    print("forked", flush=True)
    time.sleep(300)
"""
# Saves when it is told to stop, and says that it is done, which it is not.
PREEMPTED = """
    import os, pathlib, signal, sys, time
    saved = pathlib.Path(os.environ["PUSHTRAIN_RUN_DIR"]) / "saved"
    def save(*_):
        saved.write_text("half of it")
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    print("attempt", os.environ["PUSHTRAIN_ATTEMPT"], "found", saved.exists(), flush=True)
    time.sleep(0 if saved.exists() else 300)
"""
AGAIN = """
    import os, sys
    sys.exit(75 if os.environ["PUSHTRAIN_ATTEMPT"] == "1" else 0)
"""
# Hangs at its third step in the first attempt, talking on.
HUNG = """
    import os, time
    for step in range(1, 5):
        print("step", step, flush=True)
        while step == 3 and os.environ["PUSHTRAIN_ATTEMPT"] == "1":
            print("still here", flush=True)
            time.sleep(0.2)
"""
FELL_SILENT = """
    import os, time
    print("attempt", os.environ["PUSHTRAIN_ATTEMPT"], flush=True)
    time.sleep(0.1 if os.environ["PUSHTRAIN_ATTEMPT"] == "2" else 300)
"""
ENVIRONMENT = """
    import json, os, sys
    print("environment", json.dumps(dict(os.environ)), flush=True)
    sys.exit(5)
"""
# The same secret in ways that a redaction by line has to see, the last one in a line that never ends.
TELLING = """
    import os, sys
    token = os.environ["HF_TOKEN"]
    print(token, file=sys.stderr)
    print("\\r".join(f"{i}% {token}" for i in range(50)))
    sys.stdout.write("x" * 70000 + " " + token)
    open(os.environ["PUSHTRAIN_RUN_DIR"] + "/told.txt", "w").write(token)
"""


def job(program: str, command: str = "", rest: str = "") -> tuple[str, str]:
    """The program, and the spec with `NAME` where its name belongs."""
    keys = f"run: [python3, NAME.py], workdir: work{', ' if command else ''}{' '.join(command.split())}"
    compute = "compute: {gpus: [NVIDIA A40], volume: {size_gb: 10}}\n" if "compute:" not in rest else ""
    head = f"version: 1\nname: NAME\ntask: command\ncommand: {{{keys}}}\n{compute}"
    budget = "budget: {max_hours: 1, max_usd: 1}\n" if "budget:" not in rest else ""
    return textwrap.dedent(program), head + budget + rest


JOBS = {
    "counted": job(COUNTER, f"progress: {PROGRESS}, artifacts: [out/*]", "publish: {repo: demo/counted}\n"),
    "lost": job(COUNTER, f"progress: {PROGRESS}, env: {{WAIT: 'yes'}}"),
    "failing": job(FAILING, "artifacts: ['*.bin']", "publish: {repo: demo/half}\n"),
    "daemons": job(DAEMONS, "artifacts: [ticks]"),
    "forking": job(FORKING),
    "orphaned": job(FORKING),
    "preempted": job(PREEMPTED),
    "once": job(AGAIN, "restart: false"),
    "again": job(AGAIN),
    "hung": job(HUNG, "progress: {step: 'step (\\d+)'}", "limits: {step_gap_minutes: 0.05}\n"),
    "stalled": job(FELL_SILENT, "silence_minutes: 0.05"),
    "eight": job(
        "import os; print('GPUs', os.environ['RUNPOD_GPU_COUNT'])",
        rest="compute: {gpus: [NVIDIA H100 80GB HBM3], count: 8, volume: {size_gb: 10}}\n"
        "budget: {max_hours: 1, max_usd: 30}\n",
    ),
    "silent": job("import time; time.sleep(1)"),
    "loud": job("for i in range(100_000): print('line', i, 'of many')"),
    "environment": job(
        ENVIRONMENT,
        "secrets: [HF_TOKEN], success_exit_codes: [0, 5], env: {MINE: 'yes', PYTHONPATH: /mine}",
        "compute: {gpus: [NVIDIA A40], volume: {size_gb: 10}, ports: [8888/http, 2222/tcp]}\n",
    ),
    "telling": job(TELLING, "secrets: [HF_TOKEN], artifacts: [told.txt]", "publish: {repo: demo/told}\n"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Every job above at its end: one pod is lost on the way, one run is cancelled."""
    made = make_world(tmp_path_factory.mktemp("command"))
    made.env["PUSHTRAIN_GRACE_S"] = "12"  # so many pods at once need some seconds for their last word
    for path in (PROJECT / "trainer").rglob("*.py"):
        made.write(str(path.relative_to(PROJECT)), path.read_text())
    for name, (program, spec) in JOBS.items():
        made.write(f"work/{name}.py", program)
        made.write(f"jobs/{name}.yaml", spec.replace("NAME", name))
    made.push()
    try:
        _to_the_end(made)
        yield made
    finally:
        made.close()


def _to_the_end(world: World) -> None:
    control, give_up_s = world.control(), time.monotonic() + 150
    lost = cancelled = orphaned = preempted = False
    while True:
        world.tick(control)
        runs = {str(record.run["job"]): record for record in world.records()}
        if len(runs) == len(JOBS) and all(record.is_over for record in runs.values()):
            return
        assert time.monotonic() < give_up_s, {name: run.last for name, run in runs.items()}
        if not lost and any(row.get("step") == 7 for row in metrics_of(world, "lost")):
            (pod,) = world.pods_made(runs["lost"])
            world.simulator.request("DELETE", f"/v2/pods/{pod['id']}").raise_for_status()
            lost = True
        if not orphaned and "forked" in log_of(world, "orphaned"):
            _signal(world, "orphaned", b"\0trainer\0", signal.SIGKILL)
            orphaned = True
        if not preempted and "attempt 1 found False" in log_of(world, "preempted"):
            _signal(world, "preempted", b"bash\0-c\0", signal.SIGTERM)
            preempted = True
        if not cancelled and "forked" in log_of(world, "forking"):
            assert world.cli("cancel", "forking").returncode == 0
            cancelled = True
        time.sleep(0.2)


def _signal(world: World, job: str, part: bytes, number: signal.Signals) -> None:
    """To the one process of the job's pod whose command line holds `part`."""
    (pod,) = world.pods_made(world.record(job))
    (pid,) = (pid for pid in pod["processes"] if part in _command_line(pid))
    os.kill(pid, number)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it ended meanwhile


def log_of(world: World, job: str) -> str:
    return world.control().ledger.text(world.record(job), "logs")[0].decode()


def metrics_of(world: World, job: str) -> list[dict[str, Any]]:
    raw = world.control().ledger.text(world.record(job), "metrics")[0]
    return [json.loads(line) for line in raw.splitlines()]


def succeeded(world: World, job: str) -> RunRecord:
    record = world.record(job)
    assert end(record) == ("succeeded", ""), log_of(world, job)
    return record


def hub(world: World) -> HfApi:
    return HfApi(endpoint=world.env["HF_ENDPOINT"], token=world.env["HF_TOKEN"])


def test_a_command_tells_of_its_steps_and_its_files_are_on_the_hub(world: World, tmp_path: Path) -> None:
    record = succeeded(world, "counted")
    states = [event.state for event in record.events if event.writer == "pod"]
    assert states == ["booting", "environment", "preparing", "training", "publishing", "finished"]
    assert record.run["command"] == {"run": ["python3", "counted.py"], "workdir": "work"}
    rows = metrics_of(world, "counted")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[-1] | {"time": 0} == {"time": 0, "step": 12, "total_steps": 12, "loss": 0.25, "tokens_per_s": 1012.0}
    assert record.result is not None
    metrics, kept = record.result["metrics"], record.result["artifacts"]
    assert (metrics["steps"], metrics["resumed_from_step"], metrics["exit_code"]) == (12, 0, 0)
    weights = hashlib.sha256(b"weights" * 1000).hexdigest()
    assert kept["files"]["out/model.bin"] == weights and set(kept["files"]) == {"out/model.bin", "out/report.md"}
    api, folder = hub(world), tmp_path / "hub"
    fetched = api.hf_hub_download("demo/counted", "out/model.bin", revision=kept["revision"], local_dir=folder)
    assert hashlib.sha256(Path(fetched).read_bytes()).hexdigest() == weights
    assert api.model_info("demo/counted").sha == kept["revision"]


def test_a_lost_pod_starts_the_command_again_and_it_goes_on_from_its_state(world: World) -> None:
    record, log = succeeded(world, "lost"), log_of(world, "lost")
    assert "attempt 1 from 0" in log and "attempt 2 from 6" in log
    assert record.receipt is not None and record.result is not None
    first, second = record.receipt["history"]
    assert (first["steps_lost"], second["resumed_from_step"]) == (1, 6)
    assert record.result["metrics"]["resumed_from_step"] == 6


def test_a_preempted_command_saves_and_the_next_attempt_finds_it(world: World) -> None:
    record = succeeded(world, "preempted")
    assert record.receipt is not None
    assert [attempt["ended"] for attempt in record.receipt["history"]] == ["Preempted", "finished"]
    assert "attempt 2 found True" in log_of(world, "preempted")


def test_exit_code_75_asks_for_another_attempt(world: World) -> None:
    receipt = succeeded(world, "again").receipt
    assert receipt is not None and [attempt["ended"] for attempt in receipt["history"]] == ["Preempted", "finished"]


def test_what_must_not_be_done_twice_is_not(world: World) -> None:
    record = world.record("once")
    assert end(record) == ("failed", "TooManyAttempts") and record.receipt is not None
    assert len(record.receipt["history"]) == 1


def test_a_command_that_fails_says_how_and_what_it_made_is_kept_aside(world: World) -> None:
    record = world.record("failing")
    assert end(record) == ("failed", "CommandFailed")
    failed = next(event for event in record.events if event.state == "failed")
    assert "exit code 3" in failed.message and "it does not work" in failed.data["log_tail"]
    branch = f"failed/{record.run_id}"
    assert "half.bin" in hub(world).list_repo_files("demo/half", revision=branch)
    assert "half.bin" not in hub(world).list_repo_files("demo/half")


def test_daemons_are_ended_before_files_are_kept(world: World) -> None:
    record = succeeded(world, "daemons")
    assert record.result is not None and record.result["artifacts"]["repo"] is None
    assert len(record.result["artifacts"]["files"]["ticks"]) == 64
    assert "processes that the command left behind" in log_of(world, "daemons")


def test_a_command_that_hangs_or_falls_silent_is_started_again_elsewhere(world: World) -> None:
    for name, reason in (("hung", "StepGap"), ("stalled", "Stalled")):
        record = succeeded(world, name)
        assert record.receipt is not None
        assert [attempt["ended"] for attempt in record.receipt["history"]] == [reason, "finished"]


def test_a_command_whose_supervisor_is_killed_ends_with_its_pod(world: World) -> None:
    assert end(world.record("orphaned")) == ("failed", "TrainerKilled")


def test_a_command_gets_eight_gpus_where_it_asks_for_them(world: World) -> None:
    record = succeeded(world, "eight")
    start = next(event for event in record.events if event.state == "provisioned")
    assert "GPUs 8" in log_of(world, "eight") and start.data["usd_per_hour"] > 8 * 2.9


def test_a_cancelled_command_is_gone_with_all_it_forked(world: World) -> None:
    assert end(world.record("forking")) == ("cancelled", "CancelledByHand")


def test_no_output_and_a_hundred_thousand_lines_both_end_well(world: World) -> None:
    assert succeeded(world, "silent") and succeeded(world, "loud")
    lines = [line for line in log_of(world, "loud").splitlines() if line.endswith("of many")]
    assert lines == [f"line {number} of many" for number in range(100_000)]


def test_a_command_has_its_own_environment_and_its_ports(world: World) -> None:
    record = succeeded(world, "environment")
    line = next(line for line in log_of(world, "environment").splitlines() if line.startswith("environment "))
    env = json.loads(line.removeprefix("environment "))
    assert env["MINE"] == "yes" and env["PYTHONPATH"] == "/mine" and env["PUSHTRAIN_ATTEMPT"] == "1"
    assert env["HOME"] == env["PUSHTRAIN_RUN_DIR"] + "/home" and env["HF_TOKEN"] == "***"
    ours = {name.removeprefix("PUSHTRAIN_") for name in env if name.startswith("PUSHTRAIN_")}
    assert ours == {"RUN_ID", "ATTEMPT", "COMMIT", "DEADLINE_EPOCH_S", "RUN_DIR", "GRACE_S"}
    assert not {"VIRTUAL_ENV", "RUNPOD_API_KEY", "TORCHDYNAMO_DISABLE", "HF_HUB_DISABLE_XET", "HF_HOME"} & set(env)
    booting = next(event for event in record.events if event.state == "booting")
    assert booting.data["urls"] == {"8888/http": "http://127.0.0.1:8888", "2222/tcp": "tcp://127.0.0.1:2222"}
    assert "8888/http at http://127.0.0.1:8888" in booting.message


def test_a_secret_that_a_command_tells_is_in_no_log_and_in_no_file_that_is_kept(world: World) -> None:
    record, log = world.record("telling"), log_of(world, "telling")
    assert end(record) == ("failed", "ArtifactMissing")
    assert "it holds the value of a secret" in next(e for e in record.events if e.state == "failed").message
    assert log.count("***") >= 3 and CANARY not in log
    assert "told.txt" not in hub(world).list_repo_files("demo/told")


def test_the_table_of_runs_says_what_was_published(world: World) -> None:
    rows = {row["run_id"]: row for row in json.loads(world.cli("runs", "--json").stdout)}
    counted, daemons = rows[world.record("counted").run_id], rows[world.record("daemons").run_id]
    assert counted["published"].startswith("demo/counted@") and daemons["published"] == ""


def test_nothing_is_left_of_any_of_them(world: World) -> None:
    world.assert_nothing_left()
    checked = world.cli("verify", "--all")
    assert checked.returncode == 0 and checked.stdout.count(": ok, ") == len(JOBS), checked.stdout
