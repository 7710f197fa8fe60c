"""`extend`: what is added is written down with its actor, held against the policy, and used by the next attempt."""

from pathlib import Path

import pytest
from climb_world import World

from pushtrain.budget import cap_usd
from pushtrain.errors import PushtrainError, SpecError
from pushtrain.extend import More, extend
from pushtrain.lookup import newest_run
from pushtrain.policy.file import parse_policy
from pushtrain.policy.outside import Outside


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(folder=tmp_path)
    made.job(max_hours=1.0, max_usd=10.0)
    made.tick()
    made.say("training")
    return made


def policy(world: World, text: str) -> None:
    world.checkout.policy = parse_policy(f"version: 1\n{text}\n".encode())


def to_deadline(world: World, seconds: float = 0.0) -> None:
    world.runpod.now_s = float(world.events("provisioned")[-1].data["deadline_epoch_s"]) + seconds


def test_a_pod_at_its_deadline_is_followed_by_another_on_the_same_volume_for_what_was_added(world: World) -> None:
    added = More(hours=2.0, by="ann", why="nearly there")
    assert extend(world.control(), "job", added).last.state == "training", "a note is not where a run stands"
    (note,) = world.events("extended")
    assert (note.data["by"], note.message, note.data["hours"]) == ("ann", "nearly there", 2.0)
    to_deadline(world, -1)
    world.tick()
    assert len(world.events("provisioned")) == 1, "the pod keeps its deadline"
    to_deadline(world, 61)
    world.tick()
    world.tick()
    first, second = world.events("provisioned")
    assert world.events("lost")[0].reason == "DeadlineReached"
    assert first.data["volume_id"] == second.data["volume_id"] and first.data["pod_id"] != second.data["pod_id"]
    hours = (float(second.data["deadline_epoch_s"]) - second.epoch_s) / 3600
    assert hours == pytest.approx(2.0, abs=0.1)
    to_deadline(world, 61)
    world.tick()
    assert (world.record().receipt or {})["outcome"] == "failed", "what was added is used up"
    assert world.record().last.reason == "DeadlineReached" and not world.runpod.account.live_volumes()


def test_without_an_extension_the_same_deadline_ends_the_run(world: World) -> None:
    to_deadline(world, 61)
    world.tick()
    assert (world.record().receipt or {})["outcome"] == "failed" and len(world.events("provisioned")) == 1


def test_a_workflow_that_is_run_again_adds_nothing(world: World) -> None:
    for _ in range(2):
        extend(world.control(), "job", More(usd=3.0, request="42"))
    record = extend(world.control(), "job", More(usd=1.0, request="43"))
    assert cap_usd(record) == 14.0 and len(world.events("extended")) == 2


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        ("max_usd_per_run: 12", More(usd=3.0), "PolicyViolation"),
        ("max_hours: 2", More(hours=1.5), "PolicyViolation"),
        ("max_usd_per_month: 12", More(usd=3.0), "PolicyViolation"),
        ("approval: {above_usd: 11, reviews: 1}", More(usd=3.0), "ApprovalMissing"),
        ("max_usd_per_run: 25", More(hours=800.0), "InvalidSpec"),
        ("max_usd_per_run: 25", More(), "NothingAdded"),
        ("max_usd_per_run: 25", More(hours=float("nan")), "NothingAdded"),
        ("max_usd_per_run: 25", More(hours=3.0, usd=-1.0), "NothingAdded"),
    ],
)
def test_what_policy_and_bounds_do_not_allow_is_refused_and_not_written(
    world: World, text: str, more: More, reason: str
) -> None:
    policy(world, text)
    with pytest.raises(PushtrainError) as refused:
        extend(world.control(), "job", more)
    assert refused.value.reason == reason, refused.value
    assert not world.events("extended")
    extend(world.control(), "job", More(hours=0.5))


@pytest.mark.parametrize("by", [["bob"], []])
def test_above_the_sum_an_approval_of_the_environment_counts_and_is_recorded(world: World, by: list[str]) -> None:
    """Who wrote the wish is not among them: `Approvals.released` leaves out who started the workflow run."""
    policy(world, "approval: {above_usd: 11, environment: gpu}")
    control = world.control()
    control.outside = Outside(released=lambda wanted, environment: by if environment == "gpu" else ["nobody"])
    if not by:
        with pytest.raises(SpecError, match="nobody but who started it") as refused:
            extend(control, "job", More(usd=3.0))
        assert refused.value.reason == "ApprovalMissing" and "required reviewers" in str(refused.value.hint)
        assert not world.events("extended")
        return
    extend(control, "job", More(usd=3.0, by="ann"))
    (note,) = world.events("extended")
    assert (note.data["approved_by"], note.data["environment"], note.data["by"]) == (["bob"], "gpu", "ann")
    assert cap_usd(newest_run(world.control().ledger, "job")) == 13.0


def test_two_extensions_are_held_against_the_policy_together(world: World) -> None:
    policy(world, "max_usd_per_run: 14\nmax_usd_per_month: 14")
    extend(world.control(), "job", More(usd=3.0))
    with pytest.raises(SpecError, match=r"pushtrain-policy.yaml:\d.*\$16"):
        extend(world.control(), "job", More(usd=3.0))
    extend(world.control(), "job", More(usd=1.0))
    assert cap_usd(newest_run(world.control().ledger, "job")) == 14.0


def test_a_run_at_its_end_is_not_extended(world: World) -> None:
    world.say("finished")
    with pytest.raises(PushtrainError, match="at its end"):
        extend(world.control(), "job", More(hours=1.0))
    world.tick()
    with pytest.raises(PushtrainError, match="at its end") as refused:
        extend(world.control(), "job", More(hours=1.0))
    assert "pushtrain retry" in str(refused.value.hint) and not world.events("extended")
