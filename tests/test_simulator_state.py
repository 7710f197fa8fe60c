"""The simulated account without any I/O: placement, rules, money under virtual time, faults, its memory on disk."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.simulator import billing, store
from infra.simulator.catalog import DEFAULT_CATALOG
from infra.simulator.faults import Faults
from infra.simulator.state import NO_CAPACITY, Account, PodOrder, Refused
from pushtrain.gpus import GPU_TYPES

NOW = 1_790_000_000.0
HOUR = 3600.0
A40 = "NVIDIA A40"


def account() -> Account:
    numbers = itertools.count(1)
    return Account(DEFAULT_CATALOG, lambda: f"id{next(numbers)}")


def order(**changes: Any) -> PodOrder:
    return PodOrder(**{"name": "pt-a", "image": "acme/train:1", "gpu": A40, **changes})


def refusal(account: Account, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        account.create_pod(order(**changes), NOW)
    return caught.value


def test_a_pod_goes_where_its_gpu_is_in_fullest_stock() -> None:
    assert account().create_pod(order(), NOW).data_center == "EU-SE-1"
    assert account().create_pod(order(data_centers=("US-KS-2", "US-TX-3")), NOW).data_center == "US-KS-2"


def test_a_volume_pins_the_pod_to_its_data_center() -> None:
    it = account()
    volume = it.create_volume("v", 20, "US-KS-2", None, NOW)
    assert it.create_pod(order(volume_id=volume.id), NOW).data_center == "US-KS-2"
    refused = refusal(it, volume_id=volume.id, data_centers=("EU-SE-1",))
    assert refused.why == "rule" and "US-KS-2" in refused.detail


def test_no_stock_anywhere_is_no_capacity_in_runpods_words() -> None:
    refused = refusal(account(), gpu="NVIDIA B200")
    assert (refused.why, refused.detail) == ("no_capacity", NO_CAPACITY)
    assert refusal(account(), data_centers=("EU-RO-1",)).why == "no_capacity"
    assert refusal(account(), gpu_count=11).why == "no_capacity"
    assert refusal(account(), min_cuda_version="13.11").why == "no_capacity"
    assert refusal(account(), disk_gb=4000).why == "no_resources"


def test_cuda_versions_compare_as_numbers() -> None:
    gpu = replace(DEFAULT_CATALOG.gpus[A40], cuda_versions=("12.11", "12.2"))
    it = Account(replace(DEFAULT_CATALOG, gpus={A40: gpu}), lambda: "id")
    assert it.create_pod(order(min_cuda_version="12.8"), NOW).cuda_version == "12.11"
    assert it.create_pod(order(allowed_cuda_versions=("12.2", "12.8")), NOW).cuda_version == "12.2"
    assert refusal(it, min_cuda_version="12.12").why == "no_capacity"
    assert refusal(it, allowed_cuda_versions=("12.2",), min_cuda_version="12.2").why == "rule"


def test_community_takes_no_data_center_and_no_network_volume() -> None:
    it = account()
    volume = it.create_volume("v", 20, "EU-SE-1", None, NOW)
    pod = it.create_pod(order(gpu="NVIDIA RTX A6000", tier="COMMUNITY"), NOW)
    assert (pod.data_center, pod.usd_per_hour) == (None, 0.33)
    assert refusal(it, gpu="NVIDIA RTX A6000", tier="COMMUNITY", data_centers=("EU-SE-1",)).why == "no_capacity"
    assert refusal(it, gpu="NVIDIA RTX A6000", tier="COMMUNITY", volume_id=volume.id).why == "rule"
    assert refusal(it, tier="COMMUNITY").why == "no_capacity"


def test_what_does_not_exist_is_refused_by_name() -> None:
    assert "NVIDIA Nothing" in refusal(account(), gpu="NVIDIA Nothing").detail
    assert "XX-XX-9" in refusal(account(), data_centers=("XX-XX-9",)).detail
    assert refusal(account(), volume_id="nope").why == "not_found"
    assert refusal(account(), env={f"V{n}": "" for n in range(51)}).why == "rule"


def test_a_volume_grows_only_and_cannot_go_while_a_pod_has_it() -> None:
    it = account()
    volume = it.create_volume("v", 20, "EU-SE-1", None, NOW)
    pod = it.create_pod(order(volume_id=volume.id), NOW)
    assert it.update_volume(volume.id, NOW, size_gb=30).size_gb == 30
    with pytest.raises(Refused, match="cannot be reduced"):
        it.update_volume(volume.id, NOW, size_gb=29)
    with pytest.raises(Refused, match="from all pods"):
        it.delete_volume(volume.id, NOW)
    it.terminate_pod(pod.id, NOW)
    assert it.delete_volume(volume.id, NOW).deleted
    with pytest.raises(Refused):
        it.volume(volume.id)


def test_two_volumes_may_share_a_name_and_not_every_data_center_has_them() -> None:
    it = account()
    assert it.create_volume("v", 10, "EU-RO-1", None, NOW).id != it.create_volume("v", 10, "EU-RO-1", None, NOW).id
    for data_center, kind in (("US-TX-3", None), ("EU-RO-1", "HIGH_PERFORMANCE"), ("XX-XX-9", None)):
        with pytest.raises(Refused) as caught:
            it.create_volume("v", 10, data_center, kind, NOW)  # type: ignore[arg-type]
        assert caught.value.why == "rule"


def test_actions_are_refused_in_the_wrong_status() -> None:
    it = account()
    pod = it.create_pod(order(), NOW)
    with pytest.raises(Refused, match="'start'"):
        it.start_pod(pod.id, NOW)
    it.stop_pod(pod.id, NOW)
    for act in (lambda: it.stop_pod(pod.id, NOW), lambda: it.restart_pod(pod.id)):
        with pytest.raises(Refused, match="EXITED"):
            act()
    assert it.start_pod(pod.id, NOW).status == "RUNNING"
    it.terminate_pod(pod.id, NOW)
    with pytest.raises(Refused) as caught:
        it.terminate_pod(pod.id, NOW)
    assert caught.value.why == "not_found" and it.live_pods() == []


def test_a_pod_costs_price_times_count_from_creation_to_termination() -> None:
    it = account()
    pod = it.create_pod(order(gpu_count=2, disk_gb=73), NOW)
    half = billing.pod_cost(pod, 0, NOW + HOUR / 2)
    assert half.gpu == pytest.approx(0.40) and half.disk == pytest.approx(73 * 0.10 / 730 / 2)
    it.terminate_pod(pod.id, NOW + HOUR)
    assert billing.pod_cost(pod, 0, NOW + 9 * HOUR).gpu == pytest.approx(0.80)
    assert billing.pod_cost(pod, NOW + HOUR / 2, NOW + 9 * HOUR).gpu == pytest.approx(0.40)


def test_a_stopped_pod_costs_its_own_disk_twice_and_no_gpu() -> None:
    it = account()
    pod = it.create_pod(order(disk_gb=100, persistent_gb=73), NOW)
    it.stop_pod(pod.id, NOW)
    cost = billing.pod_cost(pod, 0, NOW + HOUR)
    assert cost.gpu == 0 and cost.disk == pytest.approx(73 * 0.20 / 730)


def test_a_volume_costs_whether_used_or_not_and_by_the_size_it_had() -> None:
    it = account()
    volume = it.create_volume("v", 1000, "EU-RO-1", None, NOW)
    it.update_volume(volume.id, NOW + HOUR, size_gb=2000)
    it.delete_volume(volume.id, NOW + 2 * HOUR)
    assert billing.volume_cost(volume, 0, NOW + 9 * HOUR) == pytest.approx((70 + 70 + 50) / 730)


def test_high_performance_storage_costs_more() -> None:
    it = account()
    one, two = (it.create_volume("v", 100, "US-KS-2", kind, NOW) for kind in ("STANDARD", "HIGH_PERFORMANCE"))
    assert billing.volume_cost(two, 0, NOW + HOUR) > billing.volume_cost(one, 0, NOW + HOUR) > 0


def test_ssh_keys_reach_a_pod_that_asks_for_them_unless_it_brings_its_own() -> None:
    it = account()
    it.ssh_keys = ["ssh-ed25519 AAAA me", "ssh-ed25519 BBBB you"]
    assert it.create_pod(order(start_ssh=True), NOW).env["PUBLIC_KEY"].count("ssh-ed25519") == 2
    assert it.create_pod(order(start_ssh=True, env={"PUBLIC_KEY": "own"}), NOW).env == {"PUBLIC_KEY": "own"}
    assert it.create_pod(order(), NOW).env == {}


@pytest.mark.parametrize(("size", "count"), [("hour", 49), ("day", 3), ("week", 1), ("month", 2), ("year", 1)])
def test_billing_buckets_are_whole_and_touch(size: Any, count: int) -> None:
    start = 1_790_769_600.0  # 2026-09-30 12:00 UTC, a Wednesday
    found = billing.buckets(start + 1, start + 2 * 24 * HOUR + 2, size)
    assert len(found) == count
    assert found[0][0] <= start + 1 and found[-1][1] >= start + 2 * 24 * HOUR + 2
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
    assert billing.last_buckets(found[-1][0] + 5, count, size) == found


def test_the_account_is_the_same_after_a_restart(tmp_path: Path) -> None:
    it = account()
    volume = it.create_volume("v", 20, "EU-SE-1", None, NOW)
    it.create_pod(order(volume_id=volume.id, env={"A": "b"}, ports=["22/tcp"]), NOW)
    it.stop_pod(it.create_pod(order(persistent_gb=10), NOW).id, NOW + 5)
    it.ssh_keys = ["ssh-ed25519 AAAA me"]
    store.save(it, tmp_path)
    again = account()
    store.load(again, tmp_path)
    assert (again.pods, again.volumes, again.ssh_keys) == (it.pods, it.volumes, it.ssh_keys)
    assert (tmp_path / "account.json").stat().st_mode & 0o777 == 0o600


def test_a_fault_strikes_as_often_as_told_and_only_what_matches() -> None:
    faults = Faults(lambda: "f1")
    faults.add("http_500", 2, {"operation": "create_*", "pod_name": "pt-*"}, 1.0)
    assert faults.take("http_429", operation="create_pod", pod_name="pt-a") is None
    assert faults.take("http_500", operation="create_pod", pod_name="other") is None
    assert faults.take("http_500", operation="create_pod") is None
    struck = [faults.take("http_500", operation="create_pod", pod_name="pt-a") is not None for _ in range(3)]
    assert struck == [True, True, False] and faults.active() == []


def test_a_fault_without_times_stays_until_it_is_switched_off() -> None:
    names = iter(["f1", "f2"])
    faults = Faults(lambda: next(names))
    faults.add("slow", None, {}, 1.0)
    faults.add("http_402", None, {}, 1.0)
    assert all(faults.take("slow", operation="x") for _ in range(5))
    faults.clear("f1")
    assert [fault.kind for fault in faults.active()] == ["http_402"]
    faults.clear()
    assert faults.active() == []


def test_the_catalog_rents_only_gpus_that_runpod_has() -> None:
    known = {gpu.name: gpu.memory_gb for gpu in GPU_TYPES}
    assert {gpu.id: gpu.memory_gb for gpu in DEFAULT_CATALOG.gpus.values()}.items() <= known.items()
    assert {name for gpu in DEFAULT_CATALOG.gpus.values() for name in gpu.stock} <= set(DEFAULT_CATALOG.data_centers)
