"""The proof: fault schedules under virtual time, and that it can fail. `make faults N=10000` plays more of them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from faults.batch import play_safely, run_batch
from faults.bugs import BUGS
from faults.fault import Fault
from faults.rentals import RENTALS
from faults.schedule import KINDS, KINDS_OF, Schedule, schedule
from faults.several import ANY
from faults.shrink import shrink
from faults.strikes import STRIKES
from faults.virtual import Died, Event, Process, Scheduler

from pushtrain.capabilities import DEFAULT_CLOUD

ROOT = Path(__file__).parents[1]
SCHEDULES = int(os.environ.get("PUSHTRAIN_FAULTS_N", "200"))


def faults(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "faults", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_every_promise_holds_under_every_schedule() -> None:
    total = run_batch(range(SCHEDULES), processes=2)
    assert total.schedules == SCHEDULES
    assert not total.broken, "\n".join(f"make faults REPLAY='{it.text()}'  # {said}" for it, said in total.broken[:5])
    idle = [kind for kind in KINDS if not total.struck[kind]]
    assert not idle or SCHEDULES < 1000, f"these never struck: {idle}"


# One of them with every `make test`.
LONG = [name for name in (*RENTALS, ANY) if name not in (DEFAULT_CLOUD, "vast")]
OFF = Fault(kind="skewed_control")


@pytest.mark.parametrize("cloud", ["vast", *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_the_same_promises_hold_at_another_cloud(cloud: str) -> None:
    schedules = SCHEDULES // 5
    total = run_batch(range(schedules), processes=2, cloud=cloud)
    broken = [f"make faults REPLAY='{it.text()}'  # {said}" for it, said in total.broken]
    assert not broken, "\n".join(broken[:5])
    assert total.figures.pods > schedules // 2 and sum(total.struck[kind] for kind in KINDS_OF[cloud]) > 0


def test_modal_plays_with_every_test_run_too() -> None:
    total = run_batch(range(1, 4), processes=1, cloud="modal")
    assert not total.broken and total.figures.pods > 2, total.broken


@pytest.mark.parametrize("off_s", [3600.0, -3600.0])
def test_a_sandbox_ends_by_the_clock_that_its_deadline_was_made_with(off_s: float) -> None:
    """Nothing in it ever starts, and nobody comes back: Modal's own time-out is what is left."""
    away = Fault(kind="cloud_down", at_s=60.0, amount=2000.0)
    it = Schedule(seed=3, cloud="modal", faults=(replace(OFF, amount=off_s), Fault(kind="never_starts"), away))
    result = play_safely(it)
    assert result.figures.pods == 1 and not [text for text in result.broken if text.startswith("the cloud ends it")]


def test_a_long_build_of_an_image_costs_the_run_none_of_its_time() -> None:
    slow = Fault(kind="slow_answer", amount=600.0, what="build_image")
    result = play_safely(Schedule(seed=3, cloud="modal", faults=(slow,)))
    said = "\n".join(result.said)
    assert not result.broken and "took 600 s to build" in said and "succeeded; pods 0" in said


def test_a_pod_that_no_list_showed_for_minutes_counts_from_when_it_was_planned() -> None:
    """JarvisLabs refuses it, makes it all the same, and never says when."""
    faults = (Fault(kind="never_starts"), Fault(kind="refused_but_rented", amount=1))
    result = play_safely(Schedule(seed=853, cloud="jarvislabs", faults=faults))
    assert not result.broken and result.figures.pods > 2


def test_a_pod_that_was_made_while_nobody_could_look_is_written_down_and_not_made_twice() -> None:
    """JarvisLabs makes it, then refuses every list for ten seconds, and never says when it was made."""
    faults = (Fault(kind="never_starts"), Fault(kind="http_403", at_s=56.7, amount=10.0))
    result = play_safely(Schedule(seed=3453, cloud="jarvislabs", faults=faults))
    assert not result.broken and "not looked at again after the create" in "\n".join(result.said)
    assert "one too many" not in "\n".join(result.said)


def test_a_pod_keeps_the_deadline_that_it_was_asked_for_with_however_late_it_is_found() -> None:
    """JarvisLabs lists it five minutes later, when another climb has planned anew."""
    faults = (Fault(kind="never_starts"), Fault(kind="refused_but_rented", amount=1))
    result = play_safely(Schedule(seed=20041, cloud="jarvislabs", faults=faults))
    assert not result.broken and "attempt 1 on" in "\n".join(result.said)


def test_a_pod_that_the_engine_does_not_know_goes_before_the_volume_that_it_holds() -> None:
    """Refused, made all the same, seen minutes later at $1.80 an hour: the engine alone would wait for the volume."""
    faults = (Fault(kind="never_starts"), Fault(kind="refused_but_rented", amount=1))
    result = play_safely(Schedule(seed=30969, cloud="jarvislabs", faults=faults))
    assert not result.broken and "failed; pods 0" in "\n".join(result.said)


