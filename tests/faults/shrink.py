"""The shortest schedule that still breaks the same promise."""

from collections.abc import Callable

from .schedule import Schedule, without


def shrink(schedule: Schedule, still_breaks: Callable[[Schedule], bool], most_tries: int = 200) -> Schedule:
    """Delta debugging over the list of faults: drop halves, then quarters, then single ones, as long as it breaks."""
    tries, size = 0, max(1, len(schedule.faults) // 2)
    while schedule.faults and tries < most_tries:
        for start in range(0, len(schedule.faults), size):
            smaller = without(schedule, set(range(start, start + size)))
            tries += 1
            if still_breaks(smaller):
                schedule = smaller
                break
        else:
            if size == 1:
                break
            size //= 2
        size = max(1, min(size, len(schedule.faults)))
    return schedule
