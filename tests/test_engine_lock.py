"""Whose a lock is: a dead process's only on proof, whatever host names and process ids happen to be the same."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.pulumi_lock import STALE_S, Calls, Owner, owners
from pushtrain.errors import StackLocked

HERE = socket.gethostname()
# What CLI 3.259.0 printed.
SAID = """ code: 255
 stdout:
 stderr: error: the stack is currently locked by 2 lock(s). Either wait for the other process(es) to end or delete the \
lock file with `pulumi cancel`.
  file:///s/.pulumi/locks/organization/pushtrain/run-x/0d4.json: created by root@box (pid 17) at 2026-11-21T16:00:00Z
  s3://****:****@b/.pulumi/locks/x.json: created by ci@runner-7 (pid 4711) at 2026-11-21T17:00:00+01:00
"""


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    started = subprocess.Popen(["sleep", "60"])
    yield started
    started.kill()
    started.wait()


def owner(pid: int, *, host: str = HERE, since_s: float | None = None) -> Owner:
    return Owner(user="root", host=host, pid=pid, since_s=since_s)


def test_the_owners_are_read_from_what_the_cli_prints() -> None:
    first, second = owners(SAID)
    assert (first.user, first.host, first.pid) == ("root", "box", 17)
    assert (second.user, second.host, second.pid) == ("ci", "runner-7", 4711)
    assert first.since_s is not None and first.since_s == second.since_s
    assert first.described(first.since_s + 720) == "root@box (process 17, for 12 min)"
    assert owners("[409] Conflict: Another update is currently in progress.") == []


def test_a_process_of_ours_is_dead_when_it_is_gone_and_never_before(
    process: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    calls = Calls(tmp_path / "calls")
    assert not calls.is_dead("s", owner(process.pid)), "nobody wrote down that it was started here"
    call = calls.begin("s", process.pid, "mark")
    assert not calls.is_dead("s", owner(process.pid))
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert calls.is_dead("s", owner(process.pid)), "a zombie works no more"
    assert not calls.may_work(owner(process.pid), now_s=0.0)
    process.wait()
    assert calls.is_dead("s", owner(process.pid))
    assert not calls.is_dead("s", owner(process.pid, host="another"))
    assert not calls.is_dead("another stack", owner(process.pid))
    calls.end(call, held_lock=False)
    assert not calls.is_dead("s", owner(process.pid))


@pytest.mark.parametrize(
    ("changed", "dead"),
    [
        ({}, False),
        ({"started": "1"}, True),
        ({"namespace": "pid:[1]"}, False),
        ({"namespace": "pid:[1]", "started": "1"}, False),
        ({"boot": "an earlier one"}, True),
        ({"boot": "an earlier one", "machine": "another"}, False),
        ({"boot": "an earlier one", "machine": ""}, False),
    ],
    ids=str,
)
def test_the_same_process_id_may_be_somebody_else(
    changed: dict[str, str],
    dead: bool,
    process: "subprocess.Popen[bytes]",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("infra.pulumi_lock._machine", lambda: "this machine")
    calls = Calls(tmp_path)
    record = calls.begin("s", process.pid, "mark").path
    known = json.loads(record.read_text())
    record.write_text(json.dumps(known | {"process": known["process"] | changed}))
    assert calls.is_dead("s", owner(process.pid)) is dead


def test_who_held_the_lock_makes_the_records_of_the_dead_before_it_void(
    process: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    calls = Calls(tmp_path)
    dead = subprocess.Popen(["true"])
    for stack, pid in (("s", dead.pid), ("another", dead.pid), ("s", process.pid)):
        calls.begin(stack, pid, "mark")
    dead.wait()
    mine = calls.begin("s", os.getpid(), "mark")
    calls.end(mine, held_lock=False)
    assert calls.is_dead("s", owner(dead.pid)), "a call that was refused the lock says nothing of the one who has it"
    calls.end(calls.begin("s", os.getpid(), "mark"), held_lock=True)
    assert not calls.is_dead("s", owner(dead.pid)) and calls.is_dead("another", owner(dead.pid))
    left = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert sorted((it["stack"], it["process"]["pid"]) for it in left) == [("another", dead.pid), ("s", process.pid)]


def test_a_record_nobody_can_read_proves_nothing(tmp_path: Path) -> None:
    for name, text in (("a.json", '{"pid": 17, "sta'), ("b.json", '{"pid": 17}'), ("c.json", "[]")):
        (tmp_path / name).write_text(text)
    assert not Calls(tmp_path).is_dead("s", owner(17))


def test_an_owner_elsewhere_may_work_until_its_lock_is_very_old(
    process: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    calls = Calls(tmp_path)
    assert calls.may_work(owner(1, host="runner-7", since_s=0.0), STALE_S - 1)
    assert not calls.may_work(owner(1, host="runner-7", since_s=0.0), STALE_S)
    assert calls.may_work(owner(process.pid, since_s=0.0), 1.0)
    process.kill()
    process.wait()
    assert not calls.may_work(owner(process.pid, since_s=0.0), 1.0)


def test_one_process_at_a_time_breaks_a_lock(tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    with calls.alone("run-x"):
        with pytest.raises(StackLocked) as refused, calls.alone("run-x"):
            pass
        assert refused.value.passing
        with calls.alone("run-y"):
            pass
    with calls.alone("run-x"):
        pass
    assert not list(tmp_path.iterdir())
