"""Expected interruptions of spot machines: closed forms, what is assumed and what the ledger has seen."""

import math

import pytest

from pushtrain.errors import PushtrainError
from pushtrain.estimate.hours import Band, Hours
from pushtrain.estimate.interruptions import (
    ASSUMED_HOURS,
    SETTING,
    Rate,
    Seen,
    assumed_hours,
    interrupted,
    mean_number,
    rate,
)


def band(value: float) -> Band:
    return Band(low=value, expected=value, high=value)


def ten_hours(start_h: float = 0.5) -> Hours:
    """A start, and training for the rest of ten hours."""
    nothing = band(0.0)
    return Hours(start=band(start_h), download=nothing, training=band(10 - start_h), evaluation=nothing, upload=nothing)


def every(hours: float) -> Rate:
    return Rate(hours_between=hours, how="")


def test_the_mean_number_counts_what_is_lost_again_while_it_is_made_up_for() -> None:
    assert mean_number(10, 0, 5) == 2
    assert mean_number(10, 1, 5) == pytest.approx(2.5)
    # Each interruption loses one hour of machine: 12.5 h in all, of which 2.5 were lost.
    assert 10 + mean_number(10, 1, 5) * 1 == pytest.approx(mean_number(10, 1, 5) * 5)
    assert mean_number(10, 5, 5) == math.inf


def test_of_one_allowed_interruption_the_expected_number_is_the_chance_of_any() -> None:
    _, found = interrupted(ten_hours(0.0), band(0.0), every(5), 1)
    assert found.number.expected == pytest.approx(1 - math.exp(-2))
    # Optional stopping: spot lasts five hours for each interruption expected, the rest is on demand.
    assert found.on_demand_share.expected == pytest.approx(1 - 5 * (1 - math.exp(-2)) / 10)
    _, two = interrupted(ten_hours(0.0), band(0.0), every(5), 2)
    assert two.number.expected == pytest.approx(2 - 2 * math.exp(-2) - 2 * math.exp(-2))


def test_each_costs_half_a_save_interval_and_a_start() -> None:
    hours, found = interrupted(ten_hours(0.5), band(1.0), every(20), 20)
    number = mean_number(10, 0.5 + 0.5, 20)
    assert found.number.expected == pytest.approx(number, rel=1e-9)
    assert hours.interrupted.expected == pytest.approx(number * 1.0, rel=1e-9)
    assert hours.total.expected == pytest.approx(10 + number, rel=1e-9)
    assert found.on_demand_share.expected == pytest.approx(0, abs=1e-9), "with many allowed nothing is on demand"


def test_low_and_high_are_quantiles_and_never_more_than_are_allowed() -> None:
    _, rare = interrupted(ten_hours(), band(0.1), every(1000), 3)
    assert (rare.number.low, rare.number.high) == (0, 0) and 0 < rare.number.expected < 0.011
    _, often = interrupted(ten_hours(), band(0.1), every(2), 3)
    assert (often.number.low, often.number.high) == (3, 3) and 2.8 < often.number.expected < 3
    assert often.on_demand_share.high > 0.3
    hours, hopeless = interrupted(ten_hours(), band(4.0), every(2), 3)
    assert hopeless.number == band(3.0), "each loses more than lies between two"
    assert hours.total.expected == pytest.approx(10 + 3 * 2.5)


def test_fewer_interruptions_cost_less() -> None:
    totals = [interrupted(ten_hours(), band(0.5), every(h), 2)[0].total.expected for h in (2, 5, 12, 100, 1e5)]
    assert totals == sorted(totals, reverse=True) and totals[-1] == pytest.approx(10, abs=1e-3)


def test_what_was_seen_moves_what_is_assumed_by_its_weight() -> None:
    assert rate(12, Seen()).hours_between == 12 and "assumed" in rate(12, Seen()).how
    assert rate(12, Seen(lost=0, hours=24)).hours_between == 36
    assert rate(12, Seen(lost=3, hours=4)).hours_between == 4
    many = rate(12, Seen(lost=100, hours=300))
    assert many.hours_between == pytest.approx(3, rel=0.04)
    assert "100 seen in 300.0 h" in many.how and SETTING in many.how


def test_the_assumption_is_the_reader_s_to_set() -> None:
    assert assumed_hours({}) == ASSUMED_HOURS and assumed_hours({SETTING: "3.5"}) == 3.5
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        with pytest.raises(PushtrainError, match=SETTING) as refused:
            assumed_hours({SETTING: wrong})
        assert refused.value.reason == "BadSetting" and refused.value.hint
