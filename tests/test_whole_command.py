"""Whole runs of `task: command`: a program of the commit on a simulated pod, from the push to the receipt."""

import hashlib
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from whole import CANARY, PROJECT, World, end

pytest_plugins = ("whole",)

JOB = """\
version: 1
name: {name}
task: command
command:
  run: {run}
  workdir: work
{more}
compute: {{gpus: [NVIDIA A40], volume: {{size_gb: 10}}}}
budget: {{max_hours: 1, max_usd: 1}}
{rest}
"""

# Counts to 12 and keeps how far it is; tells of a step as nanochat does.
COUNTER = """\
import os, pathlib, sys, time
files = pathlib.Path(os.environ["PUSHTRAIN_RUN_DIR"])
saved = files / "state"
first = int(saved.read_text()) if saved.exists() else 0
print("attempt", os.environ["PUSHTRAIN_ATTEMPT"], "from", first, "home", os.environ["HOME"], flush=True)
for step in range(first + 1, 13):
    time.sleep(float(os.environ.get("STEP_S", "0.1")))
    if step % 2 == 0:
        saved.write_text(str(step))
    print(f"step {step:05d}/00012 (50.00%) | loss: {3 / step:.6f} | tok/sec: 1,{step:03d}", flush=True)
(files / "out").mkdir(exist_ok=True)
(files / "out" / "model.bin").write_bytes(b"weights" * 1000)
(files / "out" / "report.md").write_text("# counted to 12\\n")
"""
PROGRESS = r"""  progress:
    step: 'step (\d+)/'
    total_steps: 'step \d+/(\d+)'
    loss: 'loss: ([\d.]+)'
    metrics: {tokens_per_s: 'tok/sec: ([\d,]+)'}
"""


@pytest.fixture(autouse=True)
def _the_real_trainer(world: World) -> None:
    """What runs a command is ours: the trainer of the commit is the real one."""
    for path in (PROJECT / "trainer").rglob("*.py"):
        world.write(str(path.relative_to(PROJECT)), path.read_text())


def write_job(world: World, program: str, more: str = "", rest: str = "", name: str = "job") -> None:
    world.write("work/program.py", textwrap.dedent(program))
    world.write(f"jobs/{name}.yaml", JOB.format(name=name, run="[python3, program.py]", more=more, rest=rest))
    world.push()


def log_of(world: World, job: str = "job") -> str:
    return world.control().ledger.text(world.record(job), "logs")[0].decode()


def metrics_of(world: World) -> list[dict[str, Any]]:
    raw = world.control().ledger.text(world.record("job"), "metrics")[0]
    return [json.loads(line) for line in raw.splitlines()]


def test_a_command_runs_to_its_receipt_and_its_files_are_on_the_hub(world: World, tmp_path: Path) -> None:
    keep = PROGRESS + "  artifacts: ['out/*']\n"
    write_job(world, COUNTER, keep, "publish: {repo: demo/counted}")
    done = world.cli("reconcile", "--follow")
    assert done.returncode == 0, done.stderr + log_of(world)
    record = world.record("job")
    assert end(record) == ("succeeded", "")
    states = [event.state for event in record.events if event.writer == "pod"]
    assert states == ["booting", "environment", "preparing", "training", "publishing", "finished"]
    assert record.run["command"] == {"run": ["python3", "program.py"], "workdir": "work"}
    rows = metrics_of(world)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[-1] | {"time": 0} == {"time": 0, "step": 12, "total_steps": 12, "loss": 0.25, "tokens_per_s": 1012.0}
    assert record.result is not None
    metrics, kept = record.result["metrics"], record.result["artifacts"]
    assert (metrics["steps"], metrics["resumed_from_step"], metrics["exit_code"]) == (12, 0, 0)
    weights = hashlib.sha256(b"weights" * 1000).hexdigest()
    assert kept["files"]["out/model.bin"] == weights and set(kept["files"]) == {"out/model.bin", "out/report.md"}
    api = HfApi(endpoint=world.env["HF_ENDPOINT"], token=world.env["HF_TOKEN"])
    fetched = api.hf_hub_download(
        "demo/counted", "out/model.bin", revision=kept["revision"], local_dir=tmp_path / "hub"
    )
    assert hashlib.sha256(Path(fetched).read_bytes()).hexdigest() == weights
    assert api.model_info("demo/counted").sha == kept["revision"]
    world.assert_nothing_left()
    assert world.cli("verify", "--all").returncode == 0


def test_a_command_that_fails_says_how_and_what_it_made_is_kept_aside(world: World) -> None:
    program = """
        import os, pathlib, sys
        (pathlib.Path(os.environ["PUSHTRAIN_RUN_DIR"]) / "half.bin").write_bytes(b"half")
        print("it does not work", flush=True)
        sys.exit(3)
    """
    write_job(world, program, "  artifacts: ['*.bin']\n", "publish: {repo: demo/half}")
    assert world.cli("reconcile", "--follow").returncode == 1
    record = world.record("job")
    assert end(record)[0] == "failed"
    failed = next(event for event in record.events if event.state == "failed")
    assert failed.reason == "CommandFailed" and "exit code 3" in failed.message
    assert "it does not work" in failed.data["log_tail"]
    api = HfApi(endpoint=world.env["HF_ENDPOINT"], token=world.env["HF_TOKEN"])
    branch = f"failed/{record.run_id}"
    assert "half.bin" in api.list_repo_files("demo/half", revision=branch)
    assert "half.bin" not in api.list_repo_files("demo/half")
    world.assert_nothing_left()


