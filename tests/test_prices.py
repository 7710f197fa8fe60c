"""The dated snapshot of prices: read strictly, refreshed in a readable form, a repository's own before ours."""

import json
from pathlib import Path

import pytest

from infra.simulator.server import RunningSimulator
from pushtrain.cloud import Offer
from pushtrain.errors import CloudError, PushtrainError
from pushtrain.events import parse_time
from pushtrain.gpus import GPU_NAMES
from pushtrain.prices.show import document_of, refreshed, rows, table_of
from pushtrain.prices.snapshot import FILE, MAX_BYTES, document, of_repository, packaged, parse
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
    assert {offer.gpu for offer in found.offers} <= set(GPU_NAMES)
    assert found.age_days(parse_time("2026-11-21T12:00:00Z")) == 93
    assert "refresh" in found.source
    assert found.day_of("NVIDIA GeForce RTX 4090", "SECURE") == "2026-08-20"
    assert found.day_of("NVIDIA H200", "SECURE") == "2026-03-10"


def test_a_snapshot_comes_back_as_it_was_written_one_offer_a_line(tmp_path: Path) -> None:
    text = document([OFFER], ASKED, "RunPod")
    (tmp_path / FILE).write_text(text)
    found = of_repository(tmp_path)
    assert (found.offers, found.asked, found.where) == ((OFFER,), ASKED, FILE)
    assert sum("NVIDIA A40" in line for line in text.splitlines()) == 1
    assert of_repository(tmp_path / "nowhere").where != FILE


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
    said = refreshed(tmp_path, simulator.env(), now_s=parse_time("2026-11-21T12:00:00Z"))
    assert said.startswith(f"{FILE}: ") and "2026-11-21 12:00 UTC" in said
    found = of_repository(tmp_path)
    assert found.asked == "2026-11-21T12:00:00Z" and len(found.offers) > 20
    assert not list(tmp_path.glob(".*.new")), "written whole or not at all"
    shown = document_of(found, now_s=parse_time("2026-11-24T13:00:00Z"))
    assert shown["age_days"] == 3 and shown["storage_usd_per_gb_month"]["network_volume"] == 0.07
    (secure,) = [row for row in rows(found) if (row["gpu"], row["tier"]) == ("NVIDIA A40", "SECURE")]
    assert secure["places"] > 1 and secure["stock"] in ("low", "medium", "high")
    with out.capture() as kept:
        out.print(table_of(found))
    assert "NVIDIA A40" in kept.get() and "$0.07" in kept.get()
    with pytest.raises(CloudError):
        refreshed(tmp_path, {})


def test_a_snapshot_nobody_asked_for_stock_says_so() -> None:
    assert {row["stock"] for row in rows(packaged())} == {"not asked"}
