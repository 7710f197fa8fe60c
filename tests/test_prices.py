"""The dated snapshot of prices: read strictly, refreshed in a readable form, a repository's own before ours."""

import json
from pathlib import Path

import pytest

from pushtrain.cloud import Offer
from pushtrain.errors import PushtrainError
from pushtrain.events import parse_time
from pushtrain.gpus import GPU_NAMES
from pushtrain.prices.snapshot import FILE, MAX_BYTES, document, of_repository, packaged, parse

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
