"""Whose attempt it is, by the ledger: what a pod finds there after its own first word."""

import pytest

from pushtrain.events import Event
from pushtrain.pod.arrival import other_pod

MINE = "pod-2"


def events(*texts: str) -> list[Event]:
    """Each `state:pod:attempt`; the attempt is 1 unless said."""
    found = []
    for seq, text in enumerate(texts):
        state, pod, attempt = [*text.split(":"), "1"][:3]
        data = {"pod_id" if state == "provisioned" else "pod": pod} if pod else {}
        found.append(
            Event(
                seq=seq,
                time="2026-11-22T12:00:00.000Z",
                state=state,
                writer="pod" if state == "booting" else "control",
                attempt=int(attempt),
                reason="",
                message="",
                data=data,
                prev="",
                digest="",
            )
        )
    return found


OTHER = ("provisioned:pod-1", "booting:pod-1", "booting:pod-2")


@pytest.mark.parametrize(
    ("texts", "paths", "expected"),
    [
        # Another pod spoke first, and nobody ended it, whichever one is named.
        (OTHER, (), "pod-1"),
        (("booting:pod-1", "provisioned:pod-1", "training:", "booting:pod-2"), (), "pod-1"),
        (("booting:pod-1", "provisioned:pod-2", "booting:pod-2"), (), "pod-1"),
        (("booting:pod-1", "booting:pod-2"), (), "pod-1"),
        # This one did, or an earlier container of it.
        (("provisioned:pod-1", "booting:pod-2"), (), ""),
        (("provisioned:pod-1", "booting:pod-2", "booting:pod-1"), (), ""),
        (("provisioned:pod-2", "booting:pod-2", "training:", "booting:pod-2"), (), ""),
        # The other one was ended as one too many, or given up: this one goes on in its place.
        (OTHER, ("rented/pod-pod-1",), ""),
        ((*OTHER[:2], "lost:", "booting:pod-2"), (), ""),
        # Where a pod is not told its id it speaks without one.
        (("provisioned:pod-1", "booting:", "booting:"), (), ""),
        # What was in the attempt before is over.
        ((*OTHER[:2], "lost:", "provisioned:pod-2:2", "booting:pod-2:2"), (), ""),
    ],
)
def test_an_attempt_is_the_pods_that_spoke_first_and_is_at_work(
    texts: tuple[str, ...], paths: tuple[str, ...], expected: str
) -> None:
    attempt = max(event.attempt for event in events(*texts))
    assert other_pod(events(*texts), dict.fromkeys(paths, ""), attempt, MINE) == expected
