"""Schedules over several clouds at once: which they are, and a job that may go to any of them."""

import random
import re
from collections.abc import Callable, Sequence

from pushtrain.capabilities import DEFAULT_CLOUD

from .rentals import RENTALS
from .rentals.rental import without_kept

ANY = "any"
# Each cloud in its share, by the seed; RunPod's is the largest.
ALL = "all"
# A share of the jobs names one cloud alone.
_ALONE = 0.25


def share(cloud: str, seed: int) -> str:
    """Where a seed is played: every four of them at one cloud, since each fourth schedule is of a kind of its own."""
    if cloud != ALL:
        return cloud
    others = [*(name for name in RENTALS if name != DEFAULT_CLOUD), ANY]
    places = [*others, *[DEFAULT_CLOUD] * len(others)]
    return places[seed // 4 % len(places)]


def drawn(seed: int) -> tuple[str, ...]:
    """Two clouds or more."""
    rng = random.Random(f"clouds {seed}")
    return tuple(rng.sample(list(RENTALS), rng.randint(2, len(RENTALS))))


def spec_over(clouds: Sequence[str], seed: int) -> Callable[[str], str]:
    """Makes a job of RunPod's one that may go to these clouds, or to one of them. Places and volumes that are kept are
    left out: not every cloud has them."""
    rng = random.Random(f"jobs {seed}")

    def spec(text: str) -> str:
        if rng.random() < _ALONE:
            return RENTALS[rng.choice(clouds)].spec(text)
        text = re.sub(r"data_centers: \[.*?\], ", "", without_kept(text))
        found = re.search(r"gpus: \[(.*?)\]", text)
        assert found is not None
        named = [RENTALS[name].types.get(gpu, gpu) for gpu in found[1].split(", ") for name in clouds]
        text = text.replace(found[0], f"gpus: [{', '.join(dict.fromkeys(named))}]")
        return text.replace("compute: {", f"compute: {{cloud: [{', '.join(clouds)}], ")

    return spec
