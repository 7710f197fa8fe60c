"""Bids for machines that may be taken away: the rule of the spec, the ladder, and what follows a lost machine."""

from dataclasses import replace
from typing import Any

import pytest

from infra.clouds.vast.shapes import create_body, matching, offers, search_for
from infra.launch import stack_plan
from pushtrain.cloud import Offer, PodRequest
from pushtrain.errors import NoCapacity, SpecError
from pushtrain.estimate.interruptions import Seen
from pushtrain.events import Event
from pushtrain.ledger import RunRecord
from pushtrain.lifecycle import Step, next_step
from pushtrain.limits import Limits
from pushtrain.placement import Candidate, bid_usd, cap, ladder
from pushtrain.run import Run
from pushtrain.spec import JobSpec
from pushtrain.spec.file import loads
from pushtrain.spot import affordable, lost_machines, seen

JOB = """\
version: 1
name: job
model: {{id: demo/base}}
data: {{path: data/rows.jsonl}}
compute: {{cloud: {cloud}, gpus: [NVIDIA A40, NVIDIA RTX A6000], {compute}}}
budget: {{max_hours: 2, max_usd: 1}}
publish: {{repo: demo/job{publish}}}
"""
KEPT = ", hub_strategy: checkpoint"


def spec(compute: str = "spot: {max_share: 0.7}", cloud: str = "vast", publish: str = KEPT) -> JobSpec:
    return loads(JOB.format(compute=compute, cloud=cloud, publish=publish).encode(), "jobs/job.yaml")


def offer(gpu: str = "NVIDIA A40", usd: float = 0.40, min_bid: float | None = 0.24) -> Offer:
    return Offer(
        gpu=gpu,
        gpu_memory_gb=48,
        data_center=None,
        tier="SECURE",
        usd_per_gpu_hour=usd,
        stock="HIGH",
        volume_kinds=(),
        max_count=8,
        min_bid_usd_per_gpu_hour=min_bid,
    )


