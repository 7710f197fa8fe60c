"""The pure parts of the pod and those that need one process at most."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pod_bench import make_source, run_git

from pushtrain.errors import LedgerError, LedgerUnavailable, PushtrainError, RunFailed
from pushtrain.events import EventDraft, encode
from pushtrain.pod.boot import fetch_commit
from pushtrain.pod.child import Heartbeat, LogFile, StopRequest, Watch, run_child
from pushtrain.pod.console import Console, lines
from pushtrain.pod.context import Context, read_context
from pushtrain.pod.environment import prepare_environment, trainer_env
from pushtrain.pod.outcome import Remains, decide
from pushtrain.pod.processes import within
from pushtrain.pod.shipper import Shipper
from pushtrain.pod.spool import CHUNK_BYTES, LOG_CAP_BYTES, TAIL_BYTES, Spool
from pushtrain.pod.terminate import pause_ticks
from pushtrain.pod.watchdog import Limits, Reason, View, verdict
from pushtrain.redact import redact

ENV = {
    "PUSHTRAIN_RUN_ID": "fake-aaaaaaaa-bbbbbbbb",
    "PUSHTRAIN_ATTEMPT": "1",
    "PUSHTRAIN_COMMIT": "a" * 40,
    "PUSHTRAIN_SPEC_PATH": "jobs/fake.yaml",
    "PUSHTRAIN_SOURCE_URL": "https://host/o/r.git",
    "PUSHTRAIN_LEDGER_URL": "https://host/o/r.git",
    "PUSHTRAIN_DEADLINE_EPOCH_S": "11000",
    "PUSHTRAIN_STALL_S": "600",
}


def context_of(**changes: Any) -> Context:
    return replace(read_context(ENV), **changes)


# Watchdog.


def limits_at_10000() -> Limits:
    return Limits.starting(wall_s=10_000, monotonic_s=50, context=context_of())


def test_the_stop_comes_a_grace_before_the_deadline_on_both_clocks() -> None:
    assert limits_at_10000() == Limits(stop_epoch_s=10_970, stop_monotonic_s=1_020, stall_s=600)


def test_the_grace_is_at_most_a_tenth_of_the_time_there_is() -> None:
    late = Limits.starting(wall_s=10_900, monotonic_s=50, context=context_of())
    assert (late.stop_epoch_s, late.stop_monotonic_s) == (10_990, 140)
    past = Limits.starting(wall_s=12_000, monotonic_s=50, context=context_of())
    assert verdict(View(wall_s=12_000, monotonic_s=50, moved_monotonic_s=50), past) is Reason.DEADLINE


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50), None),
        (View(wall_s=10_969, monotonic_s=1_019, moved_monotonic_s=1_000), None),
        (View(wall_s=10_970, monotonic_s=1_000, moved_monotonic_s=1_000), Reason.DEADLINE),
        (View(wall_s=5_000, monotonic_s=1_020, moved_monotonic_s=1_019), Reason.DEADLINE),
        (View(wall_s=10_600, monotonic_s=649, moved_monotonic_s=50), None),
        (View(wall_s=10_600, monotonic_s=650, moved_monotonic_s=50), Reason.STALL),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, told_to_stop=True), Reason.PREEMPTED),
        (View(wall_s=10_990, monotonic_s=1_040, moved_monotonic_s=50, told_to_stop=True), Reason.DEADLINE),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=0), Reason.FINISHED),
        (View(wall_s=99_999, monotonic_s=9_999, moved_monotonic_s=50, exit_code=0), Reason.FINISHED),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=69), Reason.BOOT_FAILED),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=75), Reason.PREEMPTED),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=1), Reason.TRAINER_GONE),
        (View(wall_s=10_001, monotonic_s=51, moved_monotonic_s=50, exit_code=-9), Reason.TRAINER_GONE),
    ],
)
def test_the_verdict_follows_from_clocks_child_and_heartbeat(view: View, reason: Reason | None) -> None:
    assert verdict(view, limits_at_10000()) is reason


def test_termination_is_tried_often_for_a_minute_and_then_within_the_rate_limit() -> None:
    assert [pause_ticks(elapsed) for elapsed in (0, 59, 60, 10_000)] == [5, 5, 60, 60]


def test_what_hangs_is_left_behind() -> None:
    began = time.monotonic()
    assert within(0.1, lambda: time.sleep(5) or "late", "otherwise") == "otherwise"
    assert time.monotonic() - began < 1
    assert within(1, lambda: Path("/nowhere/at/all").read_text(), "otherwise") == "otherwise"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUSHTRAIN_COMMIT", "main"),
        ("PUSHTRAIN_RUN_ID", "../../etc"),
        ("PUSHTRAIN_SPEC_PATH", "../secrets"),
        ("PUSHTRAIN_SPEC_PATH", "/etc/passwd"),
        ("PUSHTRAIN_SPEC_PATH", "--help"),
        ("PUSHTRAIN_SOURCE_URL", "--upload-pack=touch"),
        ("PUSHTRAIN_DEADLINE_EPOCH_S", "-1"),
        ("PUSHTRAIN_STALL_S", ""),
    ],
)
def test_a_malformed_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(PushtrainError, match=name):
        read_context(ENV | {name: value})


# Text on its way out.


def reader(*chunks: bytes) -> Any:
    parts = iter([*chunks, b""])
    return lambda size: next(parts)


def test_lines_are_cut_at_newlines_and_carriage_returns_however_they_arrive() -> None:
    assert list(lines(reader(b"on", b"e\ntw", b"o\r50%\r100%\r\nrest"))) == ["one", "two", "50%", "100%", "rest"]


def test_an_endless_line_is_cut_at_white_space_so_that_no_secret_is_cut() -> None:
    secret = b"canary-secret-" + b"y" * 30
    out = list(lines(reader(b"x" * 65_000 + b" " + secret[:20], b"z" * 2_000, secret[20:])))
    assert out == ["x" * 65_000, (secret[:20] + b"z" * 2_000 + secret[20:]).decode()]


def test_a_console_nobody_reads_drops_lines_and_says_how_many() -> None:
    gate, seen = threading.Event(), []

    def write(raw: bytes) -> None:
        gate.wait(5)
        seen.append(raw)

    console = Console({"HF_TOKEN": "canary-secret-1"}, write, capacity=3)
    began = time.monotonic()
    for number in range(100):
        console.say(f"line {number} canary-secret-1")
    assert time.monotonic() - began < 1, "saying something never waits"
    gate.set()
    give_up = time.monotonic() + 5
    while len(seen) < 3 and time.monotonic() < give_up:
        time.sleep(0.01)
    text = b"".join(seen).decode()
    assert "line 0 ***" in text and "lines were not shown here" in text and "canary" not in text


# Outcome.

RESULT = b'{"metrics": {}}'
FAILURE = b'{"reason": "LossNotFinite", "message": "step 3"}'


@pytest.mark.parametrize(
    ("remains", "state", "reason", "exit_code"),
    [
        (Remains(exit_code=0, result=RESULT), "finished", "", 0),
        (Remains(exit_code=-11, result=RESULT), "finished", "", 0),
        (Remains(exit_code=0, result=RESULT, stopped=True, stop_reason="Deadline"), "finished", "", 0),
        (Remains(exit_code=0, result=b"{"), "failed", "ResultInvalid", 1),
        (Remains(exit_code=0), "failed", "ResultMissing", 1),
        (Remains(exit_code=1, failure=FAILURE), "failed", "LossNotFinite", 1),
        (Remains(exit_code=2, failure=FAILURE), "failed", "LossNotFinite", 2),
        (Remains(exit_code=1, failure=b"torn"), "failed", "Failed", 1),
        (Remains(exit_code=75), "preempted", "Preempted", 75),
        (Remains(exit_code=-15, stopped=True, stop_reason="Preempted"), "preempted", "Preempted", 75),
        (Remains(exit_code=None, stopped=True), "preempted", "Preempted", 75),
        (Remains(exit_code=75, stopped=True, stop_reason="Deadline"), "failed", "DeadlineReached", 1),
        (Remains(exit_code=75, stopped=True, stop_reason="Stall"), "failed", "Stalled", 1),
        (Remains(exit_code=-9, tail=("one",)), "failed", "TrainerKilled", 1),
        (Remains(exit_code=3), "failed", "TrainerKilled", 1),
    ],
)
def test_the_end_follows_from_what_the_trainer_left(remains: Remains, state: str, reason: str, exit_code: int) -> None:
    outcome = decide(remains)
    assert (outcome.state, outcome.reason, outcome.exit_code) == (state, reason, exit_code)
    assert (outcome.files == {"result.json": RESULT}) == (state == "finished")


def test_an_event_that_quotes_a_credential_is_still_json_after_redaction() -> None:
    said = replace(draft("failed"), message='GET "https://h/?token=abc" said "x://a:b"@\nnext')
    _, raw = encode(said, seq=1, prev=None, now_s=0)
    assert json.loads(redact(raw.decode(), {}))["message"] == 'GET "https://h/?token=***" said "x://a:b"@\nnext'


# Spool and shipper.


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


def wait_for(ready: Any) -> None:
    give_up = time.monotonic() + 5
    while not ready():
        assert time.monotonic() < give_up
        time.sleep(0.005)


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


# Boot.


@pytest.fixture
def git_home(tmp_path: Path) -> dict[str, str]:
    names = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    return path | names | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


def test_a_server_that_refuses_single_commits_is_fetched_whole(tmp_path: Path, git_home: dict[str, str]) -> None:
    bare, commit = make_source(tmp_path / "source", "result", git_home)
    work = str(tmp_path / "source" / "work")
    run_git("-C", work, "commit", "-q", "--allow-empty", "-m", "later", env=git_home)
    run_git("-C", work, "push", "-q", str(bare), "HEAD", env=git_home)
    context = context_of(source_url=f"file://{bare}", commit=commit, workspace=tmp_path / "volume")
    old = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.version", "GIT_CONFIG_VALUE_0": "0"}
    checkout = fetch_commit(context, git_home | old, sleep=_no_sleep)
    assert run_git("-C", str(checkout), "rev-parse", "HEAD", env=git_home) == commit
    assert (checkout / ".git" / "refs" / "remotes").exists() or (checkout / ".git" / "packed-refs").exists()
    assert not (checkout / ".git" / "shallow").exists(), "the whole history came, not one commit"


def test_only_the_commit_is_fetched_and_an_intact_checkout_is_used_again(
    tmp_path: Path, git_home: dict[str, str]
) -> None:
    bare, commit = make_source(tmp_path / "source", "result", git_home)
    context = context_of(source_url=f"file://{bare}", commit=commit, workspace=tmp_path / "volume")
    checkout = fetch_commit(context, git_home, sleep=_no_sleep)
    assert (checkout / ".git" / "shallow").exists() and checkout == context.checkout
    bare.rename(bare.with_name("gone.git"))
    assert fetch_commit(context, git_home, sleep=_no_sleep) == checkout
    (checkout / "jobs" / "fake.yaml").write_text("tampered")
    with pytest.raises(LedgerError):
        fetch_commit(context, git_home, sleep=_no_sleep)
    bare.with_name("gone.git").rename(bare)
    assert fetch_commit(context, git_home, sleep=_no_sleep) == checkout
    assert (checkout / "jobs" / "fake.yaml").read_text() == "result"
    assert [path.name for path in checkout.parent.iterdir()] == [commit], "no half-fetched folder stays"


def test_a_remote_that_comes_back_is_tried_again_with_growing_pauses(tmp_path: Path, git_home: dict[str, str]) -> None:
    bare, commit = make_source(tmp_path / "source", "result", git_home)
    away = bare.with_name("away.git")
    bare.rename(away)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            away.rename(bare)

    context = context_of(source_url=f"file://{bare}", commit=commit, workspace=tmp_path / "volume")
    assert fetch_commit(context, git_home, sleep=sleep).is_dir()
    assert pauses == [1, 2, 4]


def _no_sleep(seconds: float) -> None:
    return None


# Environment and child.


def test_the_environment_is_installed_by_uv_from_the_lock_without_any_secret(tmp_path: Path) -> None:
    tools, seen = tmp_path / "bin", tmp_path / "seen"
    tools.mkdir()
    (tools / "uv").write_text(f'#!/bin/sh\necho "$@" >> {seen}\nenv >> {seen}\n[ $(grep -c sync {seen}) -gt 1 ]\n')
    (tools / "uv").chmod(0o755)
    secrets = {name: "canary-secret" for name in ("HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN", "RUNPOD_API_KEY")}
    context = context_of(workspace=tmp_path / "volume", tick_s=0.01)

    def run(argv: Any, env: Mapping[str, str]) -> int:
        return subprocess.run(argv, env=dict(env), check=False).returncode

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tools}:/usr/bin:/bin")
        environ = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), **secrets}
        python = prepare_environment(context, environ, run, disk=tmp_path)
    text = seen.read_text()
    assert python == str(tmp_path / "pushtrain-venv" / "bin" / "python")
    assert text.count("sync --frozen --extra trainer --no-dev") == 2, "the first try failed"
    assert f"UV_PROJECT_ENVIRONMENT={tmp_path}/pushtrain-venv" in text and "UV_LINK_MODE=copy" in text
    assert f"UV_CACHE_DIR={tmp_path}/volume/.cache/uv" in text and "canary-secret" not in text


def test_an_environment_that_cannot_be_installed_fails_the_run(tmp_path: Path) -> None:
    context = context_of(workspace=tmp_path, tick_s=0.001)
    with pytest.raises(RunFailed) as caught:
        prepare_environment(context, {"HOME": str(tmp_path)}, lambda argv, env: 1, disk=tmp_path)
    assert caught.value.reason == "EnvironmentFailed"


def test_the_trainer_gets_the_hub_token_and_no_other_secret() -> None:
    secrets = ("HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN", "PUSHTRAIN_SOURCE_TOKEN", "RUNPOD_API_KEY")
    env = trainer_env(context_of(), dict.fromkeys(secrets, "canary-secret") | {"CUDA_VERSION": "13"})
    assert {name for name, value in env.items() if value == "canary-secret"} == {"HF_TOKEN"}
    assert env["HF_HOME"] == "/workspace/.cache/huggingface" and env["CUDA_VERSION"] == "13"


def test_nothing_of_a_child_is_left_and_its_output_is_redacted(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "trainer.log", {"HF_TOKEN": "canary-secret-1"})
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    watch = Watch(heartbeat=heartbeat, stop=StopRequest(None), grace_s=1, tick_s=0.02)
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); print('canary-secret-1', p.pid, flush=True)"
    assert run_child([sys.executable, "-c", code], {}, tmp_path, watch=watch, out=log) == 0
    mask, pid = (tmp_path / "trainer.log").read_text().split()
    assert mask == "***"
    wait_for(lambda: _is_gone(int(pid)))
    assert (tmp_path / "heartbeat").exists()


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_small_trickle_of_bytes_is_no_sign_of_life(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    code = "import time\nwhile True: open('/dev/null', 'wb').write(b'x' * 1000); time.sleep(0.01)"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)
        heartbeat.look(child.pid)
        (tmp_path / "heartbeat").unlink()
        for _ in range(20):
            time.sleep(0.02)
            heartbeat.look(child.pid)
        assert not (tmp_path / "heartbeat").exists()
    finally:
        child.kill()
        child.wait()
