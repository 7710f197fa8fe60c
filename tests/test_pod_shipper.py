"""Nothing the trainer says is lost or said twice: spool and shipper."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pod_bench import wait_for

from pushtrain.bounds import RESULT_BYTES
from pushtrain.errors import LedgerError, LedgerUnavailable
from pushtrain.events import EventDraft
from pushtrain.gitcmd import REFUSED
from pushtrain.listing import log_texts
from pushtrain.pod.rotation import CHUNK_BYTES, GAP_LINE, LOG_CAP_BYTES, METRICS_CAP_BYTES, PULSE_BYTES, TAIL_BYTES
from pushtrain.pod.shipper import PATIENT_REFUSALS, PUSHES_AT_FULL_PACE, Shipper, pause_s
from pushtrain.pod.spool import EVENTS_PER_ATTEMPT, Batch, Spool


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


def all_of(spool: Spool, *, at_end: bool = False) -> list[Batch]:
    batches = []
    while batch := spool.gather(at_end=at_end):
        batches.append(batch)
        spool.landed(batch)
    return batches


def checked(log: bytes, source: bytes) -> tuple[bytes, int]:
    """The log with each gap filled from the volume's file, whose bytes have the digest the gap says; and the gaps."""
    gaps = list(GAP_LINE.finditer(log.decode()))
    for gap in gaps:
        part = source[int(gap["begin"]) : int(gap["end"])]
        assert (len(part), hashlib.sha256(part).hexdigest()) == (int(gap["bytes"]), gap["sha256"])
        log = log.replace(gap[0].encode() + b"\n", part)
    return log, len(gaps)


