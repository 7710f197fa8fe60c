"""What a run has used and what is left: time × price of every attempt, storage in between, and clocks that lie."""

from dataclasses import replace

import pytest
from test_lifecycle import record

from pushtrain.budget import RESERVE_S, Left, late_hours, left, pod_seconds, used, volume_usd
from pushtrain.capabilities import CLOUDS
from pushtrain.events import now_text
from pushtrain.ledger import RunRecord
from pushtrain.placement import Candidate, cap
from pushtrain.rungs import Rung
from pushtrain.spec.compute import Budget
from pushtrain.spec.file import loads
from pushtrain.traffic import beyond_cap, brought_usd

SPEC = loads(
    b"{version: 1, name: j, model: {id: a/b}, data: {path: d.jsonl}, compute: {gpus: [NVIDIA A40]}, "
    b"budget: {max_hours: 2, max_usd: 3.0}, publish: {repo: a/b}}",
    "jobs/j.yaml",
)
TWO = ("claimed", "provisioned", "training", "lost", "waiting:2", "provisioned:2", "finished:2", "destroying:2")


def priced(*texts: str, volume_usd_per_hour: float = 0.0) -> RunRecord:
    """$3.60 an hour, so a tenth of a cent a second; events are 10 s apart."""
    made = record(*texts)
    events = tuple(
        replace(event, data={**event.data, "volume_usd_per_hour": volume_usd_per_hour})
        if event.state == "provisioned"
        else event
        for event in made.events
    )
    return replace(made, events=events)


def test_nothing_rented_is_nothing_used() -> None:
    assert used(record("claimed", "waiting")) == (0.0, 0.0)


def test_every_attempt_counts_once_however_often_it_was_recorded() -> None:
    hours, usd = used(priced(*TWO))
    assert hours == pytest.approx((20 + 10) / 3600)
    assert usd == pytest.approx(3.6 * hours)
    assert used(priced("claimed", "provisioned", "provisioned", "training", "lost"))[0] == pytest.approx(30 / 3600)


def test_between_attempts_and_afterwards_the_volume_is_paid_for() -> None:
    until_s = 80.0 + 3600.0
    idle_h = (until_s - 20.0 - 30.0) / 3600
    hours, usd = used(priced(*TWO, volume_usd_per_hour=0.5), until_s)
    assert usd == pytest.approx(3.6 * hours + 0.5 * idle_h)
    rest = left(SPEC, priced(*TWO, volume_usd_per_hour=0.5), until_s)
    assert (rest.hours, rest.usd) == (pytest.approx(2 - hours), pytest.approx(3.0 - usd))
    assert left(SPEC, priced(*TWO), until_s, billed_usd=2.5).usd == pytest.approx(0.5)


def test_the_volume_alone_is_counted_from_the_first_pod_on() -> None:
    made = priced(*TWO, volume_usd_per_hour=0.5)
    first = made.events[1]
    assert volume_usd(made, first.epoch_s + 7200) == pytest.approx(1.0)
    assert volume_usd(priced("claimed"), first.epoch_s + 7200) == 0.0


def test_a_pod_that_could_not_be_ended_after_its_last_word_spent_the_hours_that_are_billed() -> None:
    made = priced(*TWO, volume_usd_per_hour=0.5)
    known_usd = (20 + 10) / 3600 * 3.1
    assert late_hours(made, 0.0) == 0.0 == late_hours(record("claimed", "waiting"), 0.0)
    assert late_hours(made, known_usd) == pytest.approx(0.0)
    assert late_hours(made, known_usd + 3.1) == pytest.approx(1.0)
    assert left(SPEC, made, 80.0, late_h=1.0).hours == pytest.approx(left(SPEC, made, 80.0).hours - 1.0)


def test_traffic_on_a_bill_is_dollars_and_no_hours_of_a_pod_that_could_not_be_ended() -> None:
    made = priced(*TWO)
    at = {name: late_hours(replace(made, run={"cloud": name}), 1000.0) for name in CLOUDS}
    assert [name for name, hours in at.items() if hours == 0.0] == ["vast"]
    assert left(SPEC, replace(made, run={"cloud": "vast"}), 80.0, billed_usd=2.5).usd == pytest.approx(0.5)


