"""What a cloud can and cannot do: one piece of data behind check, plan, placement and docs/clouds.md."""

from pathlib import Path
from typing import get_args

import pytest

from infra.clouds import connect
from pushtrain.capabilities import CLOUDS, losing, table, unmet
from pushtrain.errors import SpecError
from pushtrain.spec.compute import Compute

PAGE = Path(__file__).parent.parent / "docs" / "clouds.md"
KEYS = {"RUNPOD_API_KEY": "rpa_0123456789abcdef"}


def test_the_table_of_the_page_is_what_the_code_says() -> None:
    _, _, after = PAGE.read_text(encoding="utf-8").partition(f"\n\n{table()[0]}\n")
    written = [table()[0], *after.partition("\n\n")[0].splitlines()]
    assert written == table(), "the table should be\n" + "\n".join(table())


def test_each_cloud_has_a_client_of_that_name_and_steps_to_a_first_run() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, can in CLOUDS.items():
        assert connect(name, KEYS).name == name
        _, _, steps = page.partition(f"\n## {can.title}\n")
        assert [line[:3] for line in steps.partition("\n## ")[0].splitlines() if line[:1].isdigit()] == [
            f"{number}. " for number in range(1, 6)
        ]


def test_what_a_spec_may_name_is_what_has_data() -> None:
    assert set(get_args(Compute.model_fields["cloud"].annotation)) <= set(CLOUDS)
    with pytest.raises(SpecError):
        connect("cumulus", KEYS)


def test_on_runpod_only_community_machines_lose_what_was_written() -> None:
    assert losing("runpod", ["SECURE", "COMMUNITY"]) == ["COMMUNITY"] and losing("runpod", ["SECURE"]) == []
    assert list(unmet("runpod", tiers=["SECURE"], keeps_volume=True, data_centers=True, template=True)) == []
    (said,) = unmet("runpod", tiers=["SECURE", "COMMUNITY"], keeps_volume=True)
    assert said == "tiers has COMMUNITY, whose machines take no network volume: volume.keep needs SECURE"
