"""The ladder against RunPod in memory: what is asked, what is left, what is said, and how many requests it takes."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from climb_world import World
from test_lifecycle import record as record_of

from infra.simulator.catalog import Stock
from infra.simulator.state import PodOrder
from pushtrain.cloud import LISTS_BEHIND_S, VolumeRequest
from pushtrain.errors import CloudUnavailable, LedgerUnavailable, NoBalance, RequestRejected
from pushtrain.events import EventDraft, now_text
from pushtrain.receipt import billed
from pushtrain.rented import elsewhere_usd, made_s, rented
from pushtrain.run import Run
from pushtrain.teardown import may_be_unlisted_s

SOLD_OUT = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again."
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(folder=tmp_path)


def refuse_pods(world: World, status: int, detail: str, *, gpu: str = "") -> list[str]:
    """Every pod (of one GPU type) is refused; the list grows by the data center of each that was asked for."""
    asked: list[str] = []

    def refuse(path: str, body: Any) -> tuple[int, str] | None:
        if path != "/v2/pods" or (gpu and body["gpu"]["id"] != gpu):
            return None
        asked.append(next(iter(body.get("dataCenterIds", ["community"]))))
        return status, detail

    world.runpod.refuse = refuse
    return asked


def make_pod(world: World, run: Run, attempt: int = 1, age_s: float = 0.0, **order: Any) -> str:
    """A pod of the run that somebody else made, `age_s` ago."""
    values = {"gpu": "NVIDIA A40", "data_centers": ("CA-MTL-1",), **order}
    made = world.runpod.account.create_pod(
        PodOrder(name=run.pod_name(attempt), image="x", **values), world.runpod.now_s - age_s
    )
    return made.id


def _restock(world: World, level: Stock) -> None:
    catalog = world.runpod.account.catalog
    gpu = catalog.gpus["NVIDIA A40"]
    world.runpod.account.catalog = replace(
        catalog, gpus={**catalog.gpus, gpu.id: replace(gpu, stock={**gpu.stock, "EU-SE-1": level})}
    )


def alive(world: World) -> list[str]:
    return [pod.id for pod in world.runpod.account.live_pods()]


# -- requests


@pytest.mark.parametrize("active", [0, 1, 100])
def test_a_tick_asks_for_one_list_of_pods_and_one_of_volumes_however_many_runs_are_active(world: World, active: int):
    control = world.control()
    for number in range(active):
        world.running(control, f"job-{number}")
    assert len(alive(world)) == active
    world.runpod.now_s += 10
    seen: list[Any] = []
    assert world.requests(lambda: seen.append(world.tick(control))) == 2
    assert len(seen[0].active) == active and not seen[0].failures


def test_thirty_runs_that_wait_for_one_gpu_ask_for_it_once_a_minute(world: World):
    asked = refuse_pods(world, 400, SOLD_OUT)
    control = world.control()
    for number in range(30):
        world.job(f"job-{number}", more="data_centers: [EU-SE-1]")
    first = world.requests(lambda: world.tick(control))
    assert asked == ["EU-SE-1"] and first <= 20
    world.runpod.now_s += 10
    assert world.requests(lambda: world.tick(control)) == 2, "nobody asks again within the minute"
    world.runpod.now_s += 60
    assert world.requests(lambda: world.tick(control)) <= 20 and len(asked) == 2
    assert all(len(world.events("waiting", f"job-{number}")) == 1 for number in (0, 29))
    for minutes, times in ((1, 2), (2, 3), (3, 3), (5, 4)):
        world.runpod.now_s += 60 * minutes
        world.tick(control)
        assert len(asked) == times, "less often each time it says no"
    _restock(world, "LOW")
    world.runpod.now_s += 60
    world.tick(control)
    assert len(asked) == 5, "the catalogue shows something new"
    assert world.runpod.account.live_volumes() == [], "whoever waits holds nothing"


def test_what_one_run_costs_in_requests(world: World):
    """Kept here so that a change which doubles it is seen."""
    world.job()
    control = world.control()
    made = world.requests(lambda: world.tick(control))
    world.say("finished")
    ended = world.requests(lambda: world.tick(control))
    assert (made, ended) == (16, 12)
    assert alive(world) == [] and world.record().is_over


# -- one pod


def test_a_pod_of_an_earlier_attempt_is_gone_before_the_next_one_is_made(world: World):
    world.job()
    world.tick()
    (first,) = alive(world)
    world.control().ledger.append(
        world.record().run_id, events=[EventDraft(state="lost", writer="control", attempt=1, reason="PodLost")]
    )
    order = world.runpod.asked
    world.tick()
    (second,) = alive(world)
    assert second != first and world.events("provisioned")[-1].attempt == 2
    assert order["POST", "/v2/pods/…"] >= 1


def test_a_pod_that_will_not_go_holds_the_next_attempt_back(world: World):
    world.job()
    world.tick()
    (first,) = alive(world)
    world.control().ledger.append(
        world.record().run_id, events=[EventDraft(state="lost", writer="control", attempt=1, reason="PodLost")]
    )
    terminate, world.runpod.account.terminate_pod = world.runpod.account.terminate_pod, lambda *_: None  # type: ignore[method-assign,assignment,return-value]
    assert "still there" in str(world.fails(CloudUnavailable))
    assert alive(world) == [first] and not [event for event in world.events("provisioned") if event.attempt == 2]
    world.runpod.account.terminate_pod = terminate  # type: ignore[method-assign]
    world.tick()
    assert len(alive(world)) == 1 and alive(world) != [first]


def test_twins_that_their_creators_could_not_see_are_told_apart_by_the_next_tick(world: World):
    """Lists that are behind: both creators looked again, both saw only their own."""
    world.job()
    world.tick()
    (mine,) = alive(world)
    world.runpod.now_s += 1
    twin = make_pod(world, world.run())
    assert len(alive(world)) == 2
    world.tick()
    assert alive(world) == [mine] and twin != mine
    assert any("one too many" in line for line in world.said)
    assert set(rented(world.record())[0]) == {mine, twin}, "both were billed"


def test_what_a_twin_at_another_cloud_cost_is_added_to_the_bill(world: World):
    world.job()
    world.tick()
    notes = {f"rented/pod-{name}": {"cloud": name, "usd": 0.5} for name in ("runpod", "vast")}
    mine = replace(world.record(), rented=notes)
    assert elsewhere_usd(mine) == 0.5
    assert billed(world.control(), mine).pods_usd == billed(world.control(), world.record()).pods_usd + 0.5


def test_what_a_twin_cost_before_anybody_saw_it_shortens_the_run(world: World):
    world.job(max_usd=0.25)
    world.tick()
    (mine,) = alive(world)
    world.runpod.now_s += 1
    make_pod(world, world.run())
    world.say("training")
    world.runpod.now_s += 600.0
    world.tick()
    (provisioned,) = world.events("provisioned")
    (twin,) = world.record().rented.values()
    per_hour = float(provisioned.data["usd_per_hour"])
    assert twin["usd"] == pytest.approx(0.4 / 6, rel=0.15), "ten minutes of an A40"
    earlier_s = twin["usd"] / per_hour * 3600
    world.runpod.now_s = float(provisioned.data["deadline_epoch_s"]) - earlier_s
    world.tick()
    assert alive(world) == [mine], "a pod gets a minute to end itself"
    world.runpod.now_s += 61.0
    world.tick()
    assert alive(world) == [] and (world.record().receipt or {})["outcome"] == "failed"
    assert world.record().events[-1].reason == "DeadlineReached"


def test_what_is_billed_does_not_wait_for_a_ledger_that_takes_no_push(world: World):
    world.job()
    world.tick()
    world.say("finished")
    world.pushes_refused = True
    world.fails(LedgerUnavailable)
    assert alive(world) == [] and not world.runpod.account.live_volumes()
    world.pushes_refused = False
    world.tick()
    record = world.record()
    assert (record.receipt or {})["outcome"] == "succeeded" and len((record.receipt or {})["pods"]) == 1


def test_a_run_whose_recorded_pod_was_the_twin_that_went_goes_on(world: World):
    world.job()
    world.tick()
    (recorded,) = alive(world)
    kept = make_pod(world, world.run())
    world.runpod.account.terminate_pod(recorded, world.runpod.now_s)
    world.tick()
    world.say("training")
    world.tick()
    assert alive(world) == [kept] and not world.events("lost") and len(world.events("provisioned")) == 1
    world.say("finished")
    world.tick()
    assert alive(world) == [] and world.record().is_over


@pytest.mark.parametrize("is_lost", [False, True], ids=["at work", "lost"])
def test_what_an_older_twin_cost_before_it_went_on_in_a_named_pods_place_is_counted_once(world: World, is_lost: bool):
    """No list showed it while the younger one was made and written down."""
    world.job()
    world.tick()
    (named,) = world.events("provisioned")
    older = make_pod(world, world.run(), age_s=600.0)
    world.runpod.now_s += 60
    world.tick()
    assert alive(world) == [older]
    if is_lost:
        world.runpod.now_s += 60
        draft = EventDraft(state="failed", writer="pod", attempt=1, reason="StepGap")
        world.control().ledger.append(world.record().run_id, events=[draft])
        world.tick()
        assert older not in alive(world) and world.events("lost")
    notes = {path.removeprefix("rented/pod-"): note["usd"] for path, note in world.record().rented.items()}
    per_hour = world.runpod.account.pods[older].usd_per_hour
    assert notes[older] == pytest.approx(per_hour / 6, rel=0.1), "ten minutes, not its whole life"
    assert notes[named.data["pod_id"]] == pytest.approx(per_hour / 60, rel=0.1), "a minute"


def test_a_reconcile_that_is_behind_makes_nothing_beside_a_later_attempt(world: World):
    world.job()
    refuse_pods(world, 400, SOLD_OUT)
    world.tick()
    world.runpod.refuse = lambda path, body: None
    later = make_pod(world, world.run(), attempt=2)
    world.runpod.now_s += 60
    assert "a later attempt" in str(world.fails(CloudUnavailable))
    assert alive(world) == [later]


def test_a_pod_that_somebody_else_asked_for_on_another_rung_is_written_down_as_what_it_is(world: World):
    world.job(gpus="NVIDIA A40, NVIDIA RTX A6000")
    refuse_pods(world, 400, SOLD_OUT)
    control = world.control()
    world.tick(control)

    def appears(path: str, body: Any) -> tuple[int, str] | None:
        if path == "/v2/pods":
            make_pod(world, world.run(), gpu="NVIDIA RTX A6000", data_centers=("EU-SE-1",))
            return 500, "Something went wrong."
        return None

    world.runpod.refuse = appears
    world.tick()
    (provisioned,) = world.events("provisioned")
    (pod,) = world.runpod.account.live_pods()
    assert (provisioned.data["pod_id"], provisioned.data["gpu"]) == (pod.id, "NVIDIA RTX A6000")
    assert provisioned.data["data_center"] == "EU-SE-1" and provisioned.data["usd_per_hour"] > 0.49


def test_a_pod_that_a_create_adopts_has_the_time_and_the_deadline_of_whoever_asked_for_it(world: World):
    world.job()
    refuse_pods(world, 400, SOLD_OUT)
    world.tick()
    (first,) = world.events("provisioning")
    world.runpod.now_s += 800

    def appears(path: str, body: Any) -> tuple[int, str] | None:
        if path == "/v2/pods":
            make_pod(world, world.run(), age_s=790.0, data_centers=(body["dataCenterIds"][0],))
            return 500, "Something went wrong."
        return None

    world.runpod.refuse = appears
    world.tick()
    (provisioned,) = world.events("provisioned")
    assert len(world.events("provisioning")) == 2, "planned anew meanwhile"
    assert provisioned.epoch_s == pytest.approx(world.runpod.account.live_pods()[0].created_at, abs=1)
    deadlines = {rung["data_center"]: rung["deadline_epoch_s"] for rung in first.data["rungs"]}
    assert provisioned.data["deadline_epoch_s"] == deadlines[provisioned.data["data_center"]]


def test_what_was_made_is_written_down_though_nobody_may_look_again(world: World):
    world.job()

    looks = count()

    def refuses_lists(method: str, path: str) -> str | None:
        """From the second look on: the first is the client's own."""
        is_look = (method, path) == ("GET", "/v2/pods") and bool(world.runpod.account.live_pods())
        return "500" if is_look and next(looks) else None

    world.runpod.spoil = refuses_lists
    world.tick()
    (mine,) = alive(world)
    (provisioned,) = world.events("provisioned")
    assert provisioned.data["pod_id"] == mine and any("not looked at again" in line for line in world.said)
    world.runpod.spoil = lambda method, path: None
    world.tick()
    assert alive(world) == [mine]