def test_what_each_attempt_brings_is_kept_of_the_dollars_where_traffic_is_billed() -> None:
    assert [name for name in CLOUDS if brought_usd(name, SPEC)] == ["vast"]
    environment_usd = 3.3 * 0.02
    assert brought_usd("vast", SPEC) == pytest.approx(environment_usd), "a model that nobody knows is not counted"
    known = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"id": "Qwen/Qwen3-8B"})})
    assert brought_usd("vast", known) == pytest.approx(environment_usd + 16.38 * 0.02, rel=1e-3)
    assert "environment alone" in str(beyond_cap("vast", SPEC)) and "$0.39" in str(beyond_cap("vast", known))
    made, free = priced(*TWO), left(SPEC, priced(*TWO), 80.0)
    there = left(SPEC, replace(made, run={"cloud": "vast"}), 80.0)
    assert (there.hours, there.usd) == (free.hours, pytest.approx(free.usd - 2 * environment_usd))
    place = Candidate(
        gpu="NVIDIA A40",
        data_center=None,
        tier="SECURE",
        usd_per_hour=0.5,
        gpu_memory_gb=48,
        stock="HIGH",
        cloud="vast",
    )
    planned = cap(SPEC.model_copy(update={"budget": Budget(max_hours=700, max_usd=1)}), place)
    assert planned.deadline_hours * planned.usd_per_hour + environment_usd == pytest.approx(1.0)
    rung = Rung.of(SPEC, place, Left(hours=1000.0, usd=1.0), 0.0)
    spent_usd = (rung.deadline_epoch_s + rung.reserve_s) / 3600 * rung.usd_per_hour
    assert spent_usd + environment_usd == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("off_s", [-36_000.0, 36_000.0])
def test_a_pod_whose_clock_is_hours_off_is_counted_by_the_control_planes(off_s: float) -> None:
    made = priced("claimed", "provisioned", "training", "finished", "destroying")
    events = tuple(
        replace(event, time=now_text(event.epoch_s + off_s)) if event.writer == "pod" else event
        for event in made.events
    )
    hours, _ = used(replace(made, events=events))
    assert hours == pytest.approx(30 / 3600)


def test_a_pod_that_cannot_end_its_own_bill_is_billed_until_somebody_ends_it() -> None:
    """Its last word says that its work is over: the machine stands idle until a control plane comes by."""
    made = priced("claimed", "provisioned", "training", "finished", "destroying")
    hours = {name: used(replace(made, run={"cloud": name}))[0] for name in CLOUDS}
    assert {name for name in CLOUDS if hours[name] == pytest.approx(30 / 3600)} == {"lambda", "jarvislabs"}
    assert all(it == pytest.approx(20 / 3600) for name, it in hours.items() if CLOUDS[name].ends_own_bill)


def test_a_teardown_that_leaks_goes_on_costing() -> None:
    assert used(record("provisioned", "training", "destroying", "leak", "leak"))[0] == pytest.approx(40 / 3600)
    assert used(record("provisioned", "training", "finished", "destroying", "leak"))[0] == pytest.approx(20 / 3600)


def test_a_pod_gets_what_the_first_cap_allows_less_what_its_end_needs() -> None:
    by_hours, reserve_s = pod_seconds(Left(hours=1.0, usd=100.0), usd_per_hour=1.0, volume_usd_per_hour=0.01)
    assert (by_hours, reserve_s) == (3600 - RESERVE_S, RESERVE_S)
    by_dollars, _ = pod_seconds(Left(hours=10.0, usd=1.0), usd_per_hour=1.0, volume_usd_per_hour=0.01)
    assert by_dollars == pytest.approx((1.0 - 0.01) * 3600 - RESERVE_S)
    short, reserve_s = pod_seconds(Left(hours=0.1, usd=9.0), usd_per_hour=1.0, volume_usd_per_hour=0.0)
    assert (short, reserve_s) == (pytest.approx(324.0), pytest.approx(36.0))
    # A volume so large that an hour of it would eat the budget keeps a twentieth of it at most.
    assert pod_seconds(Left(hours=9.0, usd=1.0), usd_per_hour=2.0, volume_usd_per_hour=1.0)[0] == pytest.approx(
        0.95 / 2 * 3600 - RESERVE_S
    )
    assert pod_seconds(Left(hours=1.0, usd=-1.0), usd_per_hour=1.0, volume_usd_per_hour=1.0) == (0.0, 0.0)
