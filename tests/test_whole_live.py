"""`logs -f`, `attach` and `top` against a run that trains on a simulated pod, with the real ssh and tmux."""

import json
import os
import select
import shutil
import time
from pathlib import Path

import pytest
from recipe_runner import Command, Terminal, terminal_env
from ssh_world import needs_clients
from whole import World

pytest_plugins = ("whole", "ssh_world")
pytestmark = needs_clients


def test_top_shows_every_pod_with_its_dollars(guest: World) -> None:
    run = guest.newest()
    assert run is not None
    said = guest.cli("top", "--json")
    (row,) = [row for row in json.loads(said.stdout) if row["run_id"] == run.run_id]
    assert row["gpu"] == "NVIDIA A40" and row["usd_per_hour"] == pytest.approx(0.406, abs=0.01)
    assert row["state"] == "training" and row["cap_usd"] == 1.0 and row["pod_id"] and row["step"] is not None
    table = guest.cli("top", "--once", COLUMNS="200").stdout
    assert "1 pods, $0.41 an hour together" in table and run.run_id in table


def test_top_refreshes_until_ctrl_c(guest: World, tmp_path: Path) -> None:
    terminal = Terminal(guest.repository, terminal_env(tmp_path, guest.env))
    terminal._run(Command(line="pushtrain top --every 4", typed=("Ctrl-C",), output=("1 pods",)))


def test_what_is_followed_as_json_is_a_document_a_line(guest: World) -> None:
    started = guest.start_cli("logs", "-f", "job", "--json", PUSHTRAIN_TICK_S="60")
    try:
        said = _read_until(started.stdout, '"system"', 30.0)
    finally:
        started.kill()
        started.communicate()
    kinds = {next(iter(json.loads(line))) for line in said.splitlines()[:-1]}
    assert {"event", "log"} <= kinds <= {"event", "log", "system"}


def test_logs_are_followed_from_the_clouds_stream_no_line_twice(guest: World) -> None:
    """The ledger is looked at every minute here: what comes sooner came from the stream."""
    run = guest.newest()
    assert run is not None
    started = guest.start_cli("logs", "-f", "job", PUSHTRAIN_TICK_S="60")
    try:
        said = _read_until(started.stdout, "watchdog", 30.0)
    finally:
        started.kill()
        started.communicate()
    assert said.count("attempt 1 from step 0\n") == 1, "in the ledger's log and in the stream's"
    assert "boot: fetched commit" in said, "which only the container's own log has"
    assert "[cloud] " in said and "[control 1] claimed" in said


@pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")
def test_attach_shows_the_output_of_a_training_and_ctrl_b_d_leaves_it(guest: World, tmp_path: Path) -> None:
    terminal = Terminal(guest.repository, terminal_env(tmp_path, guest.env))
    terminal._run(Command(line="pushtrain attach job", typed=("Ctrl-B d",), output=("Ctrl-b d leaves it", "[detached")))
    assert "HF_HUB_DISABLE_PROGRESS_BARS" in terminal.said, "the end of the log"


def _read_until(stream: object, word: str, timeout_s: float) -> str:
    """What a process printed, until `word` is in it or nothing new came for two seconds after the first."""
    give_up_s, said = time.monotonic() + timeout_s, ""
    fd = stream.fileno()  # type: ignore[attr-defined]
    while time.monotonic() < give_up_s and word not in said:
        if select.select([fd], [], [], 3.0 if "attempt 1" in said else timeout_s)[0]:
            said += os.read(fd, 65536).decode()
        elif "attempt 1" in said:
            break
    return said
