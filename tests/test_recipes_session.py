"""docs/sessions.md, played word for word against the simulator, with the real ssh, tmux and git."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from recipe_runner import Terminal, terminal_env
from ssh_world import needs_clients
from whole import World, end, make_world

PAGE = Path(__file__).parents[1] / "docs" / "sessions.md"
pytestmark = [
    needs_clients,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here"),
]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """The page's own job, not yet committed, in a clone that follows its remote."""
    made = make_world(tmp_path)
    made.push()
    made.git("branch", "-q", "--set-upstream-to=origin/main", "main")
    spec = re.search(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert spec is not None
    made.write("jobs/dev.yaml", spec[1])
    try:
        yield made
    finally:
        made.close()


@pytest.mark.timeout(900)  # some twenty commands, each a start of pushtrain, and the ends of two runs
def test_the_page_works_as_it_is_written(world: World, tmp_path: Path) -> None:
    def before(line: str) -> None:
        if line.startswith("pushtrain attach"):
            world.until(lambda record: record.last.state == "training", timeout_s=150)
        if line.startswith("pushtrain ssh dev -- 'ls"):
            guests = [world.start_cli("ssh", "dev", "--", "sleep 3") for _ in range(2)]
            codes = [guest.wait(150) for guest in guests]  # what was started in tmux takes two seconds
            assert codes == [0, 0]

    terminal = Terminal(world.repository, terminal_env(tmp_path, world.env), before=before)
    try:
        said = terminal.play(PAGE)
    finally:
        terminal.close()
    assert "done-while-away" in said and "made.py" in said
    first = next(record for record in world.records() if not record.run_id.endswith("-r2"))
    assert end(first) == ("succeeded", "SessionClosed")
    assert first.result is not None and first.result["session"]["branch"] == "session/dev"
    log = world.control().ledger.text(first, "logs")[0].decode()
    assert "in use: 2 ssh connections" in log, "two people on one session"
    over = world.cli("attach", "dev")
    assert over.returncode == 0 and "is over" in over.stderr and "closed" in over.stdout, "its log instead"
    again = next(record for record in world.records() if record.run_id.endswith("-r2"))
    assert end(again)[0] == "cancelled"
    world.assert_nothing_left()