@pytest.mark.parametrize("told", [None, "a while ago"])
def test_a_pod_of_which_nobody_says_when_it_was_made_counts_from_its_first_plan(world: World, told: str | None):
    """Nor what it has cost."""
    world.job()
    world.tick()
    control, (planned,) = world.control(), world.events("provisioning")
    (pod,) = control.cloud.find("pt-").pods
    world.runpod.spoil = lambda method, path: "500" if "billing" in path else None
    assert made_s(control, world.record(), replace(pod, created_at=told), world.now_s()) == planned.epoch_s
    assert made_s(control, world.record(), pod, world.now_s()) == pytest.approx(world.now_s(), abs=60)


def test_a_pod_that_a_list_which_is_behind_does_not_show_is_asked_for_by_its_id(world: World):
    world.job()
    world.runpod.lag = 1000
    world.tick()
    (mine,) = alive(world)
    for seconds in (1.0, 61.0):  # also when it is old enough for a look at its log
        world.runpod.now_s += seconds
        world.tick()
        assert alive(world) == [mine] and not world.events("lost")
    assert world.runpod.asked["GET", "/v2/pods/…"] >= 2
    world.runpod.account.terminate_pod(mine, world.runpod.now_s)
    world.tick()
    assert world.events("lost")[0].reason == "PodLost", "nor is it known by its id any more"


