"""Two creators of one name at once, in every order their requests can take: one pod, one volume is left."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from runpod_memory import MemoryRunPod, Turns, every_order

from infra.clouds.runpod.client import RunPod
from infra.clouds.wire import Limits
from pushtrain.cloud import PodRequest, VolumeRequest
from pushtrain.errors import NoCapacity
from pushtrain.run import KEPT_PREFIX

POD = PodRequest(
    name="pt-1-a1", image="x", gpu="NVIDIA A40", gpu_count=1, tier="SECURE", disk_gb=10, args="", data_center="EU-SE-1"
)
VOLUME = VolumeRequest(name="pt-1-v", size_gb=10, data_center="EU-SE-1")
KEPT = replace(VOLUME, name=f"{KEPT_PREFIX}0a1b2c-models")
CREATES = (("POST", "/v2/pods"), ("POST", "/v2/network-volumes"))
FORWARDS, BACKWARDS = ("a", "b", "c", "d", "e", "f"), ("f", "e", "d", "c", "b", "a")


def outcomes(
    act: Callable[[RunPod], Any],
    ids: tuple[str, ...],
    *,
    clock_step_s: float = 0.0,
    spoil: str | None = None,
    waits: bool = False,
) -> Iterator[tuple[MemoryRunPod, list[Any]]]:
    """The account and what both creators returned, for every order of their requests.

    `clock_step_s` passes at each request. `spoil` is what happens to the answer of the first create. With `waits` a
    creator that pauses lets the other one go on.
    """

    def run(order: Any) -> Any:
        account = MemoryRunPod(iter(ids))
        spoilt = [spoil] if spoil else []
        account.spoil = lambda method, path: spoilt.pop() if spoilt and (method, path) in CREATES else None

        turns = Turns(Ticking(account, clock_step_s))
        clients = [client_of(turns, number, waits) for number in (0, 1)]
        results, chosen, offered = turns.run([lambda client=client: act(client) for client in clients], order)
        return (account, results), chosen, offered

    return every_order(run)


def client_of(turns: Turns, number: int, waits: bool) -> RunPod:
    def sleep(_: float) -> None:
        if waits:
            turns.sleep(number)

    return RunPod("key", environ={}, limits=Limits(jitter=lambda: 0.0), sleep=sleep, transport=turns.transport(number))


class Ticking(httpx.BaseTransport):
    """Lets time pass with every request."""

    def __init__(self, account: MemoryRunPod, step_s: float) -> None:
        self.account, self.step_s = account, step_s

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.account.now_s += self.step_s
        return self.account.handle_request(request)


@pytest.mark.parametrize("ids", [FORWARDS, BACKWARDS], ids=["ids-up", "ids-down"])
@pytest.mark.parametrize("spoil", [None, "lost", "500"])
def test_of_two_creators_both_get_the_same_pod_and_it_is_the_only_one(ids: tuple[str, ...], spoil: str | None):
    orders = 0
    for account, results in outcomes(lambda client: client.create_pod(POD), ids, clock_step_s=1.0, spoil=spoil):
        (left,) = account.account.live_pods()
        assert [result.id for result in results] == [left.id, left.id]
        orders += 1
    assert orders >= 20, "two creators of three requests each: twenty orders at least"


@pytest.mark.parametrize("ids", [FORWARDS, BACKWARDS], ids=["ids-up", "ids-down"])
def test_of_pods_made_in_the_same_second_one_is_left_and_both_know_it_by_its_name(ids: tuple[str, ...]):
    """RunPod's createdAt has whole seconds. Whoever returned first may then hold the id of the one that went, which is
    why the control plane asks for the name."""
    differ = 0
    for account, results in outcomes(lambda client: client.create_pod(POD), ids):
        (left,) = account.account.live_pods()
        assert {result.name for result in results} == {left.name}
        assert results[1].id == left.id or results[0].id == left.id
        differ += results[0].id != results[1].id
    assert (differ > 0) == (ids is BACKWARDS), "only where the younger one has the smaller id"


@pytest.mark.parametrize("ids", [FORWARDS, BACKWARDS], ids=["ids-up", "ids-down"])
@pytest.mark.parametrize("spoil", [None, "lost"])
def test_of_two_creators_one_volume_is_left(ids: tuple[str, ...], spoil: str | None):
    for account, results in outcomes(lambda client: client.create_volume(VOLUME), ids, spoil=spoil):
        (left,) = account.account.live_volumes()
        assert left.id in [result.id for result in results]


@pytest.mark.parametrize("ids", [FORWARDS, BACKWARDS], ids=["ids-up", "ids-down"])
@pytest.mark.parametrize("places", [("EU-SE-1", "EU-SE-1"), ("EU-SE-1", "EU-RO-1")], ids=["same", "elsewhere"])
def test_of_two_creators_of_a_kept_volume_whatever_one_was_told_of_stays(ids: tuple[str, ...], places: tuple[str, str]):
    wanted = itertools.cycle(places)

    def create(client: RunPod) -> Any:
        return client.create_volume(replace(KEPT, data_center=next(wanted)))

    both = 0
    for account, results in outcomes(create, ids, waits=True):
        live = {volume.id for volume in account.account.live_volumes()}
        told = {result.id for result in results if not isinstance(result, NoCapacity)}
        assert len(live) <= 1 and told <= live, (results, live)
        both += len(told) == 1
    assert both
