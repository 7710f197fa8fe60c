from dataclasses import asdict

import pytest

from pushtrain.cloud import Offer
from pushtrain.errors import NoCapacity, SpecError
from pushtrain.placement import (
    cap,
    check_gpus,
    hourly_usd,
    ladder,
    storage_usd_per_hour,
    volume_usd_per_hour,
)
from pushtrain.spec import JobSpec, job_spec

A40, A6000, H100 = "NVIDIA A40", "NVIDIA RTX A6000", "NVIDIA H100 PCIe"
BOTH = ("STANDARD", "HIGH_PERFORMANCE")
KNOWN = (A40, A6000, H100, "NVIDIA GeForce RTX 4090")


def spec(*, budget: dict[str, float] | None = None, **compute: object) -> JobSpec:
    return job_spec(
        {
            "version": 1,
            "name": "support-lora",
            "model": {"id": "org/base"},
            "data": {"path": "data/chats.jsonl"},
            "compute": {"gpus": [A40, A6000], **compute},
            "budget": budget or {"max_hours": 6.0, "max_usd": 5.0},
            "publish": {"repo": "org/support-lora"},
        }
    )


def offer(gpu: str = A40, data_center: str | None = "EU-SE-1", **changes: object) -> Offer:
    values: dict[str, object] = {
        "gpu": gpu,
        "gpu_memory_gb": 48,
        "data_center": data_center,
        "tier": "SECURE",
        "usd_per_gpu_hour": 0.40,
        "stock": "HIGH",
        "volume_kinds": ("STANDARD",),
        "max_count": 8,
    }
    return Offer(**{**values, **changes})  # type: ignore[arg-type]


def places(candidates: list) -> list[tuple[str, str]]:
    return [(candidate.gpu, candidate.data_center) for candidate in candidates]


def test_the_ladder_goes_by_what_the_user_put_in_order_then_stock_that_lasts_then_cost():
    wanted = spec(tiers=["SECURE", "COMMUNITY"], volume={"size_gb": 1000})
    offers = [
        offer(A40, None, tier="COMMUNITY", usd_per_gpu_hour=0.05, volume_kinds=()),
        offer(A6000, "EU-RO-1", usd_per_gpu_hour=0.10),
        offer(A40, "US-KS-2", stock="LOW", usd_per_gpu_hour=0.20),
        offer(A40, "EU-SE-1", stock="MEDIUM", usd_per_gpu_hour=0.90),
        offer(A40, "CA-MTL-2", stock="MEDIUM", usd_per_gpu_hour=0.60),
        offer(A40, "CA-MTL-3", usd_per_gpu_hour=0.60),
        offer(A40, "CA-MTL-1", usd_per_gpu_hour=0.60),
        # 0.07 more per GB and month than the others: 0.096 an hour.
        offer(A40, "US-TX-3", usd_per_gpu_hour=0.55, volume_kinds=("HIGH_PERFORMANCE",)),
    ]
    expected = [
        (A40, "CA-MTL-1"),
        (A40, "CA-MTL-3"),
        (A40, "CA-MTL-2"),
        (A40, "US-TX-3"),
        (A40, "EU-SE-1"),
        (A40, "US-KS-2"),
        (A6000, "EU-RO-1"),
        (A40, None),
    ]
    assert places(ladder(wanted, offers)) == expected
    assert places(ladder(wanted, offers[::-1])) == expected, "the order of the offers must not matter"
    cheap_first = spec(tiers=["COMMUNITY", "SECURE"], volume={"size_gb": 1000})
    assert places(ladder(cheap_first, offers)) == expected[-1:] + expected[:-1]


@pytest.mark.parametrize(
    ("useless", "said"),
    [
        (offer(H100), "1 are not NVIDIA A40 or NVIDIA RTX A6000"),
        (offer(data_center=None, tier="COMMUNITY", volume_kinds=()), "1 are not in compute.tiers SECURE"),
        (offer(data_center="EU-RO-1"), "1 are outside compute.data_centers EU-SE-1"),
        (offer(volume_kinds=()), "1 are in data centers without network volumes"),
        (offer(max_count=1), "1 have no machine with 2 GPUs"),
        (offer(stock="NONE"), "1 are out of stock"),
    ],
)
def test_each_condition_removes_its_offer_and_says_so(useless: Offer, said: str):
    wanted = spec(data_centers=["EU-SE-1"], count=2)
    assert places(ladder(wanted, [offer(), useless])) == [(A40, "EU-SE-1")]
    with pytest.raises(NoCapacity) as caught:
        ladder(wanted, [useless])
    assert said in str(caught.value)
    assert caught.value.hint


