"""docs/volumes.md, word for word: real commands, the simulator's cloud and S3, two runs on one kept volume."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from recipe_runner import Terminal
from whole import World

pytest_plugins = ("whole",)
# A page of commands: each starts Python anew.
pytestmark = pytest.mark.timeout(600)

PAGE = Path(__file__).parents[1] / "docs" / "volumes.md"
VOLUME = "volume: {name: models, keep: true, size_gb: 50}"
JOB = """\
version: 1
name: {name}
task: sft
model: {{id: demo/base}}
data: {{path: data/rows.jsonl}}
compute:
  gpus: [NVIDIA GeForce RTX 4090]
  {volume}
budget: {{max_hours: 1, max_usd: 1}}
publish: {{repo: demo/{name}}}
"""


@pytest.fixture
def terminal(world: World) -> Iterator[Terminal]:
    path = f"{Path(sys.executable).parent}:{world.env['PATH']}"
    made = Terminal(world.repository, world.env | {"PATH": path}, timeout_s=180)
    yield made
    made.close()


def test_the_page_is_true(world: World, terminal: Terminal) -> None:
    assert VOLUME in PAGE.read_text(encoding="utf-8")
    world.write("jobs/first.yaml", JOB.format(name="first", volume=VOLUME))
    world.push()
    said = terminal.play(PAGE)
    secrets = [world.env[name] for name in ("RUNPOD_S3_SECRET_KEY", "RUNPOD_S3_ACCESS_KEY", "RUNPOD_API_KEY")]
    assert not [secret for secret in secrets if secret in said]
    kept = [path for path in world.folder.rglob("*") if path.is_file()]
    kept += [path for path in (world.simulator.state_dir / "pods").rglob("*") if path.is_file()]
    assert not [path for path in kept if secrets[0].encode() in path.read_bytes()], (
        "neither git, state nor pods have it"
    )
    receipt = world.record("first").receipt
    assert receipt is not None and receipt["outcome"] == "succeeded"
    assert [it["why"] for it in receipt["kept"]] == ["kept on purpose"]
    world.assert_nothing_left()


def test_two_runs_of_one_commit_at_once_keep_their_files_apart_and_refusals_have_their_exit_code(world: World) -> None:
    world.orders(steps=10, step_s=0.05, hold_at=5)
    for name in ("one", "two"):
        world.write(f"jobs/{name}.yaml", JOB.format(name=name, volume=VOLUME))
    world.push()
    assert world.cli("volumes", "create", "models", "EU-RO-1", "--json").returncode == 0
    world.tick()
    busy = world.cli("volumes", "delete", "models", "--yes")
    assert busy.returncode == 3 and "is in use by one-" in busy.stderr, busy.stderr
    (row,) = json.loads(world.cli("volumes", "--json").stdout)
    assert len(row["runs"]) == 2 and row["usd_per_month"] == 3.5
    world.let_go()
    world.until(lambda _: all(record.is_over for record in world.records()) and len(world.records()) == 2)
    folder = world.simulator.state_dir / "volumes" / row["id"]
    for name in ("one", "two"):
        record = world.record(name)
        assert record.receipt is not None and record.receipt["outcome"] == "succeeded"
        (checkout,) = (folder / "runs" / record.run_id / "source").iterdir()
        assert checkout.name == record.run["commit"]
        (end,) = (folder / "runs" / record.run_id).glob("attempt-*/ended.json")
        assert json.loads(end.read_text())["state"] == "finished"
    spans = [(_when(world, name, "training"), _when(world, name, "finished")) for name in ("one", "two")]
    assert max(began for began, _ in spans) < min(ended for _, ended in spans), "they were at work at once"
    assert not (folder / "source").exists()

    # What is refused, by exit code and words; and what a sweep by hand leaves.
    assert world.cli("sweep", "--yes").returncode == 0
    for arguments, words in (
        (["delete", "models"], "--yes"),
        (["grow", "models", "20"], "cannot shrink"),
        (["copy", "models", "EU-SE-1"], "no S3 API"),
        (["copy", "absent", "US-KS-2"], "no volume 'absent'"),
        (["get", "models/absent", "x"], "no absent"),
        (["rm", "models"], "all of models"),
        (["rm", f"models/runs/{world.record('one').run_id}"], "deleted only with --yes"),
    ):
        refused = world.cli("volumes", *arguments)
        assert refused.returncode in (1, 2, 3) and words in refused.stderr, refused
    half = folder / ".s3compat_uploads" / "abc"
    half.mkdir(parents=True)
    (half / "key").write_text("half/sent")
    asked = world.cli("volumes", "rm", "models/half")
    assert asked.returncode == 3 and "1 half sent ones are deleted only with --yes" in asked.stderr
    assert world.cli("volumes", "rm", "models/half", "--yes").returncode == 0 and not half.exists()
    keyless = world.cli("volumes", "put", "data", "models/data", RUNPOD_S3_SECRET_KEY="")
    assert keyless.returncode == 3 and "RUNPOD_S3_SECRET_KEY is not set" in keyless.stderr
    wrong = world.cli("volumes", "put", "data", "models/data", RUNPOD_S3_SECRET_KEY="rps_of_somebody_else")
    assert wrong.returncode == 3 and "rps_of_somebody_else" not in wrong.stderr
    assert [it["short_name"] for it in json.loads(world.cli("volumes", "--json").stdout)] == ["models"]
    assert world.cli("volumes", "delete", "models", "--yes").returncode == 0
    world.assert_nothing_left()


def _when(world: World, job: str, state: str) -> float:
    return next(event.epoch_s for event in world.record(job).events if event.state == state)
