"""Nothing the trainer says is lost or said twice: spool and shipper."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pod_bench import wait_for

from pushtrain.errors import LedgerError, LedgerUnavailable
from pushtrain.events import EventDraft
from pushtrain.pod.shipper import Shipper
from pushtrain.pod.spool import CHUNK_BYTES, LOG_CAP_BYTES, TAIL_BYTES, Spool


def spool_in(folder: Path) -> Spool:
    return Spool(folder, attempt=1, clean=lambda text: text.replace("canary-secret", "***"))


def draft(state: str) -> EventDraft:
    return EventDraft(state=state, writer="pod", attempt=1)


def event_line(state: str, **more: Any) -> str:
    return json.dumps({"time": 1.5, "state": state, **more}) + "\n"


def test_events_keep_their_order_and_only_states_of_a_trainer_count(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.say(draft("booting"))
    text = event_line("preparing", message="canary-secret", data={"loss": float("nan"), "deep": ["canary-secret"]})
    (tmp_path / "events.jsonl").write_text(text + "not json\n" + event_line("finished") + event_line("training")[:-5])
    batch = spool.gather()
    assert batch is not None and [event.state for event in batch.events] == ["booting", "preparing"]
    assert batch.events[1].message == "***" and batch.events[1].data == {"loss": None, "deep": ["***"]}
    assert batch.events[1].time == "1970-01-01T00:00:01.500Z"


def test_nothing_moves_on_before_a_batch_has_landed_and_a_restart_goes_on_there(tmp_path: Path) -> None:
    (tmp_path / "trainer.log").write_text("one\ntwo\nhalf")
    (tmp_path / "events.jsonl").write_text(event_line("preparing"))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2')
    spool = spool_in(tmp_path)
    first = spool.gather()
    assert first == spool.gather() and first is not None
    assert (first.log, first.metrics) == (b"one\ntwo\n", b'{"step": 1, "loss": null}\n')
    assert spool_in(tmp_path).gather() == first, "a container that dies before the push sends it all again"
    spool.landed(first)
    assert spool.gather() is None
    again = spool_in(tmp_path)
    with (tmp_path / "trainer.log").open("a") as log:
        log.write(" line\n")
    after = again.gather()
    assert after is not None and (after.log, after.events, after.metrics) == (b"half line\n", (), b"")


def test_at_the_end_unfinished_lines_count_and_the_last_event_waits_for_the_logs(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    (tmp_path / "trainer.log").write_bytes((b"x" * 99 + b"\n") * (CHUNK_BYTES // 50) + b"no newline")
    spool.say(draft("finished"), {"result.json": b"{}"}, is_last=True)
    batches = []
    while batch := spool.gather(at_end=True):
        batches.append(batch)
        spool.landed(batch)
    assert [len(batch.events) for batch in batches] == [0] * (len(batches) - 1) + [1] and len(batches) > 2
    assert b"".join(batch.log for batch in batches) == (tmp_path / "trainer.log").read_bytes()
    assert batches[-1].files == {"result.json": b"{}"} and not batches[0].files


def test_a_log_beyond_the_cap_leaves_out_its_middle_and_says_how_much(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    with (tmp_path / "trainer.log").open("wb") as log:
        log.truncate(LOG_CAP_BYTES + 1_000_000)
        log.seek(0, 2)
        log.write(b"\nlast words\n")
    sent = 0
    while batch := spool.gather():
        sent += len(batch.log)
        spool.landed(batch)
    assert LOG_CAP_BYTES <= sent < LOG_CAP_BYTES + CHUNK_BYTES
    last = spool.gather(at_end=True)
    assert last is not None and last.log.endswith(b"\nlast words\n") and b"left out here]" in last.log[:60]
    assert len(last.log) < TAIL_BYTES + 100
    spool.landed(last)
    assert spool.gather(at_end=True) is None


class Remote:
    """Stands where `Ledger.append` stands: keeps what it takes, fails while `away`."""

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.taken: list[tuple[list[str], bytes]] = []
        self.tried: list[Any] = []

    def __call__(
        self, *, events: tuple[EventDraft, ...], log: bytes, metrics: bytes, files: Mapping[str, bytes]
    ) -> str:
        self.tried.append((events, log, metrics, dict(files)))
        if self.away:
            raise self.away
        self.taken.append(([event.state for event in events], log))
        return "tip"


def test_events_go_at_once_and_logs_wait_for_their_time(tmp_path: Path) -> None:
    remote = Remote()
    shipper = Shipper(spool_in(tmp_path), remote, every_s=0.6, tick_s=0.01)
    shipper.start()
    began = time.monotonic()
    shipper.say(draft("booting"))
    wait_for(lambda: remote.taken)
    assert time.monotonic() - began < 0.4
    (tmp_path / "trainer.log").write_text("a line\n")
    time.sleep(0.2)
    assert len(remote.taken) == 1
    wait_for(lambda: len(remote.taken) == 2)
    assert remote.taken[1] == ([], b"a line\n") and time.monotonic() - began >= 0.6
    time.sleep(0.8)
    assert len(remote.taken) == 2, "nothing new, nothing pushed"
    assert shipper.finish(draft("finished"), {}, timeout_s=5)


@pytest.mark.parametrize("error", [LedgerUnavailable("no route"), LedgerError("403"), ValueError("a bug")])
def test_an_outage_retries_the_same_batch_and_never_waits_in_the_caller(tmp_path: Path, error: Exception) -> None:
    remote = Remote()
    remote.away = error
    shipper = Shipper(spool_in(tmp_path), remote, every_s=0.01, tick_s=0.01)
    shipper.start()
    began = time.monotonic()
    for state in ("booting", "environment", "training"):
        shipper.say(draft(state))
        (tmp_path / "trainer.log").write_text(f"before {state}\n")
    assert time.monotonic() - began < 0.5
    wait_for(lambda: len(remote.tried) >= 3)
    assert remote.tried[0] == remote.tried[1] == remote.tried[2]
    remote.away = None
    assert shipper.finish(draft("finished"), {}, timeout_s=5)
    assert [state for states, _ in remote.taken for state in states] == [
        "booting",
        "environment",
        "training",
        "finished",
    ]


def test_the_last_effort_is_bounded(tmp_path: Path) -> None:
    remote = Remote()
    remote.away = LedgerUnavailable("no route")
    shipper = Shipper(spool_in(tmp_path), remote, every_s=60, tick_s=0.01)
    shipper.start()
    began = time.monotonic()
    assert not shipper.finish(draft("finished"), {}, timeout_s=0.3)
    assert time.monotonic() - began < 2
    remote.away = None
    assert shipper.finish(draft("finished"), {}, timeout_s=5)
