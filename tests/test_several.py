"""A job that may go to several clouds: where it is asked first, that it moves while nothing is rented, and never after.

The second cloud is another account behind the same client, with the name and the capabilities of Vast.ai.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from climb_world import World
from runpod_memory import MemoryRunPod

from infra.clouds.runpod.client import RunPod
from infra.clouds.wire import Limits
from infra.engine_embedded import EmbeddedEngine
from infra.simulator.catalog import Stock
from infra.simulator.state import PodOrder
from pushtrain.cloud import Cloud
from pushtrain.control import Control
from pushtrain.errors import CloudAuthFailed, CloudUnavailable, PushtrainError, SpecError
from pushtrain.fleet import Fleet, cloud_of
from pushtrain.follow import cancel
from pushtrain.retry import retry

BOTH = "cloud: [runpod, vast]"
SOLD_OUT = (400, "There are no longer any instances available with the requested specifications.")


@dataclass(kw_only=True)
class Two(World):
    """Two clouds and their clients. Each has one GPU type in one place, RunPod's at $0.40 an hour. `second` is the name
    of the other one, whose account is `vast`."""

    vast: MemoryRunPod = field(default_factory=MemoryRunPod)
    second: str = "vast"

    def both(self) -> Control:
        control = self.control()
        named = RunPod(
            "key", environ={}, limits=Limits(jitter=lambda: 0.0), sleep=self.sleep, clock=self.now_s,
            transport=self.vast,
        )  # fmt: skip
        named.name = self.second
        clouds: dict[str, Cloud] = {"runpod": control.cloud, self.second: named}
        stacks = self.folder / f"machine{self.machines}" / "stacks"
        return replace(control, cloud=Fleet(clouds), engine=EmbeddedEngine(stacks, lambda name: clouds[name]))

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.vast.now_s = self.runpod.now_s

    def price(self, usd: float, stock: Stock = "HIGH", *, of: MemoryRunPod) -> None:
        catalog = of.account.catalog
        gpu = replace(catalog.gpus["NVIDIA A40"], secure_usd=usd, community_usd=None, stock={"EU-SE-1": stock})
        of.account.catalog = replace(catalog, gpus={gpu.id: gpu})

    def alive(self) -> dict[str, list[str]]:
        clouds = {"runpod": self.runpod, "vast": self.vast}
        return {name: [pod.name[-2:] for pod in it.account.live_pods()] for name, it in clouds.items()}

    def refuses(self, which: MemoryRunPod) -> list[str]:
        """Says that it is sold out to every pod; the list grows by what was asked for."""
        asked: list[str] = []

        def refuse(path: str, body: Any) -> tuple[int, str] | None:
            if path != "/v2/pods":
                return None
            asked.append(str(body["name"]))
            return SOLD_OUT

        which.refuse = refuse
        return asked

    def clouds_said(self, *states: str) -> list[tuple[str, object]]:
        return [(it.state, it.data.get("cloud")) for it in self.record().events if it.state in states]


@pytest.fixture
def world(tmp_path: Path) -> Two:
    made = Two(folder=tmp_path)
    made.vast.now_s = made.runpod.now_s
    made.price(0.40, of=made.runpod)
    made.price(0.30, of=made.vast)
    return made


def nothing_is_left(world: Two) -> bool:
    return not any(it.account.live_pods() or it.account.live_volumes() for it in (world.runpod, world.vast))


def test_the_cheapest_of_the_clouds_is_asked_first_and_the_ledger_says_which(world: Two) -> None:
    world.job(more=BOTH)
    assert world.tick(world.both()).failures == []
    assert world.alive() == {"runpod": [], "vast": ["a1"]}
    run = world.record().run
    assert (run["clouds"], run["cloud"]) == (["runpod", "vast"], "vast")
    assert [it["cloud"] for it in run["candidates"]] == ["vast", "runpod"]
    assert world.clouds_said("provisioning", "provisioned") == [("provisioning", "vast"), ("provisioned", "vast")]


def test_with_storage_the_other_may_be_the_cheaper_one(world: Two) -> None:
    """A pod of a cloud without volumes pays for its own disk, at that cloud's price: here 50 GB at $0.30."""
    world.price(0.39, of=world.vast)
    world.job(more=BOTH)
    world.tick(world.both())
    assert world.alive() == {"runpod": ["a1"], "vast": []}


