"""docs/ssh.md, word for word."""

import re
from pathlib import Path

import pytest
from recipe_runner import Terminal, terminal_env
from ssh_world import has_door, needs_clients, register
from whole import PROJECT, World

pytest_plugins = ("whole",)


@needs_clients
@pytest.mark.timeout(900)  # some thirty commands, each a start of pushtrain
def test_every_command_of_the_page_does_what_it_says(world: World) -> None:
    world.orders(steps=100_000, step_s=0.1)
    register(world)
    world.simulator.fault("no_public_ip", times=None, pod_name="*-far-job-*")
    world.env["PATH"] = f"{world.simulator.state_dir}/bin:{world.env['PATH']}"
    for name in ("my-job", "far-job"):
        world.write_job(name)
    world.push()
    world.write("rows.jsonl", "{}\n")
    world.write("notebooks/a.ipynb", "{}")
    world.write("notebooks/b.tmp", "")

    def before(line: str) -> None:
        if line.startswith("pushtrain ssh my-job -- 'pwd"):
            world.until(lambda _: has_door(world.record("my-job")), timeout_s=150)
            world.until(lambda _: world.record("far-job").last.writer == "pod", timeout_s=150)

    terminal = Terminal(world.repository, terminal_env(world.folder, world.env), before=before, timeout_s=180)
    try:
        terminal.play(PROJECT / "docs" / "ssh.md")
    finally:
        terminal.close()
    got = world.repository / "results"
    assert (got / "data" / "rows.jsonl").read_text() == "{}\n"
    assert not (Path(world.env["HOME"]) / ".ssh" / "pushtrain" / "config").exists()
    assert (world.repository / "back" / "notebooks" / "a.ipynb").read_text() == "{}"
    assert not re.search(r"\d{4}-[a-z]+-[a-z]+-[a-z]+-\d", terminal.said), "no code is told"
    assert "the tunnel is closed; the pod goes on" in terminal.said
    world.assert_nothing_left()