def test_the_message_tells_every_condition_that_removed_something_in_order():
    offers = [offer(H100), offer(H100, "EU-RO-1"), offer(data_center="EU-RO-1"), offer(stock="NONE")]
    with pytest.raises(NoCapacity) as caught:
        ladder(spec(data_centers=["EU-SE-1"]), offers)
    assert str(caught.value) == (
        "no place for support-lora: of 4 offers, 2 are not NVIDIA A40 or NVIDIA RTX A6000, "
        "then 1 are outside compute.data_centers EU-SE-1, then 1 are out of stock"
    )


def test_no_offers_at_all_is_no_capacity_too():
    with pytest.raises(NoCapacity, match="offers nothing at all"):
        ladder(spec(), [])


def test_an_existing_volume_pins_the_run_to_its_data_center():
    offers = [offer(data_center="EU-RO-1", usd_per_gpu_hour=0.1), offer()]
    assert places(ladder(spec(), offers, volume_data_center="EU-SE-1")) == [(A40, "EU-SE-1")]
    with pytest.raises(NoCapacity, match="where the run's volume is"):
        ladder(spec(), offers[:1], volume_data_center="EU-SE-1")


def test_a_candidate_costs_what_all_its_gpus_cost():
    (candidate,) = ladder(spec(count=4), [offer(usd_per_gpu_hour=0.44)])
    assert asdict(candidate) == {
        "cloud": "runpod",
        "gpu": A40,
        "data_center": "EU-SE-1",
        "tier": "SECURE",
        "usd_per_hour": pytest.approx(1.76),
        "gpu_memory_gb": 48,
        "stock": "HIGH",
        "volume_kind": "STANDARD",
        "min_bid_usd": None,
        "is_spot": False,
        "on_demand_usd": None,
    }


@pytest.mark.parametrize(
    ("written", "nearest"),
    [("A40", A40), ("nvidia a40", A40), ("NVIDIA A4O", A40), ("RTX 4090", "NVIDIA GeForce RTX 4090"), ("H100", H100)],
)
def test_a_gpu_id_nobody_knows_is_a_spec_error_with_the_nearest_names(written: str, nearest: str):
    with pytest.raises(SpecError) as caught:
        ladder(spec(gpus=[A6000, written]), [offer(A6000)], known_gpus=KNOWN)
    assert repr(written) in str(caught.value)
    assert nearest in (caught.value.hint or "")


def test_a_type_that_only_other_clouds_have_is_passed_over_where_one_of_the_others_is_here() -> None:
    here = ladder(spec(gpus=[A40, A6000]), [offer(A6000)], known_gpus=[A6000, H100])
    assert places(here) == [(A6000, "EU-SE-1")]
    with pytest.raises(SpecError, match="knows no GPU 'NVIDIA A40'"):
        check_gpus(spec(gpus=[A40]), [A6000, H100])


def test_a_gpu_the_cloud_knows_but_does_not_offer_now_is_no_spec_error():
    check_gpus(spec(gpus=list(KNOWN)), KNOWN)
    with pytest.raises(NoCapacity):
        ladder(spec(gpus=[H100]), [offer(A40)], known_gpus=KNOWN)


def test_storage_is_priced_by_the_gigabyte_and_month_with_the_cheaper_rate_above_a_terabyte():
    # 60 GB volume at 0.07 and 40 GB disk at 0.10, in 730 hours.
    wanted = spec(volume={"size_gb": 60}, disk_gb=40)
    (here,) = ladder(wanted, [offer()])
    assert storage_usd_per_hour(wanted, here) == pytest.approx((4.2 + 4.0) / 730)
    # 1024 GB at 0.07, 976 GB at 0.05, 5 GB disk at 0.10.
    wanted = spec(volume={"size_gb": 2000}, disk_gb=5)
    assert storage_usd_per_hour(wanted, here) == pytest.approx((71.68 + 48.8 + 0.5) / 730)


