"""The rules by which a training is judged, without a training: losses, rates, steps that do not come, an idle GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_trainer_gpu import path_with_smi

from trainer.failures import GpuIdle
from trainer.report import Report
from trainer.watch.background import Background, Bounds
from trainer.watch.loss import LossCourse
from trainer.watch.patience import Patience
from trainer.watch.rates import Effort, Meter
from trainer.watch.tokens import TokenCount


def first_explosion(losses: list[float]) -> int | None:
    course = LossCourse()
    return next((number for number, loss in enumerate(losses, 1) if course.explodes(loss) is not None), None)


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 1.9, 9.0, 1.8] * 20,  # odd batches
        [0.02] * 40 + [0.3] * 40,  # an overfitted one that forgets a little
        [4.0 - 0.1 * step for step in range(30)] + [1.2, 1.9, 1.5] * 20,
        [0.9] + [1.8] * 60,  # the first batch was an easy one
        [9.0] * 19,
    ],
)
def test_a_noisy_loss_is_no_explosion(losses: list[float]) -> None:
    assert first_explosion(losses) is None


def test_a_loss_that_went_up_for_good_is_seen_within_some_steps() -> None:
    assert first_explosion([2.0] * 30 + [6.0] * 30) == 36


def test_a_training_that_came_apart_at_its_second_step_is_seen_at_the_twentieth() -> None:
    assert first_explosion([2.0] + [40.0] * 30) == 20


def test_what_was_logged_before_a_resume_counts() -> None:
    course = LossCourse([2.0] * 30)
    assert [course.explodes(6.0) is not None for _ in range(6)] == [False] * 5 + [True]


def test_patience_is_counted_in_evaluations_and_again_from_the_log_of_a_resumed_training() -> None:
    losses = [3.0, 2.0, 2.1, 1.9, 1.95, float("nan"), 1.0]
    patience, history, over = Patience(2), list[dict[str, float]](), list[int]()
    for step, loss in enumerate(losses, 1):
        assert patience.is_better(step, loss) == (step in (1, 2, 4, 7))
        history += [{"step": step, "loss": 0.1}, {"step": step, "eval_loss": loss}]
        again = Patience(2, history=history)
        assert vars(again) == vars(patience)
        over += [step] if patience.is_over else []
    assert over == [6] and patience.best_step == 7
    near = Patience(2, 0.5)
    assert [near.is_better(step, loss) for step, loss in enumerate(losses)] == [True, True, *[False] * 4, True]


def test_tokens_go_on_counting_over_attempts_without_the_batch_that_was_only_tried() -> None:
    first = TokenCount([], tried=50)
    assert first.total({"loss": 1.0, "num_tokens": 150.0}, 0) == 100
    second = TokenCount([{"step": 1, "tokens_seen": 100}, {"step": 1, "eval_loss": 1.0}], tried=50)
    assert second.total({"loss": 1.0, "num_tokens": 170.0}, 0) == 220
    assert TokenCount([{"tokens_seen": 100}]).total({"loss": 1.0}, 130) == 130, "transformers goes on by itself"


def test_rates_are_between_one_reading_and_the_next() -> None:
    meter = Meter(Effort(samples_per_step=8, usd_per_hour=0.36, flops_per_token=2e9, peak_flops=1e13))
    meter.start(100.0, 4, 5000)
    assert meter.read(110.0, 6, 25_000) == (
        {"tokens_per_s": 2000.0, "samples_per_s": 1.6, "mfu": 0.4, "usd_per_mtok": 0.05},
        5.0,
    )
    rates, step_s = meter.read(112.0, 7, 26_000)
    assert (rates["tokens_per_s"], step_s) == (500.0, 2.0)


def test_what_nobody_knows_is_left_out() -> None:
    meter = Meter(Effort(samples_per_step=1))
    meter.start(0.0, 0, 0)
    assert meter.read(1.0, 1, 10)[0].keys() == {"tokens_per_s", "samples_per_s"}


def background(folder: Path, clock: list[float], *, ends_process: bool = False) -> Background:
    bounds = Bounds(step_gap_s=100.0, gpu_idle_s=300.0, ends_process=ends_process)
    return Background(bounds, Report(folder), now_s=lambda: clock[0])


def test_an_idle_gpu_is_a_fault_after_its_time_and_not_before(tmp_path: Path) -> None:
    clock = [0.0]
    watched = background(tmp_path, clock)
    watched.step()
    for clock[0], percent in ((10.0, 0.0), (100.0, 55.0), (399.0, 2.0)):
        watched.step()
        watched.sample(percent)
        watched.look()
        assert watched.fault is None
    assert watched.gpu_utilization() == 19.0
    assert watched.gpu_utilization() is None
    clock[0] = 400.0
    watched.look()
    assert isinstance(watched.fault, GpuIdle)
    assert "5 minutes" in str(watched.fault)


def test_a_machine_without_a_gpu_is_never_idle(tmp_path: Path) -> None:
    clock = [0.0]
    watched = background(tmp_path, clock)
    watched.step()
    clock[0] = 5000.0
    watched.step()
    watched.look()
    assert watched.fault is None


def test_where_each_thread_stands_is_said_once_when_half_the_time_is_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    watched = background(tmp_path, clock)
    clock[0] = 5000.0
    watched.look()  # before the first step another limit holds
    watched.step()
    for clock[0] in (5049.0, 5051.0, 5099.0, 5200.0):
        watched.look()
    out, err = capfd.readouterr()
    assert out.count("watch: no step for 51 s of the 100 s allowed") == out.count("watch:") == 1
    assert err.count("test_where_each_thread_stands") >= 1


HANGS = """
import sys, time
from pathlib import Path
from trainer.report import Report
from trainer.watch.background import Background, Bounds
report = Report(Path(sys.argv[1]))
watched = Background(Bounds(step_gap_s=0.4, gpu_idle_s=60, ends_process=True), report)
with watched.running(tick_s=0.05):
    watched.step()
    time.sleep(30)
"""


def test_alone_a_training_that_hangs_is_ended_and_says_where(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 1
    assert "StepGap" in (tmp_path / "failure.json").read_text()
    assert '"<string>", line 10' in done.stderr


def test_readings_come_from_nvidia_smi_and_it_ends_with_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "#!/bin/sh\necho $$ > " + str(tmp_path / "pid") + "\nwhile echo 42; do sleep 0.02; done\n"
    monkeypatch.setenv("PATH", path_with_smi(tmp_path / "bin", ""))
    (tmp_path / "bin" / "nvidia-smi").write_text(program)
    watched = Background(Bounds(step_gap_s=60, gpu_idle_s=60, ends_process=False), Report(tmp_path / "run"))
    read = None
    with watched.running():
        for _ in range(500):
            if (read := watched.gpu_utilization()) is not None:
                break
            subprocess.run(["sleep", "0.02"], check=True)
    assert read == 42.0
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
