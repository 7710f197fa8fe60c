"""The demo as a newcomer runs it, and as he ends it: to the receipt, by Ctrl-C, by SIGKILL and a later reconcile."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from infra.simulator import processes
from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.gitcmd import git

PROJECT = Path(__file__).parents[1]
PUSHTRAIN = [sys.executable, "-m", "pushtrain"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all demos of this module: the base model is built once, as for a person."""
    yield tmp_path_factory.mktemp("demo")


def start_demo(folder: Path, home: Path, *more: str) -> "subprocess.Popen[str]":
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PUSHTRAIN_ENGINE": "embedded", "COLUMNS": "140"}
    return subprocess.Popen(
        [*PUSHTRAIN, "demo", "--folder", str(folder), *more],
        cwd=PROJECT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(demo: "subprocess.Popen[str]", text: str) -> str:
    """Read the demo's lines until one holds `text`; the test's own time limit bounds the wait."""
    assert demo.stdout is not None
    seen = []
    for line in demo.stdout:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"the demo ended before it said {text!r}:\n{''.join(seen)}")


def demo_environment(folder: Path) -> dict[str, str]:
    """What `source env` sets in another terminal."""
    lines = (folder / "run" / "env").read_text().splitlines()
    pairs = (shlex.split(line.removeprefix("export "))[0].partition("=") for line in lines)
    return {"PATH": os.environ["PATH"], **{name: value for name, _, value in pairs}}


def living(folder: Path) -> list[str]:
    """Command lines of every process that has to do with the folder: simulator, Action, pods."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = str((entry / "cwd").readlink())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if (str(folder) in command or str(folder) in where) and processes.start_ticks(int(entry.name)) is not None:
            found.append(f"{entry.name}: {command}")
    return found


def wait_until_nothing_lives(folder: Path) -> None:
    end = time.monotonic() + 150
    while left := living(folder):
        assert time.monotonic() < end, left
        time.sleep(0.2)


@pytest.mark.long
@pytest.mark.timeout(1300)
def test_the_demo_trains_publishes_proves_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    demo = start_demo(folder, tmp_path)
    out, _ = demo.communicate(timeout=1200)
    assert demo.returncode == 0, out
    assert "proof: pods 0, volumes 0" in out
    change = re.search(r"held-out loss\s*│ ([\d.]+) before, ([\d.]+) after", out)
    assert change is not None and float(change[2]) <= 0.8 * float(change[1]), out

    remote = folder / "run" / "remote.git"
    env = demo_environment(folder)
    run_id = git(["for-each-ref", "--format=%(refname:lstrip=3)", "refs/heads/runs"], env=env, cwd=remote).stdout
    tip = f"runs/{run_id.decode().strip()}"
    receipt = json.loads(git(["show", f"{tip}:receipt.json"], env=env, cwd=remote).stdout)
    assert receipt["outcome"] == "succeeded" and 0 < receipt["billed_usd"] < receipt["cap_usd"]
    files = git(["ls-tree", "-r", "--name-only", tip], env=env, cwd=remote).stdout.decode().split()
    assert {"spec.yaml", "run.json", "result.json", "receipt.json"} < set(files)
    assert any(name.startswith("logs/") for name in files) and any(name.startswith("metrics/") for name in files)

    assert ElementTree.parse(folder / "run" / "loss.svg").getroot().tag.endswith("svg")
    assert (folder / "run" / "adapter" / "adapter_model.safetensors").stat().st_size > 10_000
    wait_until_nothing_lives(folder)


@pytest.mark.long
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("cloud", [name for name in CLOUDS if name != DEFAULT_CLOUD])
def test_the_same_job_by_one_word_elsewhere_leaves_nothing_either(folder: Path, tmp_path: Path, cloud: str) -> None:
    demo = start_demo(folder, tmp_path, "--cloud", cloud)
    out, _ = demo.communicate(timeout=1200)
    assert demo.returncode == 0 and "proof: pods 0, volumes 0" in out, out
    change = re.search(r"held-out loss\s*│ ([\d.]+) before, ([\d.]+) after", out)
    assert change is not None and float(change[2]) <= 0.8 * float(change[1]), out
    env, remote = demo_environment(folder), folder / "run" / "remote.git"
    (ref,) = git(["for-each-ref", "--format=%(refname)", "refs/heads/runs"], env=env, cwd=remote).stdout.split()
    receipt = json.loads(git(["show", f"{ref.decode()}:receipt.json"], env=env, cwd=remote).stdout)
    assert receipt["outcome"] == "succeeded" and bool(receipt["volumes"]) == bool(CLOUDS[cloud].volume_tiers)
    ids = {"vast": r"\d+", "lambda": r"[0-9a-f]{32}", "modal": r"sb-\w+", "jarvislabs": r"jl-\d+"}
    assert all(re.fullmatch(ids[cloud], pod) for pod in receipt["pods"])
    assert 0 < receipt["billed_usd"] < receipt["cap_usd"]
    wait_until_nothing_lives(folder)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_ctrl_c_while_it_trains_leaves_no_pod_no_volume_no_process(folder: Path, tmp_path: Path) -> None:
    demo = start_demo(folder, tmp_path)
    wait_for(demo, "training, step")
    demo.send_signal(signal.SIGINT)
    out, _ = demo.communicate(timeout=150)
    assert demo.returncode == 130, out
    assert "cancelled; pods 0, volumes 0" in out
    assert "Traceback" not in out
    wait_until_nothing_lives(folder)


@pytest.mark.long
@pytest.mark.timeout(1300)  # whichever comes first makes the model
@pytest.mark.parametrize("moment", ["simulator", "bare git remote", "git push"])
def test_ctrl_c_before_it_trains_leaves_nothing_either(folder: Path, tmp_path: Path, moment: str) -> None:
    demo = start_demo(folder, tmp_path)
    wait_for(demo, moment)
    time.sleep(0.4)
    demo.send_signal(signal.SIGINT)
    out, _ = demo.communicate(timeout=150)
    assert demo.returncode == 130, out
    assert "Traceback" not in out
    wait_until_nothing_lives(folder)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_after_sigkill_a_reconcile_against_the_same_simulator_and_ledger_closes_the_run(
    folder: Path, tmp_path: Path
) -> None:
    demo = start_demo(folder, tmp_path)
    wait_for(demo, "training, step")
    demo.kill()
    demo.wait()
    action = int((folder / "run" / "action.pid").read_text())
    os.kill(action, signal.SIGKILL)  # the Action is gone too: only simulator, pod and ledger are left

    env = demo_environment(folder)
    repository = folder / "run" / "repository"
    done = subprocess.run(
        [*PUSHTRAIN, "reconcile", "--follow"], cwd=repository, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "succeeded; pods 0, volumes 0" in done.stderr
    swept = subprocess.run([*PUSHTRAIN, "sweep"], cwd=repository, env=env, capture_output=True, text=True, timeout=150)
    assert (swept.returncode, swept.stdout.strip()) == (0, "nothing is left: pods 0, volumes 0")

    known = json.loads((folder / "processes.json").read_text())
    os.kill(known["simulator"][0], signal.SIGTERM)
    wait_until_nothing_lives(folder)