def test_no_receipt_says_that_nothing_is_left_while_what_was_asked_for_may_be_in_no_list() -> None:
    """Ctrl-C while JarvisLabs makes an instance, which it lists once that has started."""
    by_hand = Fault(kind="run_by_hand", amount=20.0)
    result = play_safely(Schedule(seed=20033, cloud="jarvislabs", faults=(by_hand,)))
    said = "\n".join(result.said)
    assert not result.broken and "no pod of its last create is known" in said and result.figures.pods == 1
    assert "cancelled; pods 0, volumes 0; $0.12" in said, "what it cost until it was found is counted"


@pytest.mark.parametrize(("seed", "late_s", "behind_s"), [(586, 400.0, 0.0), (60071, 130.0, 2.0)])
def test_a_pod_that_comes_minutes_late_does_not_work_beside_the_first_where_they_share_no_volume(
    seed: int, late_s: float, behind_s: float
) -> None:
    """Also where the one that the control plane does not know of is the first at work."""
    faults = Fault(kind="late_create", amount=late_s, what="create_pod"), Fault(kind="list_behind", amount=behind_s)
    result = play_safely(Schedule(seed=seed, cloud="vast", faults=faults))
    assert not result.broken and result.figures.pods == 2 and "succeeded; pods 0" in "\n".join(result.said)


def test_the_same_seed_is_the_same_run() -> None:
    first, second = (play_safely(schedule(7)) for _ in range(2))
    assert first.said == second.said and len(first.said) > 3
    assert (first.figures, first.points) == (second.figures, second.points)


def test_every_kind_of_fault_can_be_drawn_and_strikes() -> None:
    assert {*KINDS, *(kind for kinds in KINDS_OF.values() for kind in kinds)} == set(STRIKES)


def test_a_schedule_is_one_line_that_replays() -> None:
    assert Schedule.parse(schedule(3, "vast").text()) == schedule(3, "vast")
    drawn = schedule(3)
    assert Schedule.parse(drawn.text()) == drawn
    done = faults("--replay", drawn.text())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == drawn.text() and "every promise held" in done.stdout


def test_a_batch_prints_its_table() -> None:
    done = faults("--n", "6", "--processes", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "schedules                      6" in done.stdout
    assert all(f"  {kind} " in done.stdout for kind in KINDS)


def test_a_failing_schedule_is_made_short() -> None:
    many = Schedule(seed=1, faults=tuple(Fault(kind="lost_pod", who=number) for number in range(11)))

    def breaks(it: Schedule) -> bool:
        return {3, 8} <= {fault.who for fault in it.faults}

    assert [fault.who for fault in shrink(many, breaks).faults] == [3, 8]


# The proof can fail.


@pytest.mark.parametrize("name", BUGS)
def test_a_deliberate_bug_is_caught(name: str) -> None:
    bug = BUGS[name]
    with bug.planted():
        caught = next((n for n, seed in enumerate(bug.seeds(), 1) if play_safely(schedule(seed)).broken), None)
    assert caught is not None, f"{name}: nobody noticed"


# Virtual time.


def test_processes_take_turns_by_the_clock_alone() -> None:
    scheduler, seen = Scheduler(100.0), []

    def body(process: Process) -> None:
        for _ in range(3):
            process.sleep(2.0 if process.name == "slow" else 1.0)
            seen.append((process.name, scheduler.now))

    for name in ("slow", "quick"):
        scheduler.start(name, body, lambda process: None)
    scheduler.after(2.5, lambda: seen.append(("call", scheduler.now)))
    scheduler.run(200.0)
    scheduler.close()
    assert seen == [
        ("quick", 101.0),
        ("slow", 102.0),
        ("quick", 102.0),
        ("call", 102.5),
        ("quick", 103.0),
        ("slow", 104.0),
        ("slow", 106.0),
    ]
    assert scheduler.now == 200.0


def test_a_killed_process_does_nothing_more() -> None:
    scheduler, seen = Scheduler(0.0), list[str]()

    def body(process: Process) -> None:
        try:
            for number in range(9):
                process.point()
                seen.append(f"{number}")
        finally:
            with pytest.raises(Died):
                process.sleep(1.0)
            seen.append("unwound")

    process = scheduler.start("p", body, lambda process: setattr(process, "kill_at", 3))
    scheduler.run(10.0)
    assert seen == ["0", "1", "unwound"] and process.ended
    scheduler.close()


def test_an_event_wakes_its_process_before_the_time_is_up() -> None:
    scheduler, woke = Scheduler(0.0), list[tuple[float, bool]]()
    events: list[Event] = []

    def body(process: Process) -> None:
        events.append(Event(process))
        for patience_s in (50.0, 5.0):
            was_set = events[0].wait(patience_s)
            woke.append((scheduler.now, was_set))
            events[0].clear()

    scheduler.start("p", body, lambda process: None)
    scheduler.after(7.0, lambda: events[0].set())
    scheduler.run(100.0)
    scheduler.close()
    assert woke == [(7.0, True), (12.0, False)]


def test_what_a_process_raises_is_not_lost() -> None:
    scheduler = Scheduler(0.0)

    def body(process: Process) -> None:
        process.sleep(1.0)
        raise ValueError("a bug")

    scheduler.start("p", body, lambda process: None)
    with pytest.raises(ValueError, match="a bug"):
        scheduler.run(100.0)
    scheduler.close()
