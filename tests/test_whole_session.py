"""Whole sessions on simulated pods, all at once, with real git and a real tmux: each ends for a reason of its own."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from whole import CANARY, World, end, make_world

from pushtrain import climb
from pushtrain.gitcmd import git
from pushtrain.ledger import RunRecord

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")

SPEC = """\
version: 1
name: {name}
task: session
session: {{{session}, tensorboard: {tensorboard}}}
compute: {{gpus: [NVIDIA A40], volume: {{size_gb: 10}}}}
budget: {{max_hours: 1, max_usd: {usd}}}
"""
SESSIONS = {
    "idle": "idle_minutes: 0.08",
    "closed": "idle_minutes: 30, start: [sh, -c, 'echo started > started.txt; exit 3']",
    "cancelled": "idle_minutes: 30, secrets: [HF_TOKEN]",
    "deleted": "idle_minutes: 30, branch: kept",
    "lost": "idle_minutes: 0.2, autosave_minutes: 30",
    "preempted": "idle_minutes: 0.2, autosave_minutes: 30",
    "spent": "idle_minutes: 30",
    "working": "idle_minutes: 0.08, start: [sleep, '12']",
}


class Sessions:
    """What a test does on the pods of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.control = world.control()

    def record(self, name: str) -> RunRecord:
        return self.world.record(name)

    def log(self, name: str) -> str:
        return self.control.ledger.text(self.record(name), "logs")[0].decode()

    def is_open(self, name: str, attempt: int = 1) -> bool:
        events = self.record(name).events
        return any(event.state == "training" and event.attempt == attempt for event in events)

    def work(self, name: str) -> Path:
        (found,) = self.world.simulator.state_dir.glob(f"volumes/*/runs/{self.record(name).run_id}/work")
        return found

    def typed(self, name: str, line: str) -> None:
        """Into the tmux of the newest pod of a session, as whoever is attached would."""
        pod = self.world.pods_made(self.record(name))[-1]["id"]
        env = self.world.env | {"TMUX_TMPDIR": f"/tmp/pt-{pod}"}
        keys = ["tmux", "send-keys", "-t", "pushtrain:work", line, "Enter"]
        subprocess.run(keys, env=env, check=True, timeout=150)

    def until(self, wanted: Callable[[], object], timeout_s: float = 150.0) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not wanted():
            assert time.monotonic() < give_up_s, self.told()
            self.world.tick(self.control)
            time.sleep(0.2)

    def told(self) -> str:
        """For whoever reads why a test took too long."""
        active = [record for record in self.world.records() if not record.is_over]
        return "\n".join(f"{it.run_id}: {it.last}\n{self.log(str(it.run['job']))[-2000:]}" for it in active)

    def branch(self, name: str) -> dict[str, str]:
        """Files of the branch that a session's result names, at the remote."""
        result = self.record(name).result
        assert result is not None
        return self.files(result["session"]["branch"])

    def files(self, branch: str) -> dict[str, str]:
        names = self._git("ls-tree", "-r", "--name-only", branch).splitlines()
        return {path: self._git("show", f"{branch}:{path}") for path in names if "/" not in path}

    def _git(self, *args: str) -> str:
        remote = self.world.folder / "remote.git"
        return git(list(args), env=self.world.env, cwd=remote).stdout.decode().strip()


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """Every session above at its end: one pod is lost, one run cancelled, one spec deleted on the way."""
    world = make_world(tmp_path_factory.mktemp("session"))
    world.env |= {"PUSHTRAIN_GRACE_S": "12", "PUSHTRAIN_POD_TICK_S": "0.5"}  # so many pods at once
    for name, session in SESSIONS.items():
        usd = 0.003 if name == "spent" else 1
        world.write(
            f"jobs/{name}.yaml",
            SPEC.format(name=name, session=session, usd=usd, tensorboard=str(name == "closed").lower()),
        )
    world.push()
    made = Sessions(world)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(climb, "LEAST_USEFUL_S", 1.0)
            _play(made)
        yield made
        world.assert_no_secret()
    finally:
        world.close()


def _play(sessions: Sessions) -> None:
    world = sessions.world
    sessions.until(lambda: len(world.records()) == len(SESSIONS))
    worked_on = ("closed", "cancelled", "deleted", "lost", "preempted")
    sessions.until(lambda: all(sessions.is_open(name) for name in worked_on))
    for name in worked_on:
        (sessions.work(name) / "mine.txt").write_text(f"work of {name}\n")
    (pod,) = world.pods_made(sessions.record("lost"))
    world.simulator.fault("lost_pod", seconds=0.0, pod_id=pod["id"])  # without the moment in which it could say so
    (pod,) = world.pods_made(sessions.record("preempted"))
    (first,) = (pid for pid in pod["processes"] if _command_line(pid).startswith(b"bash\0-c\0"))
    os.kill(first, signal.SIGTERM)
    sessions.typed("cancelled", "env > environment.txt; echo done > typed.txt")
    sessions.until(lambda: (sessions.work("cancelled") / "typed.txt").exists())
    sessions.typed("closed", "exit-session")
    assert world.cli("cancel", "cancelled").returncode == 0
    (world.repository / "jobs" / "deleted.yaml").unlink()
    world.push()
    sessions.until(lambda: all(record.is_over for record in world.records()), 90)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it ended meanwhile


