"""Whole pods: the real start command, watchdog, boot, agent and a fake trainer as processes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pod_bench import HF_TOKEN, LEDGER_TOKEN, POD_KEY, Api, Bench

from pushtrain.events import EventDraft

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


def test_a_run_that_succeeds_is_told_in_order_and_the_pod_ends_itself(make_bench: MakeBench) -> None:
    bench = make_bench(
        "event preparing\nsay one line\nevent training\nmetric 1\nevent publishing\nresult\nsay last words"
    )
    first = bench.start()
    bench.wait_until_terminated()
    record = bench.record()
    assert bench.states() == ["booting", "environment", "preparing", "training", "publishing", "finished"]
    assert {event.writer for event in record.events} == {"pod"} and {event.attempt for event in record.events} == {1}
    assert record.result is not None and record.result["metrics"] == {"eval_loss": 1.5}
    assert "one line\n" in bench.ledger_text("logs") and "last words\n" in bench.ledger_text("logs")
    assert '"loss": null' in bench.ledger_text("metrics")
    assert bench.attempt_dir.joinpath("ended.json").exists() and bench.attempt_dir.joinpath("heartbeat").exists()
    assert first.poll() is None, "RunPod restarts a container whose first process returns"


def test_no_secret_in_ledger_log_command_lines_or_files(make_bench: MakeBench) -> None:
    bench = make_bench(
        "event preparing\nsay $HF_TOKEN $RUNPOD_API_KEY $PUSHTRAIN_LEDGER_TOKEN\nsleep 0.3\nfail $HF_TOKEN"
    )
    lines: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            lines.update(bench.processes().values())

    looker = threading.Thread(target=look)
    looker.start()
    bench.start()
    bench.wait_until_terminated()
    over.set()
    looker.join()
    everything = "\n".join(lines) + bench.log.read_text() + bench.ledger_text("logs") + str(bench.record().events)
    everything += (bench.attempt_dir / "trainer.log").read_text() + (bench.attempt_dir / "ended.json").read_text()
    assert "*** $RUNPOD_API_KEY $PUSHTRAIN_LEDGER_TOKEN" in everything, "the trainer gets the Hub's token and no other"
    assert any("-m trainer" in line for line in lines) and any("git" in line for line in lines)
    for secret in (HF_TOKEN, POD_KEY, LEDGER_TOKEN):
        assert secret not in everything
    assert HF_TOKEN not in bench.git("-C", str(bench.ledger_dir), "log", "-p", "--all")
    assert all(header["authorization"] == f"Bearer {POD_KEY}" for header in bench.api.headers)
    assert all(header["user-agent"].startswith("pushtrain-pod/") for header in bench.api.headers)


def test_a_pod_whose_attempt_another_one_is_at_work_on_ends_itself_and_starts_nothing(make_bench: MakeBench) -> None:
    """Its cloud carried a create out late, and no volume tells the two of each other."""
    bench = make_bench("event training\nresult")
    before = [
        EventDraft(state="provisioned", writer="control", attempt=1, data={"pod_id": "another"}),
        EventDraft(state="booting", writer="pod", attempt=1, data={"pod": "another"}),
    ]
    bench.ledger().append(bench.run.id, events=before)
    bench.start(PUSHTRAIN_POD_TICK_S="1")
    bench.wait_until_terminated()
    assert bench.states() == ["provisioned", "booting", "booting"], "nobody hears of an end of the attempt"
    assert bench.said("this attempt is pod another's") and bench.said("the end: Twin")
    assert not bench.said("trainer pid") and not bench.attempt_dir.joinpath("ended.json").exists()


def test_a_trainer_killed_by_the_kernel_is_a_failed_run_that_says_so(make_bench: MakeBench) -> None:
    bench = make_bench("event training\nsay step 1\nsleep 60")
    bench.start()
    os.kill(bench.pid_of("-m trainer"), signal.SIGKILL)
    bench.wait_until_terminated()
    last = bench.record().last
    assert (last.state, last.reason) == ("failed", "TrainerKilled") and "SIGKILL" in last.message


def test_a_failure_the_trainer_explains_keeps_its_reason(make_bench: MakeBench) -> None:
    bench = make_bench("event training\nsay step 1\nfail LossNotFinite")
    bench.start()
    bench.wait_until_terminated()
    last = bench.record().last
    assert (last.state, last.reason, last.message) == ("failed", "LossNotFinite", "it went wrong")
    assert "step 1" in last.data["log_tail"]


def test_a_pod_whose_agent_is_killed_ends_and_the_trainer_saves_first(make_bench: MakeBench) -> None:
    bench = make_bench("event training\nsleep 60")
    bench.start()
    trainer = bench.pid_of("-m trainer")
    bench.wait(lambda: bench.said("trainer pid"), "word of the trainer")
    os.kill(bench.pid_of("pushtrain.pod.agent"), signal.SIGKILL)
    bench.wait_until_terminated()
    assert trainer not in bench.processes()
    assert (bench.attempt_dir.parent / "saved").exists()
    assert bench.said("TrainerGone")
    assert not (bench.attempt_dir / "ended.json").exists(), "the next attempt resumes"


def test_an_orphan_that_ignores_sigterm_is_killed(make_bench: MakeBench) -> None:
    bench = make_bench("deaf\nsay deaf now\nsleep 60")
    bench.start(PUSHTRAIN_GRACE_S="0.5")
    trainer = bench.pid_of("-m trainer")
    bench.wait(lambda: bench.said("deaf now"), "word of the trainer")
    os.kill(bench.pid_of("pushtrain.pod.agent"), signal.SIGKILL)
    bench.wait_until_terminated()
    assert trainer not in bench.processes()


def test_a_pod_whose_watchdog_is_killed_is_still_terminated(make_bench: MakeBench) -> None:
    bench = make_bench("sleep 60")
    bench.start()
    bench.pid_of("-m trainer")
    watchdog = min(pid for pid, line in bench.processes().items() if line.startswith("python3 "))
    os.kill(watchdog, signal.SIGKILL)
    bench.wait_until_terminated()


@pytest.mark.long
def test_the_deadline_ends_a_deaf_trainer_and_says_why(make_bench: MakeBench) -> None:
    """It takes two thirds of the grace; what is left is for the last word. The shell takes over after 200 ticks."""
    bench = make_bench("deaf\nevent training\nsleep 90", deadline_s=9.0)
    bench.env |= {"PUSHTRAIN_GRACE_S": "30", "PUSHTRAIN_POD_TICK_S": "0.2"}
    bench.start()
    bench.wait_until_terminated()
    last = bench.record().last
    assert (last.state, last.reason) == ("failed", "DeadlineReached")
    assert bench.terminations[0] <= bench.deadline + float(bench.env["PUSHTRAIN_GRACE_S"]) + 60
    assert not any("-m trainer" in line for line in bench.processes().values())


@pytest.mark.long
def test_a_restarted_container_resumes_and_keeps_the_deadline(make_bench: MakeBench) -> None:
    bench = make_bench("event training\nsleep 60", deadline_s=30.0)
    bench.start()
    bench.wait(lambda: bench.states().count("training") == 1, "first training")
    bench.kill_container()
    bench.start()
    bench.wait_until_terminated()
    assert bench.states().count("booting") == 2 and bench.states().count("training") == 2
    assert bench.said("is here already"), "the checkout of the first container is used again"
    grace_s = float(bench.env["PUSHTRAIN_GRACE_S"])
    assert bench.deadline - grace_s - 2 <= bench.terminations[0] <= bench.deadline + grace_s + 60
    assert bench.record().last.reason == "DeadlineReached"


def test_a_container_restarted_after_the_end_does_not_train_again(make_bench: MakeBench) -> None:
    bench = make_bench("event training\nresult")
    bench.start()
    bench.wait_until_terminated()
    bench.kill_container()
    states, terminations = bench.states(), len(bench.terminations)
    bench.start()
    bench.wait(lambda: len(bench.terminations) > terminations, "second termination")
    assert bench.said("AlreadyEnded") and bench.states() == states


def test_sigterm_of_the_cloud_lets_the_trainer_save_and_is_not_the_end_of_the_attempt(make_bench: MakeBench) -> None:
    bench = make_bench("event training\nsleep 60")
    first = bench.start()
    bench.wait(lambda: "training" in bench.states(), "training")
    first.send_signal(signal.SIGTERM)
    bench.wait_until_terminated()
    assert bench.states()[-1] == "preempted" and "saved a checkpoint" in bench.ledger_text("logs")
    assert not (bench.attempt_dir / "ended.json").exists()
    assert first.poll() is None


def test_boot_that_cannot_have_the_commit_ends_the_pod(make_bench: MakeBench) -> None:
    bench = make_bench("result")
    bench.start(PUSHTRAIN_COMMIT="0" * 40)
    bench.wait_until_terminated()
    assert bench.said("boot failed") and bench.said("BootFailed")
    assert bench.states() == []


def test_a_pod_with_a_broken_environment_is_terminated(make_bench: MakeBench) -> None:
    bench = make_bench("result")
    bench.start(PUSHTRAIN_DEADLINE_EPOCH_S="soon")
    bench.wait_until_terminated()
    assert bench.said("PUSHTRAIN_DEADLINE_EPOCH_S")


def test_a_terminate_that_is_refused_goes_on_to_other_ways_and_comes_again(make_bench: MakeBench) -> None:
    bench = make_bench("result")
    bench.api.close()
    bench.api = Api(statuses=lambda number: 404 if number <= 4 else 204)
    bench.start(RUNPOD_API_BASE_URL=bench.api.url)
    bench.wait(lambda: len(bench.api.calls) >= 6, "termination after refusals")
    ways = [call[0] + call[2] for call in bench.api.calls]
    terminate, delete, stop = 'POST{"action": "terminate"}', "DELETE", 'POST{"action": "stop"}'
    assert (ways[:2], ways[3]) == ([terminate, delete], stop), "no such pod, it says to a pod that hears it"
    assert bench.api.calls[2][1] == "/graphql" and bench.pod_id in ways[2]
    assert ways[4:6] == [terminate, terminate], "an accepted request is repeated: only the end of the pod counts"
    assert bench.api.times[5] - bench.api.times[4] < 60


def test_a_pod_cut_off_from_the_network_keeps_trying(make_bench: MakeBench) -> None:
    bench = make_bench("result")
    port = bench.api.port
    bench.api.close()
    bench.start()
    bench.wait(lambda: bench.log.exists() and bench.log.read_text().count("refused") >= 6, "refused calls")
    bench.api = Api(port)
    bench.wait_until_terminated()


def test_a_ledger_that_is_away_for_a_while_misses_nothing(make_bench: MakeBench) -> None:
    steps = "event preparing\nsay before\nmetric 1\nsleep 1\nevent training\n"
    steps += "say during\nmetric 2\nsleep 1\nsay after\nresult"
    bench = make_bench(steps)
    bench.start(PUSHTRAIN_SHIP_EVERY_S="0.1")
    bench.wait(lambda: "preparing" in bench.states(), "first event")
    away = bench.ledger_dir.with_name("away.git")
    bench.ledger_dir.rename(away)
    bench.wait(lambda: bench.said("trying again") and bench.said("pushtrain: finished"), "end during the outage")
    away.rename(bench.ledger_dir)
    bench.wait_until_terminated()
    assert bench.states() == ["booting", "environment", "preparing", "training", "finished"]
    log, metrics = bench.ledger_text("logs"), bench.ledger_text("metrics")
    assert [log.count(f"{word}\n") for word in ("before", "during", "after")] == [1, 1, 1]
    assert [metrics.count(f'"step": {step}') for step in (1, 2)] == [1, 1]


def test_a_ledger_that_never_comes_back_does_not_keep_the_pod(make_bench: MakeBench) -> None:
    bench = make_bench("sleep 60", deadline_s=3.0)
    bench.ledger_dir.rename(bench.ledger_dir.with_name("away.git"))
    bench.start()
    bench.wait_until_terminated()
    assert bench.terminations[0] <= bench.deadline + float(bench.env["PUSHTRAIN_GRACE_S"]) + 60