@pytest.mark.parametrize("is_told", [True, False], ids=["told its id", "not told"])
def test_a_pod_that_has_spoken_and_is_in_no_list_yet_is_not_gone(world: World, is_told: bool):
    world.job()
    world.runpod.refuse = lambda path, body: (500, "Something went wrong.") if path == "/v2/pods" else None
    world.fails(CloudUnavailable)
    world.runpod.refuse, world.runpod.lag = lambda path, body: None, 1000
    mine = make_pod(world, world.run())
    record, word = world.record(), now_text(world.now_s())
    booting = EventDraft(state="booting", writer="pod", attempt=1, data={"pod": mine if is_told else ""}, time=word)
    world.control().ledger.append(record.run_id, events=[booting])
    if not is_told:
        assert "has spoken" in str(world.fails(CloudUnavailable)) and not world.events("provisioned")
        world.runpod.lag = 0
    world.tick()
    assert alive(world) == [mine] and not world.events("lost")
    assert [it.data["pod_id"] for it in world.events("provisioned")] == [mine]


@pytest.mark.parametrize(
    ("texts", "elsewhere_s", "at_jarvislabs_s"),
    [
        ("claimed", 0.0, 0.0),
        ("claimed provisioning", LISTS_BEHIND_S, 300.0),
        ("claimed provisioning cancelled destroying", LISTS_BEHIND_S, 300.0),
        ("claimed provisioning waiting cancelled", 0.0, 0.0),
        ("claimed provisioning failed", 0.0, 300.0),
        ("claimed provisioning provisioned booting failed", 0.0, 0.0),
        ("claimed provisioning:1 provisioned:1 lost:1 provisioning:2", LISTS_BEHIND_S, 300.0),
    ],
)
def test_what_a_create_made_may_be_in_no_list_where_its_climb_named_no_pod(
    texts: str, elsewhere_s: float, at_jarvislabs_s: float
):
    made = record_of(*texts.split())
    assert may_be_unlisted_s(made) == elsewhere_s
    assert may_be_unlisted_s(replace(made, run={"cloud": "jarvislabs"})) == at_jarvislabs_s


