"""The commands of jobs/: nanochat's script as far as it goes without eight GPUs, and the check of one on this CPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from pushtrain.spec import CommandSpec
from pushtrain.spec.command import Secret
from pushtrain.spec.file import load, loads
from trainer.command.environment import command_env
from trainer.command.progress import ProgressReader
from trainer.report import Report

ROOT = Path(__file__).parents[1]
# What the two trainings print at the commit that the job names, with made-up figures.
LINES = """\
step 00000/05568 (0.00%) | loss: 10.397213 | lrm: 0.03 | dt: 61234.11ms | tok/sec: 17,123 | bf16_mfu: 0.61 | epoch: 1
step 00120/05568 (2.16%) | loss: 4.012345 | lrm: 1.00 | dt: 955.55ms | tok/sec: 1,097,345 | bf16_mfu: 52.75 | epoch: 1
Step 00120 | Validation bpb: 0.912345
step 00000 (0.00%) | loss: 1.501234 | lrm: 1.00 | dt: 800.10ms | tok/sec: 655,360 | mfu: 31.50 | epoch: 1
"""
SPEEDRUN = """\
echo started "$@"
echo torchrun -m scripts.base_train -- --depth=24 --device-batch-size=16 --fp8 --run=dummy
false
echo went on
"""
# In place of git: what a checkout leaves, in the folder that init was given.
GIT = f"""#!/bin/sh
case "$1" in
  init) mkdir -p "$3/.git" ;;
  checkout) mkdir -p runs && cat > runs/speedrun.sh <<'END'
{SPEEDRUN}END
  ;;
esac
"""


def test_the_expressions_of_the_speedrun_read_what_nanochat_prints(tmp_path: Path) -> None:
    spec = load(ROOT / "jobs" / "nanochat-speedrun.yaml", ROOT)
    assert isinstance(spec, CommandSpec)
    reader = ProgressReader(spec.command.progress, Report(tmp_path), tmp_path / "first-step")
    for line in LINES.splitlines():
        reader.read(line)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 120, 0] and rows[1]["total_steps"] == 5568
    assert (rows[1]["loss"], rows[1]["tokens_per_s"], rows[1]["mfu_percent"]) == (4.012345, 1097345, 52.75)
    assert rows[2]["loss"] == 1.501234


def test_the_page_about_commands_has_an_example_that_is_one_and_names_every_variable(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    spec = loads(example, "jobs/count.yaml")
    assert isinstance(spec, CommandSpec)
    told = {f"PUSHTRAIN_{name}": "1" for name in ("RUN_ID", "ATTEMPT", "COMMIT", "DEADLINE_EPOCH_S", "GRACE_S")}
    ours = command_env(spec.command, told, tmp_path).keys() - spec.command.env.keys()
    assert not [name for name in ours if f"`{name}`" not in page]
    assert not [name for name in get_args(Secret) if f"`{name}`" not in page]


def speedrun(tmp_path: Path, checkpoints: dict[str, int], without: str = "") -> str:
    """What the script says, with whole checkpoints of so many bytes for each part; the file `without` is missing."""
    home, tools = tmp_path / "home", tmp_path / "bin"
    saved = home / ".cache" / "nanochat" / "base_checkpoints" / "d24"
    for folder in (saved, tools, tmp_path / "tmp"):
        folder.mkdir(parents=True)
    (tools / "git").write_text(GIT)
    (tools / "git").chmod(0o755)
    for step, size in checkpoints.items():
        names = [f"model_{step}.pt", f"meta_{step}.json", *(f"optim_{step}_rank{rank}.pt" for rank in range(8))]
        for name in names:
            (saved / name).write_bytes(b"x" * size)
    if without:
        (saved / without).unlink()
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(home), "TMPDIR": str(tmp_path / "tmp")}
    script = [str(ROOT / "jobs" / "nanochat-speedrun.sh")]
    done = subprocess.run(script, env=env, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 1 and "went on" not in done.stdout, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("checkpoints", "without", "resumed"),
    [
        ({}, "", None),
        ({"001000": 10}, "", 1000),
        ({"001000": 10, "002000": 10}, "", 2000),
        ({"001000": 10, "002000": 7}, "", 1000),
        ({"001000": 10, "002000": 10}, "optim_002000_rank5.pt", 1000),
        ({"001000": 10}, "meta_001000.json", None),
    ],
    ids=["none", "one", "two", "the newest is cut off", "a part is missing", "none is whole"],
)
def test_the_speedrun_saves_on_the_way_and_goes_on_from_the_newest_whole_checkpoint(
    tmp_path: Path, checkpoints: dict[str, int], without: str, resumed: int | None
) -> None:
    said = speedrun(tmp_path, checkpoints, without)
    asked = f"--resume-from-step={resumed} " if resumed else ""
    assert f"--fp8 --save-every=1000 {asked}--run=dummy" in said


def test_the_check_of_a_gpu_runs_here_and_writes_its_report(tmp_path: Path) -> None:
    env = {**os.environ, "SECONDS_TO_RUN": "0.5", "PUSHTRAIN_RUN_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    env["CUDA_VISIBLE_DEVICES"] = ""
    script = [sys.executable, str(ROOT / "jobs" / "gpu-check.py")]
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0 and "step 1: " in done.stdout, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] >= 1 and report["best_tflops"] >= 0