def test_a_lost_pod_starts_the_command_again_and_it_goes_on_from_its_state(world: World) -> None:
    write_job(world, COUNTER, PROGRESS + "  env: {STEP_S: '0.4'}\n")
    world.until(lambda record: any(row.get("step", 0) >= 5 for row in metrics_of(world)), timeout_s=60)
    (pod,) = [pod for pod in world.pods_made(world.record("job")) if pod["status"] != "TERMINATED"]
    world.simulator.request("DELETE", f"/v2/pods/{pod['id']}")
    record = world.until(lambda record: record.is_over)
    assert end(record) == ("succeeded", "")
    log = log_of(world)
    assert "attempt 1 from 0" in log and "attempt 2 from " in log and "attempt 2 from 0" not in log
    assert record.receipt is not None
    first, second = record.receipt["history"]
    resumed = second["resumed_from_step"]
    assert resumed >= 4 and resumed % 2 == 0 and f"attempt 2 from {resumed}" in log
    assert 0 <= first["steps_lost"] <= 2
    assert record.result is not None and record.result["metrics"]["resumed_from_step"] == resumed
    world.assert_nothing_left()


def test_cancel_ends_a_command_and_everything_it_forked(world: World) -> None:
    program = """
        import os, subprocess, sys, time
        for _ in range(3):
            subprocess.Popen(["sh", "-c", "trap '' TERM; setsid sleep 300 & setsid setsid sleep 301"],
                             start_new_session=True)
        print("forked", flush=True)
        time.sleep(300)
    """
    write_job(world, program)
    world.until(lambda record: "forked" in log_of(world))
    assert world.cli("cancel", "job").returncode == 0
    assert end(world.record("job")) == ("cancelled", "CancelledByHand")
    world.assert_nothing_left()


def test_daemons_of_a_command_that_ends_are_ended_before_its_files_are_kept(world: World) -> None:
    program = """
        import os, pathlib, subprocess, sys, time
        files = pathlib.Path(os.environ["PUSHTRAIN_RUN_DIR"])
        line = f"i=0; while :; do i=$((i+1)); echo $i > {files}/ticks; sleep 0.02; done"
        clean = {name: value for name, value in os.environ.items() if name != "RUNPOD_POD_ID"}
        subprocess.Popen(["setsid", "sh", "-c", line], env=clean, start_new_session=True)
        time.sleep(0.5)
    """
    write_job(world, program, "  artifacts: [ticks]\n")
    assert world.cli("reconcile", "--follow").returncode == 0, log_of(world)
    record = world.record("job")
    assert end(record) == ("succeeded", "") and record.result is not None
    assert record.result["artifacts"]["repo"] is None and len(record.result["artifacts"]["files"]["ticks"]) == 64
    assert "processes that the command left behind" in log_of(world)
    world.assert_nothing_left()


def test_no_output_and_far_too_much_of_it_both_end_well(world: World) -> None:
    world.write("work/loud.py", "for i in range(100_000): print('line', i, 'of many')\n")
    world.write("work/silent.py", "import time; time.sleep(1)\n")
    for name in ("silent", "loud"):
        world.write(f"jobs/{name}.yaml", JOB.format(name=name, run=f"[python3, {name}.py]", more="", rest=""))
    world.push()
    done = world.cli("reconcile", "--follow", timeout_s=90)
    assert done.returncode == 0, done.stderr
    assert end(world.record("silent")) == ("succeeded", "") and end(world.record("loud")) == ("succeeded", "")
    log = log_of(world, "loud")
    assert "line 0 of many" in log and "line 99999 of many" in log
    assert log.count("of many") == 100_000
    world.assert_nothing_left()


def test_a_command_has_its_own_environment_and_no_secret_it_did_not_name(world: World) -> None:
    program = """
        import os, json
        print("environment", json.dumps(dict(os.environ)), flush=True)
    """
    write_job(world, program, "  secrets: [HF_TOKEN]\n  env: {MINE: 'yes', PYTHONPATH: /mine}\n")
    assert world.cli("reconcile", "--follow").returncode == 0, log_of(world)
    log = log_of(world)
    line = next(line for line in log.splitlines() if line.startswith("environment "))
    env = json.loads(line.removeprefix("environment "))
    assert env["MINE"] == "yes" and env["PYTHONPATH"] == "/mine" and env["PUSHTRAIN_ATTEMPT"] == "1"
    assert env["HOME"] == env["PUSHTRAIN_RUN_DIR"] + "/home" and env["HF_TOKEN"] == "***"
    assert CANARY not in log
    ours = {name for name in env if name.startswith("PUSHTRAIN_")}
    assert ours == {
        f"PUSHTRAIN_{it}" for it in ("RUN_ID", "ATTEMPT", "COMMIT", "DEADLINE_EPOCH_S", "RUN_DIR", "GRACE_S")
    }
    assert not {"VIRTUAL_ENV", "RUNPOD_API_KEY", "TORCHDYNAMO_DISABLE", "HF_HUB_DISABLE_XET", "HF_HOME"} & set(env)
    world.assert_nothing_left()