def test_a_pod_of_our_name_on_no_rung_is_terminated(world: World):
    world.job()

    def appears(path: str, body: Any) -> tuple[int, str] | None:
        if path == "/v2/pods" and not alive(world):
            make_pod(world, world.run(), gpu="NVIDIA L40S", data_centers=("US-KS-2",))
            return 500, "Something went wrong."
        return None

    world.runpod.refuse = appears
    assert "no recorded rung" in str(world.fails(CloudUnavailable))
    assert alive(world) == []


# -- refusals


def test_a_400_nobody_knows_is_the_next_candidates_turn_and_from_all_of_them_a_fault_of_the_request(world: World):
    world.job(gpus="NVIDIA A40, NVIDIA RTX A6000")
    asked = refuse_pods(world, 400, "args must not contain a semicolon")
    failure = world.fails(RequestRejected)
    assert "semicolon" in str(failure) and len(asked) == 5, "every candidate was asked"
    (failed,) = world.events("failed")
    assert failed.reason == "RequestRejected" and "semicolon" in failed.message
    world.tick()
    assert world.record().is_over, "not waited for all night"
    assert alive(world) == [] and world.runpod.account.live_volumes() == []


def test_one_candidate_without_capacity_among_others_that_refuse_is_waited_for(world: World):
    world.job(gpus="NVIDIA A40, NVIDIA RTX A6000")
    asked = refuse_pods(world, 400, "this pool is closed to you", gpu="NVIDIA A40")
    inner = world.runpod.refuse
    world.runpod.refuse = lambda path, body: inner(path, body) or ((400, SOLD_OUT) if path == "/v2/pods" else None)
    assert not world.tick().failures and asked
    assert world.events("waiting")[-1].reason == "NoCapacity"


