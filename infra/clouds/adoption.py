"""What every cloud does about a create whose answer may be lost: looks its name up again, and leaves one of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from pushtrain.cloud import Pod
from pushtrain.errors import CloudUnavailable

T = TypeVar("T")


def look_again(pauses_s: Sequence[float], sleep: Callable[[float], None], look: Callable[[], T | None]) -> T | None:
    """The first thing that `look` finds after one of the pauses; None when the last look found nothing either."""
    for pause_s in pauses_s:
        sleep(pause_s)
        if (found := look()) is not None:
            return found
    return None


def keep_oldest(pods: Iterable[Pod], name: str, created: Pod | None, terminate: Callable[[str], None]) -> Pod | None:
    """The oldest living pod of that name; its twins, and those that ended, are terminated.

    `created` is what this call made: a list that is behind does not hold it yet.
    """
    same = {pod.id: pod for pod in pods if pod.name == name}
    if created is not None:
        same.setdefault(created.id, created)
    oldest = min((pod for pod in same.values() if pod.is_alive), key=lambda pod: pod.age_key, default=None)
    for pod in same.values():
        if pod is not oldest:
            terminate(pod.id)
    return oldest


def nothing_appeared(doing: str, said: str) -> CloudUnavailable:
    """The error of a create that nobody answered clearly, last with `said`, and that left nothing."""
    return CloudUnavailable(
        f"{doing}: {said}, and nothing of that name appeared",
        hint="run the same command again: it looks the name up before it creates",
    )