def test_a_session_that_nobody_uses_ends_by_itself(sessions: Sessions) -> None:
    record = sessions.record("idle")
    assert end(record) == ("succeeded", "SessionIdle")
    states = [event.state for event in record.events if event.writer == "pod"]
    assert states == ["booting", "environment", "preparing", "training", "publishing", "finished"]
    finished = record.events[-3]
    assert (
        finished.state == "finished" and f"git fetch {sessions.world.env['PUSHTRAIN_SOURCE_URL']}" in finished.message
    )
    assert record.result is not None and record.result["session"]["commit"] == record.run["commit"]
    assert "no ssh connection, no GPU use and no running command" in finished.message


def test_a_command_in_tmux_keeps_a_session_open_until_it_ends(sessions: Sessions) -> None:
    record, log = sessions.record("working"), sessions.log("working")
    assert end(record) == ("succeeded", "SessionIdle")
    opened, ended = (
        next(it.epoch_s for it in record.events if it.state == state) for state in ("training", "publishing")
    )
    assert ended - opened > 12, "sleep 12 was at work, without a word and without a GPU"
    assert "in use: sleep in tmux" in log and "session.start ended with exit code 0" in log


def test_exit_session_pushes_what_is_not_committed_and_ends(sessions: Sessions) -> None:
    record = sessions.record("closed")
    assert end(record) == ("succeeded", "SessionClosed")
    files = sessions.branch("closed")
    assert files["mine.txt"] == "work of closed" and files["started.txt"] == "started"
    assert "session.start ended with exit code 3" in sessions.log("closed")


def test_a_cancelled_session_pushes_its_branch_first(sessions: Sessions) -> None:
    record = sessions.record("cancelled")
    assert end(record) == ("cancelled", "CancelledByHand")
    states = [event.state for event in record.events]
    assert states.index("cancelled") < states.index("finished") < states.index("destroying")
    files = sessions.branch("cancelled")
    assert files["mine.txt"] == "work of cancelled" and files["typed.txt"] == "done"
    assert "environment.txt" not in files, "it holds the value of a secret"
    assert record.result is not None and "environment.txt" in record.result["session"]["left_out"]


def test_a_session_whose_spec_is_deleted_pushes_its_branch_first(sessions: Sessions) -> None:
    record = sessions.record("deleted")
    assert end(record) == ("cancelled", "SpecDeleted")
    assert record.result is not None and record.result["session"]["branch"] == "session/kept"
    assert sessions.branch("deleted")["mine.txt"] == "work of deleted"


def test_a_lost_pod_opens_the_session_again_with_the_work_tree_as_it_was(sessions: Sessions) -> None:
    record = sessions.record("lost")
    assert end(record) == ("succeeded", "SessionIdle") and record.receipt is not None
    assert [row["ended"] for row in record.receipt["history"]] == ["PodLost", "SessionIdle"]
    assert sessions.is_open("lost", 2) and "as the attempt before left it" in sessions.log("lost")
    assert sessions.branch("lost")["mine.txt"] == "work of lost"


def test_a_session_that_is_stopped_from_outside_pushes_first_and_opens_again(sessions: Sessions) -> None:
    record, log = sessions.record("preempted"), sessions.log("preempted")
    assert record.receipt is not None
    assert [row["ended"] for row in record.receipt["history"]] == ["Preempted", "SessionIdle"]
    assert log.index("1 files of it not committed") < log.index("as the attempt before left it")
    assert sessions.branch("preempted")["mine.txt"] == "work of preempted"


def test_a_session_ends_with_its_budget(sessions: Sessions) -> None:
    record = sessions.record("spent")
    assert end(record) == ("succeeded", "DeadlineReached")
    assert record.result is not None
    assert record.result["session"]["branch"] == f"session/{record.run_id}"


def test_the_shells_of_a_session_have_no_secret_but_the_named_one(sessions: Sessions) -> None:
    record = sessions.record("closed")
    assert CANARY not in sessions.log("closed") and record.receipt is not None
    assert not list(Path("/tmp").glob(f"pt-{sessions.world.pods_made(record)[0]['id']}"))
