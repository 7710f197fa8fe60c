"""Whole pods that are hurt: killed, stopped, flooded, left alone; the pod ends all the same, and says what it can."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pod_bench import Bench

from infra.start import boot_archive
from pushtrain.pod.child import Heartbeat, LogFile, StopRequest, Watch, run_child
from pushtrain.pod.context import FIRST_PID
from pushtrain.pod.watchdog import MOST_STARTS

MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[MakeBench]:
    benches: list[Bench] = []

    def make(steps: str, **limits: float) -> Bench:
        benches.append(Bench(tmp_path, steps, **limits))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


def test_what_was_stopped_is_woken_to_save_and_for_its_last_words(make_bench: MakeBench) -> None:
    bench = make_bench("event training\nmetric 1\nsay now\nsleep 60")
    bench.start(PUSHTRAIN_GRACE_S="10", PUSHTRAIN_LIMIT_STEP_GAP_S="3")
    bench.wait(lambda: bench.said("now"), "training")
    for part in ("-m trainer", "pushtrain.pod.agent"):
        os.kill(bench.pid_of(part), signal.SIGSTOP)
    bench.wait_until_terminated()
    assert (bench.record().last.state, bench.record().last.reason) == ("failed", "StepGap")
    assert (bench.attempt_dir.parent / "saved").exists()


def test_the_watchdog_says_that_it_still_looks_to_its_parent_alone(make_bench: MakeBench, tmp_path: Path) -> None:
    bench, heard = make_bench("event training\nsleep 60"), list[int]()
    archive = tmp_path / "app"
    archive.write_bytes(boot_archive())
    bench.log.touch()
    before = signal.signal(signal.SIGUSR1, lambda signum, _: heard.append(signum))
    try:
        for parent, is_heard in ((os.getpid(), True), (os.getppid(), False)):
            heard.clear()
            env = bench.env | {FIRST_PID: str(parent)}
            watchdog = subprocess.Popen([sys.executable, str(archive)], env=env, stdout=subprocess.DEVNULL)
            bench.pid_of("-m trainer")
            gives_up = time.monotonic() + (60 if is_heard else 1.5)
            while not heard and time.monotonic() < gives_up:
                time.sleep(0.02)
            bench.kill_container()
            watchdog.wait()
            assert bool(heard) == is_heard
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_bash_takes_over_from_a_watchdog_that_gives_no_sign_any_more(make_bench: MakeBench, tmp_path: Path) -> None:
    """A program of the shell stands for the watchdog: signs for over 200 looks, and then it lives on in silence."""
    bench, tools = make_bench("result"), tmp_path / "tools"
    tools.mkdir()
    signs = "for n in $(seq 60); do kill -USR1 $PUSHTRAIN_FIRST_PID; sleep 0.05; done; echo silent now; exec sleep 60"
    (tools / "python3").write_text(f'#!/bin/sh\n[ -n "$2" ] || {{ {signs}; }}\n')
    (tools / "python3").chmod(0o755)
    first = bench.start(PATH=f"{tools}:{bench.env['PATH']}", PUSHTRAIN_POD_TICK_S="0.005")
    bench.wait(lambda: bench.said("silent now"), "end of the signs")
    assert not bench.api.calls, "a watchdog that looks is left alone"
    bench.wait(lambda: bench.api.calls, "request of bash itself")
    assert "sleep 60 " in bench.processes().values(), "it lives"
    assert first.poll() is None


def test_without_its_first_process_the_watchdog_goes_on(make_bench: MakeBench) -> None:
    bench = make_bench("event training\ntalk 1.5\nresult")
    first = bench.start()
    bench.wait(lambda: bench.said("trainer pid"), "word of the trainer")
    first.kill()
    first.wait()
    bench.wait_until_terminated()
    assert bench.states()[-1] == "finished"


def test_a_thousand_processes_that_a_trainer_leaves_behind_end_with_it(make_bench: MakeBench) -> None:
    """Forked twice, each in a session of its own, deaf to SIGTERM."""
    bench = make_bench("event training\nleave 1000\nresult")
    bench.start(PUSHTRAIN_GRACE_S="0.5")
    bench.wait_until_terminated()
    assert bench.said("left 1000") and bench.states()[-1] == "finished"
    assert not [line for line in bench.processes().values() if line.startswith("sleep 600")]


def test_megabytes_without_a_line_end_cost_neither_the_run_nor_its_memory(tmp_path: Path) -> None:
    log, heartbeat = LogFile(tmp_path / "trainer.log", {}), Heartbeat(tmp_path / "heartbeat")
    watch = Watch(heartbeat=heartbeat, stop=StopRequest(None), grace_s=1, tick_s=0.05)
    before_kb = _peak_kb()
    flood = ["sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x"]
    began_s = time.monotonic()
    assert run_child(flood, dict(os.environ), tmp_path, watch=watch, out=log) == 0
    assert time.monotonic() - began_s < 60
    assert (tmp_path / "trainer.log").stat().st_size >= 10_000_000
    assert _peak_kb() - before_kb < 20_000


def _peak_kb() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0])


def test_a_full_volume_costs_lines_and_not_the_run(make_bench: MakeBench) -> None:
    """A limit on the size of files stands for the full disk: writing beyond it fails in the same way."""
    bench = make_bench("event training\nflood 3\nresult")
    bench.start(before=("prlimit", "--fsize=1500000"))
    bench.wait_until_terminated()
    assert bench.states()[-1] == "finished", bench.log.read_text()[-3000:]
    assert (bench.attempt_dir / "trainer.log").stat().st_size == 1_500_000, "it was full"


@pytest.mark.parametrize("workspace", ["/proc/nowhere", "/dev/null/volume"])
def test_a_volume_that_cannot_be_written_ends_the_pod_and_says_so(make_bench: MakeBench, workspace: str) -> None:
    bench = make_bench("result")
    bench.start(PUSHTRAIN_WORKSPACE=workspace)
    bench.wait_until_terminated()
    assert bench.said("boot failed") and bench.said("the end: BootFailed")


def test_a_volume_that_hangs_holds_up_neither_the_start_nor_the_end(make_bench: MakeBench) -> None:
    """A pipe that nobody reads stands for the volume: whoever opens it to write hangs in the kernel."""
    bench = make_bench("result")
    bench.attempt_dir.mkdir(parents=True)
    os.mkfifo(bench.attempt_dir / "starts")
    os.mkfifo(bench.attempt_dir / "trainer.log")
    bench.start(PUSHTRAIN_LIMIT_ENVIRONMENT_S="1", PUSHTRAIN_GRACE_S="1", PUSHTRAIN_POD_TICK_S="0.03")
    bench.wait_until_terminated()
    assert bench.said("boot: fetched"), "the watchdog waited for the volume, but not for ever"
    assert bench.said("the end: EnvironmentTimeout"), "the agent hung, and was ended"


def test_a_container_killed_in_training_goes_on_from_its_checkpoint(make_bench: MakeBench) -> None:
    bench = make_bench("event training\ntrain 12 0.15\nresult")
    bench.start()
    bench.wait(lambda: bench.attempt_dir.parent.joinpath("checkpoints", "checkpoint-4").exists(), "four steps")
    bench.kill_container()
    bench.start()
    bench.wait_until_terminated()
    assert bench.states().count("booting") == 2 and bench.states()[-1] == "finished"
    said = [line for line in bench.log.read_text().splitlines() if line.startswith("from step")]
    assert said[0] == "from step 0" and int(said[1].split()[-1]) >= 3
    steps = bench.ledger_text("metrics").count('"step":')
    assert 12 <= steps <= 13, "no step was taken twice but the one that was cut off"
    assert len((bench.attempt_dir / "starts").read_text().split()) == 2


def test_a_container_that_starts_in_vain_again_and_again_ends_the_pod(make_bench: MakeBench) -> None:
    bench = make_bench("event training\nsleep 60")
    bench.attempt_dir.mkdir(parents=True)
    (bench.attempt_dir / "starts").write_text("0\n" * MOST_STARTS)
    first = bench.start()
    bench.wait_until_terminated()
    assert bench.said("the end: CrashLoop") and bench.states() == [] and first.poll() is None


def test_a_full_container_disk_ends_the_pod(make_bench: MakeBench) -> None:
    bench = make_bench("result")
    first = bench.start(TMPDIR="/proc/nowhere")
    by_curl = ("POST", f"/v2/pods/{bench.pod_id}/action", '{"action":"terminate"}')
    bench.wait(lambda: by_curl in bench.api.calls, "request of the start command itself")
    assert bench.states() == [] and first.poll() is None
