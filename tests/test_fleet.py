"""Several clouds under one control plane: one that is away keeps nobody else from being looked after."""

from pathlib import Path

import pytest
from climb_world import World

from infra.clouds import connect_all
from infra.clouds.vast.client import Vast
from infra.clouds.wire import Limits
from pushtrain.claim import claim
from pushtrain.cloud import PodRequest
from pushtrain.errors import CloudAuthFailed, CloudError, CloudUnavailable, RequestRejected
from pushtrain.fleet import Fleet, listing, member, members
from pushtrain.live.top import Top, draw
from pushtrain.run import ledger_prefix

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(folder=tmp_path)


@pytest.fixture
def away() -> Vast:
    return Vast("key", NOWHERE, limits=Limits(attempts=1), sleep=lambda seconds: None)


def test_what_one_cloud_lists_is_known_and_what_another_holds_is_not(world: World, away: Vast) -> None:
    here = world.control().cloud
    both = Fleet({"runpod": here, "vast": away})
    found = listing(both, "pt-")
    assert list(found.by_cloud) == ["runpod"] and not found.live
    assert isinstance(found.away["vast"], CloudUnavailable)
    for asks_all in (lambda: both.find("pt-"), lambda: listing(away, ""), lambda: listing(Fleet({"vast": away}), "")):
        with pytest.raises(CloudUnavailable):
            asks_all()


def test_an_id_alone_says_nothing_of_its_cloud(world: World, away: Vast) -> None:
    here = world.control().cloud
    both = Fleet({"runpod": here, "vast": away})
    request = PodRequest(name="x", image="y", gpu="z", gpu_count=1, tier="SECURE", disk_gb=10, args="")
    for asks_one in (
        lambda: both.read_pod("1234567"),
        lambda: both.terminate("1234567"),
        lambda: both.logs("1234567"),
        lambda: both.bill(["1234567"], [], "2026-01-01T00:00:00Z"),
        lambda: both.create_pod(request),
        lambda: both.delete_volume("abc"),
        lambda: both.offers(),
    ):
        with pytest.raises(RequestRejected, match=r"RunPod or Vast\.ai\?"):
            asks_one()
    assert members(here) == {"runpod": here} and member(both, "vast") is away
    with pytest.raises(CloudAuthFailed, match="VAST_API_KEY is not set"):
        member(here, "vast")


def test_runs_of_a_cloud_that_answers_go_on_while_another_is_away(world: World, away: Vast) -> None:
    control = world.control()
    prefix = ledger_prefix(control.settings.ledger_url)
    control.cloud = Fleet({"runpod": control.cloud, "vast": away})
    world.job("there", more="cloud: vast")
    claim(control, world.checkout.jobs["there"], [], trigger="push")
    before = world.record("there").tip
    world.job("here")
    world.job("later", more="cloud: vast")
    report = world.tick(control)
    assert [type(failure) for failure in report.failures] == [CloudUnavailable, CloudUnavailable]
    assert report.exit_code == CloudUnavailable.exit_code
    assert [pod.name.split("-")[2] for pod in control.at("runpod").cloud.find(prefix).pods] == ["here"]
    assert world.record("here").last.state == "provisioned" and world.record("there").tip == before
    assert sorted(run_id.partition("-")[0] for run_id in report.active) == ["here", "there"]
    said = [line for line in world.said if "left alone" in line]
    assert len(said) == 1 and "there-" in said[0]
    # Asked for again with the next tick, like every job that has no claim.
    assert any("jobs/later.yaml: not claimed: CloudUnavailable" in line for line in world.said)


def test_what_nobody_owns_is_swept_at_the_cloud_that_answers(world: World, away: Vast) -> None:
    control = world.control()
    mark = ledger_prefix(control.settings.ledger_url)
    world.job("here")
    world.running(control, "here")
    orphan = control.cloud.create_pod(
        PodRequest(
            name=f"{mark}gone-0-0-a1", image="x", gpu="NVIDIA A40", gpu_count=1, tier="SECURE", disk_gb=10, args="x"
        )
    )
    control.cloud = Fleet({"runpod": control.cloud, "vast": away})
    report = world.tick(control)
    assert [line.partition(" (")[0] for line in report.swept] == [f"pod {mark}gone-0-0-a1"]
    assert control.at("runpod").cloud.read_pod(orphan.id) is None
    assert [type(failure) for failure in report.failures] == [CloudUnavailable]


def test_top_shows_what_the_other_clouds_have_while_one_is_away(world: World, away: Vast) -> None:
    world.job()
    world.tick()
    control = world.control()
    top = Top(control.ledger, Fleet({"runpod": control.cloud, "vast": away}), clock=world.now_s)
    (row,) = top.look()
    assert row.pod_id == world.runpod.account.live_pods()[0].id
    (said,) = top.unknown()
    assert said.startswith("what Vast.ai has is not known: ") and draw([row], [said]).caption == said
    top.cloud = Fleet({"vast": away})
    with pytest.raises(CloudUnavailable):
        top.look()


KEYS = {"RUNPOD_API_KEY": "rpa_0123456789abcdef", "LAMBDA_API_KEY": "secret_0123456789abcdef"}


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("modal", {"MODAL_TOKEN_SECRET": "as-0123456789abcdef"}, "MODAL_TOKEN_ID is empty"),
        ("vast", {"VAST_API_KEY": "abc def"}, r"the Vast\.ai API key is empty or has characters"),
        ("vast", {"VAST_API_KEY": "0123456789abcdef", "VAST_URL": "http://vast.example"}, "VAST_URL .* must be https"),
    ],
)
def test_a_key_or_a_url_that_no_client_takes_is_a_cloud_that_is_away(
    world: World, name: str, wrong: dict[str, str], says: str
) -> None:
    """Of one cloud alone it fails at once, as ever; of several the others are looked after."""
    with pytest.raises(CloudError, match=says) as alone:
        connect_all(wrong)
    several = connect_all(KEYS | wrong)
    assert sorted(members(several)) == sorted(["runpod", "lambda", name])
    unusable = member(several, name)
    assert unusable.name == name
    for asks in (unusable.volumes, unusable.ssh_keys, lambda: unusable.terminate("1"), lambda: unusable.find("")):
        with pytest.raises(type(alone.value), match=says):
            asks()
    control = world.control()
    control.cloud = Fleet({"runpod": control.cloud, name: unusable})
    world.job("here", more=f"cloud: [{name}, runpod]")
    report = world.tick(control)
    assert [(type(it), it.hint) for it in report.failures] == [(type(alone.value), alone.value.hint)]
    assert world.record("here").last.state == "provisioned" and report.exit_code == 3


def test_where_no_key_can_be_used_the_first_says_why() -> None:
    with pytest.raises(CloudAuthFailed, match="RunPod"):
        connect_all({"RUNPOD_API_KEY": "abc def", "VAST_API_KEY": "abc def"})