def test_a_log_beyond_the_cap_goes_on_in_samples_and_says_what_is_between(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    spool = spool_in(tmp_path)
    line = b"a line of a chatty trainer, %08d\n"
    path.write_bytes(b"".join(line % number for number in range(LOG_CAP_BYTES // len(line % 0) + 1)))
    sent = [batch.log for batch in all_of(spool)]
    assert LOG_CAP_BYTES <= sum(map(len, sent)) < LOG_CAP_BYTES + CHUNK_BYTES and not GAP_LINE.search(
        b"".join(sent).decode()
    )
    for turn in range(3):
        with path.open("ab") as log:
            log.write(b"".join(line % (turn * 10_000 + number) for number in range(3000)) + b"newest %d\n" % turn)
        (pulse,) = all_of(spool)
        assert pulse.log.endswith(b"\nnewest %d\n" % turn) and len(pulse.log) < PULSE_BYTES + 300
        sent.append(pulse.log)
    with path.open("ab") as log:
        log.write(b"x" * 200_000 + b"\n" + b"a traceback\n" * 3000 + b"last words")
    (last,) = all_of(spool, at_end=True)
    assert last.log.endswith(b"a traceback\nlast words") and PULSE_BYTES < len(last.log) < TAIL_BYTES + 300
    assert spool.gather(at_end=True) is None
    assert checked(b"".join([*sent, last.log]), path.read_bytes()) == (path.read_bytes(), 4)


def test_a_gap_is_shown_plainly(tmp_path: Path) -> None:
    (tmp_path / "trainer.log").write_text("one\ntwo\n")
    spool = spool_in(tmp_path)
    batch = spool.gather()
    assert batch is not None
    text = "before\n" + spool.lighter(batch, "push declined [GH013]", is_last_resort=False).log.decode() + "after\n"
    digest = hashlib.sha256(b"one\ntwo\n").hexdigest()
    name = f"{tmp_path.name}/trainer.log"
    shown = f"8 bytes of the log are not in the ledger, push declined [GH013) ({name}, bytes 0 to 8, SHA-256 {digest})"
    assert list(log_texts(text, as_json=False)) == ["before\n", f"── {shown}\n", "after\n"]
    before, gap, after = (json.loads(line) for line in log_texts(text, as_json=True))
    assert (before, after) == ({"log": "before\n"}, {"log": "after\n"})
    place = {"bytes": 8, "begin": 0, "end": 8, "name": name, "sha256": digest}
    assert gap == {"gap": place | {"why": "push declined [GH013)"}}


def test_metrics_beyond_the_cap_keep_their_newest_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    row = b'{"step": %7d, "loss": 0.5}\n'
    sent = METRICS_CAP_BYTES // len(row % 0) + 1
    path.write_bytes(b"".join(row % step for step in range(sent + 9000)))
    (tmp_path / "shipped.json").write_text(json.dumps({"metrics.jsonl": sent * len(row % 0)}))
    spool = spool_in(tmp_path)
    (last,) = all_of(spool)
    rows = [json.loads(line) for line in last.metrics.splitlines()]
    gap = rows[0]["left_out"]
    part = path.read_bytes()[gap["begin"] : gap["end"]]
    assert (gap["file"], gap["sha256"]) == (f"{tmp_path.name}/metrics.jsonl", hashlib.sha256(part).hexdigest())
    assert rows[-1]["step"] == sent + 8999 and len(last.metrics) < PULSE_BYTES + 300


def test_a_line_that_is_no_row_of_metrics_leaves_a_mark(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'not json\n{"step": 1}\n' + b"[" * 5000 + b"\n")
    (batch,) = all_of(spool_in(tmp_path))
    bad, good, deep = (json.loads(line) for line in batch.metrics.splitlines())
    assert good == {"step": 1} and bad["left_out"]["sha256"] == hashlib.sha256(b"not json\n").hexdigest()
    assert deep["left_out"]["end"] - deep["left_out"]["begin"] == 5001


def test_a_trainer_that_says_too_much_is_cut_and_counted(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    with (tmp_path / "events.jsonl").open("w") as file:
        for number in range(EVENTS_PER_ATTEMPT + 30):
            file.write(event_line("training", message="x" * 3000 if number == 0 else str(number)))
    samples = [{"prompt": "p" * 5000, "adapter": "a" * 5000}] * 300
    result = {"adapter": {"repo": "o/m", "files": {"x": "0" * 64}}, "metrics": {"eval_loss": 1.5}, "samples": samples}
    spool.say(draft("finished"), {"result.json": json.dumps(result).encode()}, is_last=True)
    batches = all_of(spool, at_end=True)
    said = [event for batch in batches for event in batch.events]
    assert len(said) == EVENTS_PER_ATTEMPT + 1
    assert said[0].message.endswith("… [1000 characters cut]") and said[-1].data == {"events_left_out": 30}
    raw = batches[-1].files["result.json"]
    shorter = json.loads(raw)
    assert len(raw) <= RESULT_BYTES and shorter["cut"]["bytes"] > 3_000_000
    assert (shorter["adapter"], shorter["metrics"]) == (result["adapter"], result["metrics"])
    assert shorter["samples"][0]["prompt"].endswith("characters cut]")


class Remote:
    """Stands where `Ledger.append` stands: keeps what it takes, fails while `away`."""

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.dislikes: bytes | None = None
        self.taken: list[tuple[list[str], bytes]] = []
        self.tried: list[Any] = []

    def __call__(
        self, *, events: tuple[EventDraft, ...], log: bytes, metrics: bytes, files: Mapping[str, bytes]
    ) -> str:
        self.tried.append((events, log, metrics, dict(files)))
        if self.away:
            raise self.away
        if self.dislikes is not None and self.dislikes in repr((events, log, metrics, files)).encode():
            raise LedgerError("remote: error: GH013: Repository rule violations found", reason=REFUSED)
        self.taken.append(([event.state for event in events], log))
        return "tip"


def test_events_go_at_once_and_logs_wait_for_their_time(tmp_path: Path) -> None:
    remote = Remote()
    shipper = Shipper(spool_in(tmp_path), remote, every_s=4, tick_s=0.01)
    shipper.start()
    began = time.monotonic()
    shipper.say(draft("booting"))
    wait_for(lambda: remote.taken)
    (tmp_path / "trainer.log").write_text("a line\n")
    wait_for(lambda: len(remote.taken) == 2)
    assert remote.taken[1] == ([], b"a line\n") and time.monotonic() - began >= 4
    shipper.say(draft("training"))
    wait_for(lambda: len(remote.taken) == 3)
    assert remote.taken[2] == (["training"], b""), "nothing new, nothing pushed"
    assert shipper.finish(draft("finished"), {}, timeout_s=150)


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
    assert time.monotonic() - began < 60, "the calls returned while nothing was taken"
    wait_for(lambda: len(remote.tried) >= 3)
    assert remote.tried[0] == remote.tried[1] == remote.tried[2]
    remote.away = None
    assert shipper.finish(draft("finished"), {}, timeout_s=150)
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
    assert time.monotonic() - began < 60
    remote.away = None
    assert shipper.finish(draft("finished"), {}, timeout_s=150)


def test_what_a_rule_of_the_remote_refuses_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    remote = Remote()
    remote.dislikes = b"looks like a key"
    shipper = Shipper(spool_in(tmp_path), remote, every_s=0.01, tick_s=0.001)
    (tmp_path / "trainer.log").write_text("looks like a key\n")
    shipper.say(draft("booting"))
    shipper.start()
    wait_for(lambda: remote.taken)
    assert len(remote.tried) == PATIENT_REFUSALS + 1
    (states, log), gap = remote.taken[0], GAP_LINE.search(remote.taken[0][1].decode())
    assert states == ["booting"] and gap is not None and "GH013" in gap["why"]
    assert checked(log, b"looks like a key\n")[0] == b"looks like a key\n"
    with (tmp_path / "trainer.log").open("a") as file:
        file.write("harmless\n")
    wait_for(lambda: len(remote.taken) == 2)
    assert remote.taken[1] == ([], b"harmless\n")
    result = {"adapter": {"repo": "o/m"}, "samples": ["x" * 5000 + "looks like a key"]}
    assert shipper.finish(draft("finished"), {"result.json": json.dumps(result).encode()}, timeout_s=150)
    assert remote.taken[-1][0] == ["finished"]
    assert json.loads(remote.tried[-1][3]["result.json"])["adapter"] == {"repo": "o/m"}


def test_a_volume_that_cannot_be_read_for_a_while_ends_nothing(tmp_path: Path) -> None:
    remote = Remote()
    shipper = Shipper(spool_in(tmp_path), remote, every_s=0.01, tick_s=0.001)
    (tmp_path / "trainer.log").symlink_to("trainer.log")  # to follow it is an OSError
    shipper.start()
    time.sleep(0.1)
    assert not shipper.finish(draft("finished"), {}, timeout_s=0.1), "nothing was taken, and it does not say otherwise"
    (tmp_path / "healed").write_text("back\n")
    (tmp_path / "healed").replace(tmp_path / "trainer.log")
    wait_for(lambda: remote.taken)
    assert remote.taken == [(["finished"], b"back\n")]


def test_a_long_run_pushes_ever_more_slowly() -> None:
    assert pause_s(60, 0) == pause_s(60, 60 * PUSHES_AT_FULL_PACE) == 60
    at_s, pushes = 0.0, 0
    while at_s < 10 * 86400:
        at_s, pushes = at_s + pause_s(60, at_s), pushes + 1
    assert pushes < 3700
