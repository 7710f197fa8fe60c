"""How often a machine that may be taken away is, and what that adds to the hours of a run. Pure.

Nobody publishes a rate for the clouds here, so one is assumed, which the reader sees and may set, and what runs of the
ledger have seen corrects it. Interruptions are a Poisson process over the hours of spot machines; each costs what was
trained since the last checkpoint, half a save interval on average, and a start. After `most` of them the rest is on
demand, where nothing is taken.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pushtrain.errors import PushtrainError
from pushtrain.estimate.hours import Band, Hours

SETTING = "PUSHTRAIN_SPOT_HOURS"
# Google ends every preemptible VM within 24 h (cloud.google.com/compute/docs/instances/preemptible); where anybody may
# outbid, or an on-demand user goes first, nothing is kept for longer. Half of that: a guess, and shown as one.
ASSUMED_HOURS = 12.0
# Of ten runs one is taken less often than the low figure counts, and one more often than the high one.
LOW, HIGH = 0.1, 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What spot machines of one cloud went through: how many were taken away, in how many hours altogether."""

    lost: int = 0
    hours: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Mean hours between two interruptions, and where that is from."""

    hours_between: float
    how: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruptions:
    """How many a run may expect, `most` of them at spot; `on_demand_share`: of its hours, low, expected and high, those
    that are then on demand."""

    number: Band
    on_demand_share: Band
    rate: Rate


def assumed_hours(environ: Mapping[str, str]) -> float:
    """What is assumed without a run to learn from. Raises PushtrainError for a setting that is no number of hours."""
    text = environ.get(SETTING) or str(ASSUMED_HOURS)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:
        raise PushtrainError(
            f"{SETTING}={text!r} is no number of hours",
            hint=f"the mean hours between two interruptions of a spot machine, e.g. {ASSUMED_HOURS:g}",
            reason="BadSetting",
        )
    return value


def rate(assumed: float, seen: Seen) -> Rate:
    """The mean of a gamma posterior whose prior weighs as much as one interruption in `assumed` hours: few hours of
    what was seen move it little, many rule it."""
    hours = (assumed + seen.hours) / (1 + seen.lost)
    if not seen.hours:
        return Rate(hours_between=hours, how=f"one in {assumed:g} h is assumed: nobody publishes a rate ({SETTING})")
    what = f"{seen.lost} seen in {seen.hours:.1f} h of the ledger's spot machines"
    return Rate(hours_between=hours, how=f"one in {hours:.1f} h: {what}, one in {assumed:g} h assumed ({SETTING})")


def interrupted(undisturbed: Hours, save_hours: Band, found: Rate, most: int) -> tuple[Hours, Interruptions]:
    """The hours with interruptions in them. `save_hours` lie between two checkpoints.

    With T hours to do and L hours lost each time, T/(1 - L/m) hours are spent where the mean time between is m; their
    number is Poisson's, cut off at `most`, and by optional stopping spot lasts m hours for each one expected.
    """
    total = undisturbed.total
    each = save_hours.times(0.5) + undisturbed.start + undisturbed.download
    low = _cut(LOW, total.low, each.low, found, most)
    expected = _expected(total.expected, each.expected, found, most)
    high = _cut(HIGH, total.high, each.high, found, most)
    number = Band(low=low, expected=expected, high=high)
    lost = Band(low=low * each.low, expected=expected * each.expected, high=high * each.high)
    share = Band(
        low=_on_demand(total.low, lost.low, low, found, is_over=low >= most),
        expected=_on_demand(total.expected, lost.expected, expected, found, is_over=True),
        high=_on_demand(total.high, lost.high, high, found, is_over=high >= most),
    )
    return undisturbed.with_interruptions(lost), Interruptions(number=number, on_demand_share=share, rate=found)


def mean_number(hours: float, lost_hours: float, hours_between: float) -> float:
    """Interruptions of a run that is never moved on demand; infinite where each loses more than lies between two."""
    share = lost_hours / hours_between
    return hours / hours_between / (1 - share) if share < 1 else math.inf


def _expected(hours: float, lost_hours: float, found: Rate, most: int) -> float:
    """E[min(K, most)] for K of Poisson's with the mean number."""
    mean = mean_number(hours, lost_hours, found.hours_between)
    if math.isinf(mean):
        return float(most)
    return most - sum((most - k) * _poisson(k, mean) for k in range(most))


def _cut(share: float, hours: float, lost_hours: float, found: Rate, most: int) -> float:
    """The quantile of the same number."""
    mean = mean_number(hours, lost_hours, found.hours_between)
    below = 0.0
    for k in range(most):
        below += 0.0 if math.isinf(mean) else _poisson(k, mean)
        if below >= share:
            return float(k)
    return float(most)


def _on_demand(hours: float, lost_hours: float, number: float, found: Rate, *, is_over: bool) -> float:
    """The share of all hours that come after the last machine that is taken."""
    total = hours + lost_hours
    left = total - number * found.hours_between if is_over else 0.0
    return min(1.0, max(0.0, left / total)) if total > 0 else 0.0


def _poisson(k: int, mean: float) -> float:
    return math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) if mean > 0 else float(k == 0)
