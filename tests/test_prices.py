"""The dated snapshot of prices: read strictly, refreshed in a readable form, a repository's own before ours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from infra.simulator.server import RunningSimulator
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Offer
from pushtrain.errors import CloudError, PushtrainError
from pushtrain.estimate.hours import Band
from pushtrain.estimate.interruptions import Interruptions, Rate
from pushtrain.events import parse_time
from pushtrain.gpus import USABLE_GPU_NAMES, memory_gb
from pushtrain.plan.build import with_traffic
from pushtrain.plan.model import Money
from pushtrain.prices import storage_said
from pushtrain.prices.show import document_of, refresh, rows, table_of
from pushtrain.prices.snapshot import FILE, MAX_BYTES, PRICED, document, file_of, of_repository, packaged, parse
from pushtrain.terminal import out

pytest_plugins = ("simulator_fixtures",)

OFFER = Offer(
    gpu="NVIDIA A40",
    gpu_memory_gb=48,
    data_center="EU-SE-1",
    tier="SECURE",
    usd_per_gpu_hour=0.44,
    stock="NONE",
    volume_kinds=("STANDARD",),
    max_count=8,
)
ASKED = "2026-11-01T10:00:00Z"


def test_what_pushtrain_brings_is_of_known_gpus_and_says_its_day() -> None:
    found = packaged()
    assert found.age_days(parse_time("2026-11-21T12:00:00Z")) == 93
    assert "refresh" in found.source
    assert found.day_of("NVIDIA GeForce RTX 4090", "SECURE") == "2026-08-20"
    assert found.day_of("NVIDIA L4", "SECURE") == "2026-03-10"


@pytest.mark.parametrize("cloud", PRICED)
def test_each_price_that_pushtrain_brings_has_a_day_a_source_and_a_gpu_that_a_spec_can_name(cloud: str) -> None:
    found = packaged(cloud)
    assert found.cloud == cloud and found.source.startswith("collected by hand: ")
    assert {offer.gpu for offer in found.offers} <= set(USABLE_GPU_NAMES)
    assert all(offer.gpu_memory_gb == memory_gb(offer.gpu) for offer in found.offers)
    assert all("2026-03-01" < day <= "2026-11-22" for day in found.seen)
    assert not any(found.known_stock), "what nobody asked for is not known"
    assert all(max(counts, default=1) <= it.max_count for it, counts in zip(found.offers, found.counts, strict=True))


def test_a_price_for_eight_gpus_is_not_one_for_a_single_one() -> None:
    def price(count: int) -> list[float]:
        offers = packaged("lambda").for_data_centers([], count)
        return [it.usd_per_gpu_hour for it in offers if it.gpu == "NVIDIA H100 80GB HBM3"]

    assert (price(1), price(8), price(3)) == ([4.29], [3.99], [])
    assert len(packaged("modal").for_data_centers([], 3)) == len(packaged("modal").offers), "sold in any number"


def test_a_snapshot_comes_back_as_it_was_written_one_offer_a_line(tmp_path: Path) -> None:
    text = document([OFFER], ASKED, "RunPod")
    (tmp_path / FILE).write_text(text)
    found = of_repository(tmp_path)
    assert (found.offers, found.asked, found.where) == ((OFFER,), ASKED, FILE)
    assert sum("NVIDIA A40" in line for line in text.splitlines()) == 1
    assert of_repository(tmp_path / "nowhere").where != FILE and "min_bid" not in text
    by_bid = replace(OFFER, min_bid_usd_per_gpu_hour=0.2)
    assert parse(document([by_bid], ASKED, "x").encode(), "x").offers == (by_bid,)
    twice = document([OFFER, OFFER], ASKED, "x", "vast", [(2,), (1,)])
    assert parse(twice.encode(), "x", "vast").counts == ((1,), (2,)), "in one order"
    (tmp_path / file_of("vast")).write_text(twice)
    assert of_repository(tmp_path, "vast").where == "prices-vast.json"
    with pytest.raises(PushtrainError, match="has prices of vast, not of runpod"):
        parse(twice.encode(), "x")
    with pytest.raises(KeyError):
        packaged("../runpod")


def test_stock_of_that_day_rules_nobody_out_and_a_place_that_is_not_known_suits_all(tmp_path: Path) -> None:
    (out_of_stock,) = parse(document([OFFER], ASKED, "x").encode(), "x").for_data_centers([])
    assert out_of_stock.stock == "MEDIUM" and out_of_stock.data_center == "EU-SE-1"
    asked = {offer.data_center for offer in packaged().for_data_centers(["US-KS-2"]) if offer.tier == "SECURE"}
    assert asked == {"US-KS-2"}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"asked": "yesterday"},
        {"offers": []},
        {"extra": 1},
        {"cloud": "cumulus"},
        {"offers": [{**json.loads(document([OFFER], ASKED, "x"))["offers"][0], "counts": [0]}]},
        {"offers": [{"gpu": "x"}]},
        {"offers": [{**json.loads(document([OFFER], ASKED, "x"))["offers"][0], "usd_per_gpu_hour": -1}]},
    ],
)
def test_a_file_that_is_not_ours_is_refused_with_its_name(change: dict[str, object]) -> None:
    raw = {**json.loads(document([OFFER], ASKED, "x")), **change}
    with pytest.raises(PushtrainError, match=r"prices\.json") as refused:
        parse(json.dumps(raw).encode(), FILE)
    assert refused.value.reason == "BadPrices"


def test_a_file_that_is_too_large_or_no_json_is_refused() -> None:
    for raw in (b"x" * (MAX_BYTES + 1), b"{", b"\xff"):
        with pytest.raises(PushtrainError):
            parse(raw, FILE)


def test_refreshing_asks_the_live_catalogue_and_a_table_and_json_show_it(
    tmp_path: Path, simulator: RunningSimulator
) -> None:
    lines: list[str] = []
    environ = simulator.env() | {"VAST_URL": simulator.url, "VAST_API_KEY": ""}
    refresh(tmp_path, environ, lines.append, now_s=parse_time("2026-11-21T12:00:00Z"))
    assert [line.partition(":")[0] for line in lines] == [FILE, file_of("vast")]
    assert all("2026-11-21 12:00 UTC" in line for line in lines)
    vast = of_repository(tmp_path, "vast")
    assert len(vast.offers) > 5 and {len(counts) for counts in vast.counts} == {1}, "a machine has a number of GPUs"
    found = of_repository(tmp_path)
    assert found.asked == "2026-11-21T12:00:00Z" and len(found.offers) > 20
    assert not list(tmp_path.glob(".*.new")), "written whole or not at all"
    shown = document_of([found, vast], now_s=parse_time("2026-11-24T13:00:00Z"))
    assert shown["age_days"] == 3 and shown["storage_usd_per_gb_month"]["network_volume"] == 0.07
    (secure,) = [row for row in rows(found) if (row["gpu"], row["tier"]) == ("NVIDIA A40", "SECURE")]
    assert secure["places"] > 1 and secure["stock"] in ("low", "medium", "high")
    with out.capture() as kept:
        out.print(table_of([found, vast]))
    assert all(word in kept.get() for word in ("NVIDIA A40", "$0.07", "RunPod", "Vast.ai"))
    assert [it["cloud"] for it in shown["clouds"]] == ["runpod", "vast"]


def test_what_does_not_answer_stays_as_it_is_and_only_a_key_makes_that_a_failure(
    tmp_path: Path, simulator: RunningSimulator
) -> None:
    nobody = {"VAST_URL": f"{simulator.url}/nowhere", "RUNPOD_API_BASE_URL": simulator.url}
    lines: list[str] = []
    with pytest.raises(CloudError, match="RUNPOD_API_KEY"):
        refresh(tmp_path, nobody, lines.append)
    assert [line.partition(": left")[0] for line in lines] == [file_of("vast")] and not list(tmp_path.iterdir())
    refresh(tmp_path, nobody | {"RUNPOD_API_KEY": simulator.api_key}, lines.append)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    with pytest.raises(CloudError):
        refresh(tmp_path, nobody | {"RUNPOD_API_KEY": "rpa_of_nobody"}, lines.append)


def test_a_snapshot_nobody_asked_for_stock_says_so() -> None:
    assert {row["stock"] for cloud in PRICED for row in rows(packaged(cloud))} == {"not asked"}


def test_what_storage_is_counted_at_is_said_for_each_cloud_with_who_says_so_and_traffic_where_it_is_billed() -> None:
    for name, can in CLOUDS.items():
        said = storage_said([name])
        assert can.title in said
        assert ("RunPod's pages" in said) == (name == "runpod"), name
        assert can.storage_from in said and ("traffic" in said) == bool(can.traffic_usd), name
    assert "high-performance" not in storage_said(["lambda", "modal"])
    found = Money(low_usd=1.0, expected_usd=2.0, high_usd=3.0, cap_usd=5.0)
    assert with_traffic(found, "runpod", None) == found
    once_usd = 3.3 * CLOUDS["vast"].traffic_usd
    assert with_traffic(found, "vast", None).expected_usd == pytest.approx(2.0 + once_usd)
    number = Band(low=0.0, expected=0.5, high=2.0)
    lost = Interruptions(number=number, on_demand_share=number, rate=Rate(hours_between=12.0, how="assumed"))
    again = with_traffic(found, "vast", None, lost)
    assert (again.low_usd, again.high_usd) == pytest.approx((1.0 + once_usd, 3.0 + 3 * once_usd))
