"""docs/ssh.md, word for word."""

from pathlib import Path

from recipe_runner import Terminal, terminal_env
from ssh_world import has_door, needs_clients, register
from whole import PROJECT, World

pytest_plugins = ("whole",)


@needs_clients
def test_every_command_of_the_page_does_what_it_says(world: World) -> None:
    world.orders(steps=10_000, step_s=0.1)
    register(world)
    world.write_job("my-job")
    world.push()
    world.write("rows.jsonl", "{}\n")
    world.write("notebooks/a.ipynb", "{}")
    world.write("notebooks/b.tmp", "")

    def before(line: str) -> None:
        if line.startswith("pushtrain ssh my-job -- 'pwd"):
            world.until(has_door)

    terminal = Terminal(world.repository, terminal_env(world.folder, world.env), before=before)
    try:
        terminal.play(PROJECT / "docs" / "ssh.md")
    finally:
        terminal.close()
    got = world.repository / "results"
    assert (got / "data" / "rows.jsonl").read_text() == "{}\n"
    assert not (Path(world.env["HOME"]) / ".ssh" / "pushtrain" / "config").exists()
    assert "the tunnel is closed; the pod goes on" in terminal.said
    world.assert_nothing_left()
