"""Many pods at one remote, a remote that is slow, away, or says no: one push an update, nothing lost, all in order."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from git_http import GitHost
from git_world import RUN_ID, Remote, claim, event

from pushtrain.errors import LedgerError, LedgerUnavailable
from pushtrain.events import EventDraft, broken_links
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.pod.shipper import Shipper
from pushtrain.pod.spool import Spool

WRITERS, UPDATES = 16, 4
TOKEN = "canary-secret-token"


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def host(remote: Remote) -> Iterator[GitHost]:
    made = GitHost(remote.folder, remote.env, token=TOKEN, at_once=3, delay_s=0.02)
    yield made
    made.close()


def run_id(number: int) -> str:
    return f"job{number}-01234567-{number:08x}"


def counted(remote: Remote) -> Path:
    """One line for each push that the remote has taken in."""
    taken = remote.folder / "pushes"
    remote.hook("post-receive", f'echo "$$" >> {taken}')
    return taken


def write(ledger: Ledger, number: int, tries: int = 1) -> int:
    """What one pod says; returns how often it was sent away."""
    sent_away = 0
    for turn in range(UPDATES):
        words = {"events": [event("training", writer="pod", message=str(turn))], "log": f"{number}.{turn}\n".encode()}
        for attempt in range(tries):
            try:
                ledger.append(run_id(number), **words)
                break
            except LedgerUnavailable:
                sent_away += 1
                assert attempt < tries - 1
                time.sleep(0.02 * (1 + number % 7))
    return sent_away


def check(ledger: Ledger, record: RunRecord, number: int) -> None:
    assert broken_links(record.events) == []
    assert [event.message for event in record.events[1:]] == [str(turn) for turn in range(UPDATES)]
    assert ledger.text(record, "logs")[0] == b"".join(b"%d.%d\n" % (number, turn) for turn in range(UPDATES))


def test_sixteen_pods_at_once_need_one_push_for_each_update(remote: Remote) -> None:
    first = remote.ledger(url=remote.file_url)
    for number in range(WRITERS):
        claim(first, run_id(number))
    taken = counted(remote)
    ledgers = [remote.ledger(f"cache{number}", url=remote.file_url) for number in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, ledgers, range(WRITERS)))
    assert len(taken.read_text().splitlines()) == WRITERS * UPDATES
    reader = remote.ledger("reader", url=remote.file_url)
    records = reader.read_all(reader.refs())
    for number in range(WRITERS):
        check(reader, records[run_id(number)], number)


def test_a_host_with_few_places_sends_pods_away_and_gets_everything(remote: Remote, host: GitHost) -> None:
    writers = 6
    url = f"{host.url}/remote.git"
    first = remote.ledger(url=url, token=TOKEN)
    for number in range(writers):
        claim(first, run_id(number))
    taken, claims = counted(remote), host.pushes
    ledgers = [remote.ledger(f"cache{number}", url=url, token=TOKEN) for number in range(writers)]
    with ThreadPoolExecutor(writers) as pool:
        sent_away = sum(pool.map(partial(write, tries=200), ledgers, range(writers)))
    assert host.most <= 3 and host.busy > 0 and sent_away > 0
    assert len(taken.read_text().splitlines()) == host.pushes - claims == writers * UPDATES
    records = first.read_all(first.refs())
    for number in range(writers):
        check(first, records[run_id(number)], number)


def test_a_token_that_is_not_taken_and_a_host_that_is_ill_are_told_apart(remote: Remote, host: GitHost) -> None:
    url = f"{host.url}/remote.git"
    with pytest.raises(LedgerError) as caught:
        claim(remote.ledger(url=url, token="canary-secret-other"))
    assert caught.type is LedgerError and "canary" not in str(caught.value)
    for status, kind in ((403, LedgerError), (404, LedgerError), (500, LedgerUnavailable), (503, LedgerUnavailable)):
        host.status = status
        with pytest.raises(LedgerError) as caught:
            claim(remote.ledger(url=url, token=TOKEN))
        assert caught.type is kind, status
    host.status = 0
    claim(remote.ledger(url=url, token=TOKEN))


def test_a_remote_that_is_down_for_ten_minutes_stops_no_training(remote: Remote, tmp_path: Path) -> None:
    """A tick is 5 ms here and 1 s on a pod: 600 ticks. The trainer only ever writes files, and never waits."""
    folder, tick_s = tmp_path / "attempt-1", 0.005
    folder.mkdir()
    ledger = remote.ledger()
    claim(ledger)
    spool = Spool(folder, attempt=1, clean=str)
    shipper = Shipper(spool, partial(remote.ledger("pod").append, RUN_ID), every_s=tick_s * 6, tick_s=tick_s)
    longest, stop = [0.0], threading.Event()

    def trainer() -> None:
        with (folder / "trainer.log").open("a") as log, (folder / "metrics.jsonl").open("a") as metrics:
            for step in range(1, 100_000):
                began_s = time.monotonic()
                log.write(f"step {step}\n")
                metrics.write(json.dumps({"step": step}) + "\n")
                log.flush(), metrics.flush()
                longest[0] = max(longest[0], time.monotonic() - began_s)
                if stop.wait(tick_s):
                    return

    training = threading.Thread(target=trainer)
    training.start()
    shipper.start()
    said = []
    for state in ("booting", "environment", "training"):
        said.append(state)
        shipper.say(EventDraft(state=state, writer="pod", attempt=1))
    remote.order("down")
    until_s = time.monotonic() + 600 * tick_s
    while time.monotonic() < until_s:
        said.append("evaluating")
        shipper.say(EventDraft(state="evaluating", writer="pod", attempt=1, message=str(len(said))))
        time.sleep(60 * tick_s)
    assert len(remote.ledger("control", url=remote.file_url).read(RUN_ID).events) < 5, "it was down"
    remote.order("well")
    stop.set()
    training.join(150)
    assert shipper.finish(EventDraft(state="finished", writer="pod", attempt=1), {}, timeout_s=150)
    record = ledger.read(RUN_ID)
    assert broken_links(record.events) == []
    assert [event.state for event in record.events] == ["claimed", *said, "finished"]
    assert ledger.text(record, "logs")[0] == (folder / "trainer.log").read_bytes()
    steps = [json.loads(line)["step"] for line in ledger.text(record, "metrics")[0].splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 100
    assert longest[0] < 10.0, "a git that waits would hold it for 30"


def test_a_remote_whose_rules_say_no_is_told_once_a_try_and_left_at_the_end(remote: Remote, tmp_path: Path) -> None:
    folder = tmp_path / "attempt-1"
    folder.mkdir()
    claim(remote.ledger(url=remote.file_url))
    remote.hook("pre-receive", 'echo "GH006: Protected branch update failed" >&2; exit 1')
    ledger = remote.ledger("pod", url=remote.file_url)
    shipper = Shipper(Spool(folder, attempt=1, clean=str), partial(ledger.append, RUN_ID), every_s=1, tick_s=0.001)
    shipper.start()
    shipper.say(EventDraft(state="booting", writer="pod", attempt=1))
    began_s = time.monotonic()
    assert not shipper.finish(EventDraft(state="finished", writer="pod", attempt=1), {}, timeout_s=1.5)
    assert time.monotonic() - began_s < 60
    (remote.path / "hooks" / "pre-receive").unlink()
    assert shipper.finish(EventDraft(state="finished", writer="pod", attempt=1), {}, timeout_s=150)
    states = [event.state for event in remote.ledger(url=remote.file_url).read(RUN_ID).events]
    assert states == ["claimed", "booting", "finished", "finished"]