def test_storage_is_part_of_the_hourly_price_and_of_the_cap():
    wanted = spec(volume={"size_gb": 4096}, disk_gb=2000, budget={"max_hours": 100.0, "max_usd": 5.0})
    (candidate,) = ladder(wanted, [offer(usd_per_gpu_hour=0.40)])
    estimate = cap(wanted, candidate)
    assert hourly_usd(candidate, wanted) == pytest.approx(0.40 + storage_usd_per_hour(wanted, candidate))
    assert estimate.usd_per_hour == pytest.approx(hourly_usd(candidate, wanted))
    assert estimate.cap_usd == 5.0
    assert estimate.deadline_hours < 5.0 / 0.40, "storage must shorten the hours"
    assert estimate.deadline_hours * estimate.usd_per_hour == pytest.approx(5.0)


def test_the_dearer_kind_of_volume_is_counted_where_there_is_no_other():
    wanted = spec(volume={"size_gb": 2000}, disk_gb=5, budget={"max_hours": 100.0, "max_usd": 5.0})
    dear, both = ladder(
        wanted, [offer(volume_kinds=("HIGH_PERFORMANCE",)), offer(data_center="EU-RO-1", volume_kinds=BOTH)]
    )[::-1]
    assert (dear.volume_kind, both.volume_kind) == ("HIGH_PERFORMANCE", "STANDARD")
    assert storage_usd_per_hour(wanted, dear) == pytest.approx((2000 * 0.14 + 0.5) / 730)
    assert storage_usd_per_hour(wanted, both) == pytest.approx((71.68 + 48.8 + 0.5) / 730)
    assert cap(wanted, dear).deadline_hours < cap(wanted, both).deadline_hours


def test_a_community_machine_has_disks_and_no_volume():
    wanted = spec(volume={"size_gb": 60}, disk_gb=40, tiers=["COMMUNITY"])
    (here,) = ladder(wanted, [offer(data_center="US-KS-2", tier="COMMUNITY", volume_kinds=()), offer()])
    assert (here.data_center, here.tier) == (None, "COMMUNITY"), "its place is not known before it runs"
    assert volume_usd_per_hour(wanted, here) == 0
    assert storage_usd_per_hour(wanted, here) == pytest.approx((60 + 40) * 0.10 / 730)


@pytest.mark.parametrize("gpu", ["AMD Instinct MI300X OAM", "Tesla V100-PCIE-16GB"])
def test_a_gpu_that_no_run_can_use_is_a_spec_error_whatever_the_cloud_offers(gpu: str):
    with pytest.raises(SpecError, match=r"cannot be used: the trainer's torch is built for CUDA"):
        ladder(spec(gpus=[A40, gpu]), [offer(), offer(gpu)], known_gpus=[A40, gpu])


def test_an_unusable_gpu_is_never_the_nearest_name():
    with pytest.raises(SpecError) as caught:
        check_gpus(spec(gpus=["NVIDIA V-100"]), ["Tesla V100-PCIE-16GB", "NVIDIA A100 80GB PCIe"])
    assert "Tesla" not in (caught.value.hint or "")


def test_a_volume_pins_the_run_also_where_community_is_allowed():
    wanted = spec(tiers=["COMMUNITY", "SECURE"])
    offers = [offer(data_center=None, tier="COMMUNITY", volume_kinds=()), offer()]
    assert places(ladder(wanted, offers, volume_data_center="EU-SE-1")) == [(A40, "EU-SE-1")]


def test_the_hours_bind_where_the_dollars_do_not():
    wanted = spec(budget={"max_hours": 2.0, "max_usd": 500.0})
    (candidate,) = ladder(wanted, [offer()])
    estimate = cap(wanted, candidate)
    assert estimate.deadline_hours == 2.0
    assert estimate.cap_usd == pytest.approx(2.0 * estimate.usd_per_hour)
    assert estimate.usd_per_hour_gpu == pytest.approx(0.40)