@pytest.mark.parametrize(
    ("cloud", "publish", "said"),
    [
        ("runpod", KEPT, "jobs/job.yaml:5:70: compute.spot is not to be had"),
        ("vast", "", "jobs/job.yaml:5:68: compute.spot needs checkpoints that survive"),
    ],
)
def test_a_bid_is_only_for_what_goes_on_afterwards(cloud: str, publish: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(cloud=cloud, publish=publish)
    assert str(refused.value).startswith(said) and refused.value.hint


def test_bids_come_before_anything_on_demand_and_no_machine_that_asks_for_more() -> None:
    found = ladder(spec(), [offer(), offer("NVIDIA RTX A6000", usd=0.50, min_bid=0.45), offer(min_bid=None, usd=0.39)])
    assert [(it.gpu, it.is_spot, it.usd_per_hour) for it in found] == [
        ("NVIDIA A40", True, 0.28),
        ("NVIDIA A40", False, 0.39),
        ("NVIDIA A40", False, 0.40),
        ("NVIDIA RTX A6000", False, 0.50),
    ]
    assert ", spot" in found[0].place and not any(it.is_spot for it in ladder(spec("count: 1"), [offer()]))
    two = ladder(spec("count: 2, spot: {max_share: 0.7}"), [offer()])
    assert [(it.is_spot, it.usd_per_hour) for it in two] == [(True, 0.56), (False, 0.80)]


def test_where_the_cloud_sets_the_price_that_is_paid_and_not_what_would_be_bid() -> None:
    there = replace(offer(), data_center="india-noida-01", volume_kinds=("STANDARD",))
    asked = spec("spot: {max_share: 0.7}", cloud="jarvislabs", publish="")
    found = ladder(asked, [there, replace(there, min_bid_usd_per_gpu_hour=0.29, data_center="india-chennai-01")])
    assert [(it.is_spot, it.usd_per_hour) for it in found] == [(True, 0.24), (False, 0.40), (False, 0.40)]
    run = Run(job="job", commit="0" * 40, spec_digest="1" * 64, ledger_url="https://git.example/runs.git")
    pod = stack_plan(run, asked, found[0], attempt=1, env={}).pod
    assert pod is not None and (pod.bid_usd_per_hour, pod.max_usd_per_hour) == (0.24, None)


def test_a_spot_machine_is_taken_where_those_on_demand_are_sold_out() -> None:
    there = replace(offer(), data_center="india-noida-01", volume_kinds=("STANDARD",), stock="NONE")
    found = ladder(spec("spot: {max_share: 0.7}", cloud="jarvislabs", publish=""), [there])
    assert [(it.is_spot, it.usd_per_hour, it.on_demand_usd, it.stock) for it in found] == [(True, 0.24, 0.40, "LOW")]
    for asked, least in (("count: 1", 0.24), ("spot: {max_share: 0.5}", 0.24), ("spot: {}", None)):
        with pytest.raises(NoCapacity, match=r"out of stock|sold out"):
            ladder(spec(asked, cloud="jarvislabs", publish=""), [replace(there, min_bid_usd_per_gpu_hour=least)])


def test_a_bid_begins_above_the_least_and_rises_with_each_loss_to_the_most() -> None:
    asked = spec("spot: {max_share: 0.9, interruptions: 3}")
    (bid, here) = ladder(asked, [offer()])
    assert (bid.usd_per_hour, bid.on_demand_usd, here.on_demand_usd) == (pytest.approx(0.24 * 1.2), 0.40, None)
    told = [("claimed", 1, "", dict[str, Any]())]
    paid = []
    for attempt in (1, 2, 3):
        paid += [it.usd_per_hour for it in affordable(asked, record(*told).events, [bid, here]) if it.is_spot]
        told += [placed(attempt, is_spot=True), ("lost", attempt, "Preempted", {})]
    assert paid == pytest.approx([0.288, 0.324, 0.36])
    assert affordable(asked, record(*told).events, [bid, here]) == [here]
    # Where the cloud sets the price there is nothing to raise.
    fixed = replace(bid, cloud="jarvislabs", usd_per_hour=0.24)
    assert affordable(asked, record(*told[:3]).events, [fixed]) == [fixed]


@pytest.mark.parametrize(("least", "most"), [(0.10, 0.28), (0.24, 0.28), (0.28, 0.28)])
def test_no_bid_is_below_the_least_or_above_the_most(least: float, most: float) -> None:
    asked = spec("spot: {max_share: 0.7, interruptions: 20}")
    (bid, _) = ladder(asked, [offer(min_bid=least)])
    steps = [bid_usd(bid, 0.7, raised=number / 10) for number in range(12)]
    assert steps == sorted(steps) and steps[0] >= least and steps[-1] == most
    assert not any(it.is_spot for it in ladder(asked, [offer(min_bid=0.281)]))


def test_the_cap_of_a_bid_is_that_of_the_hours_that_may_follow_on_demand() -> None:
    (bid, here) = ladder(spec("spot: {}, disk_gb: 5"), [offer()])
    assert cap(spec(), bid).cap_usd == cap(spec(), here).cap_usd
    assert cap(spec(), bid).deadline_hours >= cap(spec(), here).deadline_hours


def test_the_ledger_tells_how_long_spot_machines_lasted() -> None:
    began = ("claimed", 1, "", dict[str, Any]())
    one = record(began, placed(1, is_spot=True), ("training", 1, "", {}), ("lost", 1, "Preempted", {}))
    two = record(began, placed(1, is_spot=True), ("finished", 1, "", {}), ("destroying", 1, "", {}))
    other = record(began, placed(1, is_spot=False), ("lost", 1, "PodLost", {}))
    here = [replace(it, run={"cloud": "vast"}) for it in (one, two, other)]
    assert seen(here) == {"vast": Seen(lost=1, hours=pytest.approx(3 / 60))}
    assert seen([other]) == {}


def test_a_bid_travels_with_the_request_and_the_search() -> None:
    candidate = next(iter(ladder(spec(), [offer()])))
    run = Run(job="job", commit="0" * 40, spec_digest="1" * 64, ledger_url="https://git.example/runs.git")
    for place, bid in ((candidate, 0.28), (replace(candidate, is_spot=False, usd_per_hour=0.4), None)):
        pod = stack_plan(run, spec(), place, attempt=1, env={}).pod
        assert pod is not None and pod.bid_usd_per_hour == bid and (pod.max_usd_per_hour is None) == (bid is not None)
        searched, asked = search_for(pod), create_body(pod, {}, [])
        assert asked.get("price") == bid and searched["type"] == ("bid" if bid else "ondemand")
        assert searched.get("min_bid") == ({"lte": bid} if bid else None)


def test_the_least_that_has_to_be_bid_is_the_cheapest_machines() -> None:
    machine = {"id": 1, "gpu_name": "A40", "gpu_ram": 46068, "num_gpus": 2, "dph_base": 0.8, "dph_total": 0.8}
    machines = [machine | {"min_bid": 0.5}, machine | {"id": 2, "dph_base": 0.7, "min_bid": 0.6}]
    (found,) = offers(machines, "SECURE")
    assert (found.usd_per_gpu_hour, found.min_bid_usd_per_gpu_hour) == (0.35, 0.25)
    (none,) = offers([machine], "SECURE")
    assert none.min_bid_usd_per_gpu_hour is None
    pod = PodRequest(
        name="x", image="y", gpu="NVIDIA A40", gpu_count=2, tier="SECURE", disk_gb=10, args="z", bid_usd_per_hour=0.55
    )
    assert [it["id"] for it in matching(machines, pod)] == [1]


# What follows a lost machine.


def record(*told: tuple[str, int, str, dict[str, Any]]) -> RunRecord:
    events = tuple(
        Event(
            seq=number,
            time=f"2026-01-01T00:{number:02d}:00Z",
            state=state,
            writer="control",
            attempt=attempt,
            reason=reason,
            message="",
            data=data,
            prev=None,
            digest="",
        )
        for number, (state, attempt, reason, data) in enumerate(told, 1)
    )
    return replace(EMPTY, events=events)


EMPTY = RunRecord(
    run_id="job-00000000-11111111", tip="", run={}, spec=b"", events=(), result=None, receipt=None, paths={}
)


def placed(attempt: int, *, is_spot: bool) -> tuple[str, int, str, dict[str, Any]]:
    data = {
        "pod_id": f"{attempt}",
        "is_spot": is_spot,
        "data_center": None,
        "deadline_epoch_s": 2e9,
        "usd_per_hour": 0.3,
        "reserve_s": 60.0,
    }
    return "provisioned", attempt, "", data


def step(of: RunRecord, *, is_stopped: bool = False) -> Step:
    now_s = of.last.epoch_s + 1
    return next_step(of, pods=(), cancel_reason=None, now_s=now_s, limits=Limits(), is_stopped=is_stopped)


def test_a_machine_that_was_taken_away_is_told_from_a_pod_that_ended_itself() -> None:
    began = ("claimed", 1, "", dict[str, Any]())
    bid = record(began, placed(1, is_spot=True), ("training", 1, "", {}))
    taken = step(bid, is_stopped=True)
    assert (taken.kind, taken.reason) == ("lost", "Preempted") and "pays more" in taken.message
    said = step(record(began, placed(1, is_spot=True), ("preempted", 1, "", {})))
    assert (said.reason, said.message) == ("Preempted", taken.message)
    for gone in (step(bid), step(record(began, placed(1, is_spot=False), ("training", 1, "", {})), is_stopped=True)):
        assert (gone.kind, gone.reason) == ("lost", "PodLost")
    assert "no python3 or git" in step(record(began, placed(1, is_spot=True))).message


def test_a_lost_bid_costs_no_attempt_and_after_some_the_rest_is_on_demand() -> None:
    lost = [("claimed", 1, "", dict[str, Any]())]
    for attempt in (1, 2):
        lost += [placed(attempt, is_spot=True), ("lost", attempt, "Preempted", {})]
    lost += [placed(3, is_spot=False), ("lost", 3, "PodLost", {})]
    after = record(*lost)
    assert lost_machines(after.events) == 2
    assert (step(after).kind, step(after).attempt) == ("provision", 4)
    bare = [("claimed", 1, "", dict[str, Any]()), placed(3, is_spot=False), ("lost", 3, "PodLost", {})]
    assert step(record(*bare)).reason == "TooManyAttempts"
    candidates: list[Candidate] = ladder(spec(), [offer()])
    assert [it.is_spot for it in affordable(spec(), after.events[:3], candidates)] == [True, False]
    assert [it.is_spot for it in affordable(spec(), after.events, candidates)] == [False]