@pytest.mark.parametrize(
    ("status", "detail", "kind", "state"),
    [
        (402, "Your account balance is too low to rent a pod.", NoBalance, "waiting"),
        (422, "Request validation failed.", RequestRejected, "failed"),
        (410, "gone", RequestRejected, "failed"),
    ],
)
def test_what_holds_for_every_candidate_stops_the_climb_and_leaves_no_volume(
    world: World, status: int, detail: str, kind: Any, state: str
):
    world.job(gpus="NVIDIA A40, NVIDIA RTX A6000")
    asked = refuse_pods(world, status, detail)
    assert detail in str(world.fails(kind)) and len(asked) == 1
    assert world.record().last.state == state
    assert world.runpod.account.live_volumes() == []


def test_a_pool_that_is_closed_is_skipped(world: World):
    world.job(gpus="NVIDIA A40, NVIDIA RTX A6000")
    refuse_pods(world, 403, "access denied", gpu="NVIDIA A40")
    assert not world.tick().failures
    assert world.events("provisioned")[0].data["gpu"] == "NVIDIA RTX A6000"
    assert len(world.runpod.account.live_volumes()) == 1


# -- tiers


def test_a_community_pod_has_a_disk_of_its_own_and_the_run_no_volume(world: World):
    world.job(gpus="NVIDIA RTX A6000", more="tiers: [COMMUNITY]", max_usd=1.0)
    world.tick()
    (pod,) = world.runpod.account.live_pods()
    assert (pod.tier, pod.data_center, pod.volume_id, pod.persistent_gb) == ("COMMUNITY", None, None, 10)
    assert pod.mount_path == "/workspace" and world.runpod.account.live_volumes() == []
    (provisioned,) = world.events("provisioned")
    storage = (10 + 40) * 0.10 / 730
    assert provisioned.data["usd_per_hour"] == pytest.approx(0.33 + storage, abs=1e-5)
    assert provisioned.data["volume_usd_per_hour"] == 0 and provisioned.data["volume_id"] == ""
    assert "on a community machine" in provisioned.message
    world.say("finished")
    world.tick()
    receipt = world.record().receipt or {}
    assert receipt["outcome"] == "succeeded" and receipt["volumes"] == [] and receipt["pods"] == [pod.id]
    assert alive(world) == []