def test_where_one_cloud_has_no_room_the_next_is_asked_in_the_same_tick_and_nothing_is_left(world: Two) -> None:
    asked = world.refuses(world.vast)
    world.job(more=BOTH)
    control = world.both()
    assert world.tick(control).failures == [] and len(asked) == 1
    assert world.alive() == {"runpod": ["a1"], "vast": []} and not world.vast.account.live_volumes()
    assert world.clouds_said("provisioning", "provisioned") == [
        ("provisioning", "vast"),
        ("provisioning", "runpod"),
        ("provisioned", "runpod"),
    ]
    assert cloud_of(world.record()) == "runpod"
    # A reconcile elsewhere, that knows nothing but ledger and clouds, looks after it where it is.
    world.sleep(60)
    assert world.tick(world.both()).failures == [] and world.alive() == {"runpod": ["a1"], "vast": []}
    assert world.record().last.state == "provisioned"


def test_where_none_has_room_it_waits_and_its_branch_does_not_fill(world: Two) -> None:
    has_room = world.runpod.refuse
    asked = [world.refuses(world.vast), world.refuses(world.runpod)]
    world.job(more=BOTH)
    control = world.both()
    world.tick(control)
    assert world.record().last.state == "waiting" and all(len(it) == 1 for it in asked)
    assert "Vast" not in world.record().last.message and nothing_is_left(world)
    first = len(world.record().events)
    for _ in range(30):
        world.sleep(61)
        world.tick(control)
    assert nothing_is_left(world)
    assert len(world.record().events) - first < 30, "three events for each time that both were asked"
    world.runpod.refuse = has_room
    for _ in range(6):
        world.sleep(61)
        world.tick(control)
    assert world.alive() == {"runpod": ["a1"], "vast": []}


def test_from_its_first_pod_on_a_run_stays_where_it_is(world: Two) -> None:
    world.price(0.50, of=world.vast)
    world.job(more=BOTH)
    control = world.both()
    world.tick(control)
    assert world.alive() == {"runpod": ["a1"], "vast": []}
    world.price(0.10, of=world.vast)
    for pod in world.runpod.account.live_pods():
        world.runpod.account.terminate_pod(pod.id, world.runpod.now_s)
    for _ in range(3):
        world.sleep(61)
        world.tick(control)
    assert world.alive() == {"runpod": ["a2"], "vast": []}, "its volume is there"


def test_what_a_climb_left_at_another_cloud_is_swept_and_its_own_is_not(world: Two) -> None:
    world.job(more=BOTH)
    world.tick(world.both())
    run = world.run()
    world.runpod.account.create_pod(
        PodOrder(name=run.pod_name(1), image="x", gpu="NVIDIA A40", data_centers=("EU-SE-1",)), world.runpod.now_s
    )
    assert world.alive() == {"runpod": ["a1"], "vast": ["a1"]}
    report = world.tick(world.both())
    assert report.failures == [] and len(report.swept) == 1
    assert world.alive() == {"runpod": [], "vast": ["a1"]}


def test_a_pod_whose_creator_died_is_found_at_the_cloud_that_was_asked(world: Two) -> None:
    world.job(more=BOTH)
    control = world.both()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    control.engine = _Dies(control.engine, die)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        world.tick(control)
    assert world.record().last.state == "provisioning" and world.alive() == {"runpod": [], "vast": ["a1"]}
    assert world.tick(world.both()).failures == []
    assert world.record().last.state == "provisioned" and world.alive() == {"runpod": [], "vast": ["a1"]}