def test_a_lost_community_pod_pins_nothing_and_the_next_attempt_may_be_secure(world: World):
    world.job(gpus="NVIDIA RTX A6000", more="tiers: [COMMUNITY, SECURE]")
    world.tick()
    (first,) = world.runpod.account.live_pods()
    world.runpod.account.terminate_pod(first.id, world.runpod.now_s)
    inner = world.runpod.refuse
    world.runpod.refuse = lambda path, body: (400, SOLD_OUT) if body.get("cloud") == "COMMUNITY" else inner(path, body)
    world.tick()
    (second,) = world.runpod.account.live_pods()
    assert (second.tier, second.data_center) == ("SECURE", "CA-MTL-1") and second.volume_id is not None
    (lost,) = world.events("lost")
    assert lost.attempt == 1
    world.runpod.account.terminate_pod(second.id, world.runpod.now_s)
    world.runpod.refuse = inner
    world.tick()
    (third,) = world.runpod.account.live_pods()
    assert third.volume_id == second.volume_id, "a volume that a pod ran on pins the run to it"


def test_secure_first_falls_back_on_community_and_leaves_no_volume(world: World):
    world.job(gpus="NVIDIA RTX A6000", more="tiers: [SECURE, COMMUNITY]")
    world.runpod.refuse = lambda path, body: (400, SOLD_OUT) if body.get("cloud") == "SECURE" else None
    world.tick()
    (pod,) = world.runpod.account.live_pods()
    assert pod.tier == "COMMUNITY" and world.runpod.account.live_volumes() == []


def test_the_adapter_of_a_community_pod_is_gone_with_it_and_training_is_not_repeated(world: World):
    world.job(gpus="NVIDIA RTX A6000", more="tiers: [COMMUNITY]")
    world.tick()
    control = world.control()
    run_id = world.record().run_id
    control.ledger.append(
        run_id,
        events=[
            EventDraft(state="publishing", writer="pod", attempt=1),
            EventDraft(state="failed", writer="pod", attempt=1, reason="HubUnreachable"),
        ],
    )
    world.tick()
    assert world.record().is_over and len(world.events("provisioned")) == 1


@pytest.mark.parametrize("center", ["US-KS-2", "EU-SE-1"])
def test_the_standard_kind_of_volume_is_asked_for_where_there_is_one(world: World, center: str):
    bodies: list[Any] = []
    world.runpod.refuse = lambda path, body: bodies.append(body) if path == "/v2/network-volumes" else None
    world.job(more=f"data_centers: [{center}]")
    world.tick()
    assert [body["type"] for body in bodies] == ["STANDARD"]


def test_a_volume_of_our_name_from_another_time_is_used_and_none_is_made(world: World):
    world.job()
    refuse_pods(world, 400, SOLD_OUT)
    control = world.control()
    world.tick(control)
    world.runpod.refuse = lambda path, body: None
    kept = control.cloud.create_volume(VolumeRequest(name=world.run().volume_name, size_gb=10, data_center="US-KS-2"))
    world.runpod.now_s += 60
    world.tick()
    (pod,) = world.runpod.account.live_pods()
    assert (pod.volume_id, pod.data_center) == (kept.id, "US-KS-2"), "a volume pins its data center"


def test_a_volume_that_a_climb_cut_short_left_behind_has_spent_of_the_budget(world: World):
    """Killed between volume and pod, and the next tick is an hour away: no event names the volume, and it is billed."""
    world.job(max_usd=0.1, more="data_centers: [CA-MTL-1]")
    control = world.control()
    made = control.cloud.create_pod

    def die(request: Any) -> Any:
        raise KeyboardInterrupt

    control.cloud.create_pod = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.tick(control)
    began_s, control.cloud.create_pod = world.now_s(), made  # type: ignore[method-assign]
    world.runpod.now_s += 20 * 3600
    world.tick()
    (provisioned,) = world.events("provisioned")
    seconds = float(provisioned.data["deadline_epoch_s"]) + float(provisioned.data["reserve_s"]) - world.now_s()
    pod_usd = seconds / 3600 * float(provisioned.data["usd_per_hour"])
    volume_usd = (world.now_s() - began_s) / 3600 * float(provisioned.data["volume_usd_per_hour"])
    assert volume_usd > 0.01
    assert pod_usd + volume_usd <= 0.1