@dataclass
class _Dies:
    """The engine, whose process dies after `up`."""

    inner: Any
    die: Callable[..., None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def up(self, *arguments: Any, **named: Any) -> Any:
        self.inner.up(*arguments, **named)
        self.die()


def test_any_is_every_cloud_that_has_what_is_asked_for_and_a_key(world: Two) -> None:
    world.job("open", more="cloud: any")
    world.tick(world.both())
    assert world.record("open").run["clouds"] == ["runpod", "vast"]
    world.job("alone", more="cloud: any")
    world.tick(world.control())
    assert world.record("alone").run["clouds"] == ["runpod"], "the only key there was at the claim"
    world.job("placed", more="cloud: any, data_centers: [EU-SE-1]")
    world.tick(world.both())
    assert world.record("placed").run["clouds"] == ["runpod"], "the other sells machines by no data center"


def test_a_cloud_that_is_away_is_not_waited_for_and_a_key_that_nobody_has_is_said(world: Two) -> None:
    world.vast.refuse = lambda path, body: (503, "away")
    down = world.both()
    vast = down.at("vast").cloud

    def away(*_: object) -> Any:
        raise CloudUnavailable("Vast.ai is away")

    vast.offers = away  # type: ignore[method-assign]
    world.job(more=BOTH)
    assert world.tick(down).failures == []
    assert world.alive() == {"runpod": ["a1"], "vast": []}
    assert any("vast is not asked" in line for line in world.said)
    world.job("nowhere", more="cloud: [vast, lambda]")
    (failure,) = world.tick(world.control()).failures
    assert isinstance(failure, CloudAuthFailed)


def test_the_record_of_a_run_at_one_cloud_is_what_it_always_was(world: Two) -> None:
    world.job()
    world.tick(world.both())
    assert not {"cloud", "clouds"} & set(world.record().run)
    assert world.clouds_said("provisioning", "provisioned") == [("provisioning", None), ("provisioned", None)]
    world.job("there", more="cloud: vast")
    world.tick(world.both())
    assert world.record("there").run["cloud"] == "vast" and "clouds" not in world.record("there").run


def test_a_run_is_moved_by_hand_alone_by_cancel_and_a_retry_that_names_the_cloud(world: Two) -> None:
    world.job(more=BOTH)
    control = world.both()
    world.tick(control)
    first = world.record()
    assert cloud_of(first) == "vast" and world.alive() == {"runpod": [], "vast": ["a1"]}
    with pytest.raises(PushtrainError) as tied:
        retry(control, "job", by="me", why="", cloud="runpod")
    assert tied.value.reason == "TiedToItsCloud" and f"pushtrain cancel {first.run_id}" in str(tied.value.hint)
    with pytest.raises(SpecError) as not_allowed:
        retry(control, "job", by="me", why="", cloud="lambda")
    assert not_allowed.value.reason == "CloudNotAllowed" and "cloud: lambda" in str(not_allowed.value.hint)
    cancel(control, first.run_id, reason="CancelledByHand")
    retry(control, "job", by="me", why="room there", cloud="runpod")
    (again,) = [it for it in control.ledger.read_all(control.ledger.refs()).values() if it.run_id != first.run_id]
    assert cloud_of(again) == "runpod" and again.run["clouds"] == ["runpod"]
    assert world.alive() == {"runpod": ["a1"], "vast": []}, "the other is cheaper, and it was told where to go"


# Two reconciles at once.


class _Pauses:
    """A cloud's client; `at_create` is called once, before the request of the first pod."""

    def __init__(self, inner: Any, at_create: Callable[[], object]) -> None:
        self.inner, self.at_create = inner, at_create

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def create_pod(self, request: Any) -> Any:
        act, self.at_create = self.at_create, lambda: None
        act()
        return self.inner.create_pod(request)


def pausing(world: Two, at_create: dict[str, Callable[[], object]]) -> Control:
    """A control plane during whose first create at each of these clouds something else happens."""
    control = world.both()
    assert isinstance(control.cloud, Fleet)
    clouds: dict[str, Any] = dict(control.cloud.members)
    clouds |= {name: _Pauses(clouds[name], act) for name, act in at_create.items()}
    stacks = world.folder / f"machine{world.machines}" / "stacks"
    return replace(control, cloud=Fleet(clouds), engine=EmbeddedEngine(stacks, lambda name: clouds[name]))


def test_the_second_of_two_reconciles_asks_where_the_first_one_is_asking(world: Two) -> None:
    """Its own prices would have sent it to the other cloud: the ledger names one, so both get one pod."""
    world.job(more=BOTH)

    def second() -> None:
        world.price(0.90, of=world.vast)
        assert world.tick(world.both()).failures == []

    assert world.tick(pausing(world, {"vast": second})).failures == []
    assert world.alive() == {"runpod": [], "vast": ["a1"]}
    assert {cloud for _, cloud in world.clouds_said("provisioning", "provisioned")} == {"vast"}


def test_who_comes_back_with_a_pod_after_the_run_went_on_ends_it(world: Two) -> None:
    """The second one is told by that cloud that it is full, and goes on to the other one."""
    world.job(more=BOTH)
    has_room = world.vast.refuse

    def second() -> None:
        world.refuses(world.vast)
        assert world.tick(world.both()).failures == []
        world.vast.refuse = has_room

    assert world.tick(pausing(world, {"vast": second})).failures == []
    assert world.alive() == {"runpod": ["a1"], "vast": []}
    assert world.clouds_said("provisioning", "provisioned")[-1] == ("provisioned", "runpod")
    assert any("one too many" in line for line in world.said)
    assert [it["cloud"] for it in world.record().rented.values()] == ["vast"], "what it cost counts"


def test_who_wants_to_go_on_and_finds_that_somebody_has_a_pod_goes_no_further(world: Two) -> None:
    world.job(more=BOTH)
    has_room = world.vast.refuse

    def second() -> None:
        assert world.tick(world.both()).failures == []
        assert world.alive() == {"runpod": [], "vast": ["a1"]}
        world.refuses(world.vast)

    asked = pausing(world, {"vast": second})
    assert world.tick(asked).failures == []
    world.vast.refuse = has_room
    assert world.alive() == {"runpod": [], "vast": ["a1"]}
    assert ("provisioning", "runpod") not in world.clouds_said("provisioning")


def test_what_a_dead_reconcile_left_where_it_was_asked_before_ends_with_the_next_pod(world: Two) -> None:
    """Or a request that its cloud carried out late: after a refusal there the run had gone on."""
    world.job(more=BOTH)
    asked = world.refuses(world.vast)

    def late() -> None:
        order = PodOrder(name=world.run().pod_name(1), image="x", gpu="NVIDIA A40", data_centers=("EU-SE-1",))
        world.vast.account.create_pod(order, world.vast.now_s)

    assert world.tick(pausing(world, {"runpod": late})).failures == [] and asked
    assert world.alive() == {"runpod": ["a1"], "vast": []}


def test_a_run_that_waits_asks_every_cloud_and_names_none(world: Two) -> None:
    asked = [world.refuses(world.vast), world.refuses(world.runpod)]
    world.job(more=BOTH)
    world.tick(world.both())
    said = len(world.record().events)
    for _ in range(4):
        world.sleep(61)
        world.tick(world.both())  # a process that remembers nothing
    assert all(len(it) == 5 for it in asked)
    assert len(world.record().events) == said and world.record().last.state == "waiting"


def test_a_run_that_waits_goes_elsewhere_while_a_cloud_that_refused_it_is_away(world: Two) -> None:
    world.refuses(world.vast), world.refuses(world.runpod)
    world.job(more=BOTH)
    world.tick(world.both())
    world.runpod.refuse = lambda path, body: None
    world.sleep(61)
    down = world.both()

    def away(*_: object) -> Any:
        raise CloudUnavailable("Vast.ai is away")

    vast: Any = down.at("vast").cloud
    vast.find = vast.offers = away
    (failure,) = world.tick(down).failures
    assert "Vast.ai is away" in str(failure)
    assert world.alive() == {"runpod": ["a1"], "vast": []}
    (mine,) = world.runpod.account.live_pods()
    world.sleep(61)
    world.tick(down)
    assert world.runpod.account.live_pods() == [mine], "it is at one cloud from now on"


def test_a_receipt_is_about_every_cloud_that_was_asked(world: Two) -> None:
    world.job(more=BOTH)
    world.tick(world.both())
    run, said = world.run(), world.both()
    world.say("finished")
    world.vast.account.create_volume(run.volume_name, 10, "EU-SE-1", None, world.vast.now_s)
    assert world.tick(said).failures == []
    assert nothing_is_left(world) and world.record().is_over


def test_a_kept_volume_that_is_there_twice_is_told_where_there_are_several_clouds(world: Two) -> None:
    world.job(more="cloud: runpod", volume="name: models, keep: true, size_gb: 10")
    assert world.tick(world.both()).failures == []
    (kept,) = world.runpod.account.live_volumes()
    world.runpod.account.create_volume(kept.name, 10, kept.data_center, None, world.runpod.now_s)
    (told,) = world.tick(world.both()).failures
    assert told.reason == "KeptTwice"


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_volume_that_was_left_at_one_cloud_keeps_nobody_from_another(world: Two, is_gone: bool) -> None:
    """The reconcile ended between volume and pod, while the run waited: its engine's state remembers the volume, there
    is no room there any more, and the other cloud has some. `is_gone`: somebody swept the volume."""
    world.second = "lambda"
    world.price(0.90, of=world.vast)
    has_room = world.vast.refuse
    world.refuses(world.vast), world.refuses(world.runpod)
    world.job(more="cloud: [runpod, lambda]")
    world.tick(world.both())
    assert world.record().last.state == "waiting" and cloud_of(world.record()) == "lambda"
    world.runpod.refuse = world.vast.refuse = has_room

    def die() -> None:
        raise KeyboardInterrupt

    control = pausing(world, {"runpod": die})
    with pytest.raises(KeyboardInterrupt):
        world.tick(control)
    (volume,) = world.runpod.account.live_volumes()
    assert not any(world.alive().values()) and world.record().last.state == "waiting"
    if is_gone:
        world.runpod.account.delete_volume(volume.id, world.runpod.now_s)
    world.price(0.40, "NONE", of=world.runpod)
    world.sleep(61)
    assert world.tick(control).failures == []
    assert world.clouds_said("provisioned") == [("provisioned", "lambda")]
    assert world.vast.account.live_pods() and not world.runpod.account.live_volumes()


# A pod that nobody has named yet.


def dies_with_a_pod(world: Two) -> None:
    """A reconcile that ends after its create and before its word of it."""

    def die() -> None:
        raise KeyboardInterrupt

    control = world.both()
    control.engine = _Dies(control.engine, die)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        world.tick(control)


@pytest.mark.parametrize(("may_rent", "is_listed"), [(True, True), (False, True), (True, False)])
def test_the_pod_that_a_waiting_run_was_made_is_its_own_wherever_it_was_asked_last(
    world: Two, may_rent: bool, is_listed: bool
) -> None:
    """The rungs stood in the ledger already, so nothing names the cloud; `is_listed`: by its catalogue it has more."""
    has_room = world.vast.refuse
    world.refuses(world.vast), world.refuses(world.runpod)
    world.job(more=BOTH)
    world.tick(world.both())
    assert world.record().last.state == "waiting" and cloud_of(world.record()) == "runpod"
    world.vast.refuse = has_room
    world.sleep(61)
    dies_with_a_pod(world)
    assert world.record().last.state == "waiting" and world.alive() == {"runpod": [], "vast": ["a1"]}
    if not is_listed:
        world.price(0.30, "NONE", of=world.vast)
    report = world.tick(replace(world.both(), may_rent=may_rent))
    assert (report.failures, report.swept) == ([], [])
    assert world.clouds_said("provisioned") == [("provisioned", "vast")]
    assert world.alive() == {"runpod": [], "vast": ["a1"]}
    assert world.tick(world.both()).swept == [] and world.record().last.state == "provisioned"


def test_a_pod_that_is_adopted_where_the_run_went_on_to_is_not_swept_by_what_the_ledger_said_before(world: Two) -> None:
    """It came late, at the cloud that was asked first; the reconcile that went on to the other one died there."""
    has_room = world.vast.refuse
    world.refuses(world.vast)
    world.job(more=BOTH)

    def late() -> None:
        world.vast.refuse = has_room
        order = PodOrder(name=world.run().pod_name(1), image="x", gpu="NVIDIA A40", data_centers=("EU-SE-1",))
        world.vast.account.create_pod(order, world.vast.now_s)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.tick(pausing(world, {"runpod": late}))
    assert cloud_of(world.record()) == "runpod" and world.alive() == {"runpod": [], "vast": ["a1"]}
    world.refuses(world.runpod)
    report = world.tick(world.both())
    assert (report.failures, report.swept) == ([], [])
    assert world.clouds_said("provisioned") == [("provisioned", "vast")]
    assert world.alive() == {"runpod": [], "vast": ["a1"]}
