"""The clock of the control plane: its own, unless the cloud's says something else."""

from collections.abc import Iterator
from email.utils import formatdate

import pytest

from infra.simulator.loopback import Listener, Reply, Request
from pushtrain.clock import ASK_AGAIN_S, CloudClock

CLOUD_S = 1_790_000_000


def answer(request: Request) -> Reply:
    assert request.method == "HEAD" and "authorization" not in request.headers
    return Reply(status=404, headers={"Date": formatdate(CLOUD_S, usegmt=True)})


@pytest.fixture
def url() -> Iterator[str]:
    with Listener(answer) as listener:
        yield listener.url


@pytest.mark.parametrize(
    ("off_s", "words"), [(0, ""), (5, ""), (-5, ""), (7200, "7200 s ahead of"), (-7200, "7200 s behind")]
)
def test_a_clock_that_is_off_the_clouds_does_not_count(url: str, off_s: float, words: str) -> None:
    said: list[str] = []
    now_s = [CLOUD_S + off_s]
    clock = CloudClock(url, said.append, local=lambda: now_s[0])
    assert clock() == (CLOUD_S if words else CLOUD_S + off_s)
    assert len(said) == bool(words) and all(words in text for text in said)
    now_s[0] += 100.0
    assert clock() == (CLOUD_S if words else CLOUD_S + off_s) + 100.0


def test_a_cloud_that_does_not_answer_leaves_this_machines_clock() -> None:
    said: list[str] = []
    assert CloudClock("http://127.0.0.1:9", said.append, local=lambda: 7.0)() == 7.0
    assert said == []


def test_a_cloud_that_did_not_answer_is_asked_again_until_it_does() -> None:
    answers, said, now_s = [None, None, 5000.0], list[str](), [1000.0]
    clock = CloudClock("", said.append, local=lambda: now_s[0], ask=lambda url, patience_s: answers.pop(0))
    assert (clock(), clock()) == (1000.0, 1000.0) and len(answers) == 2, "a minute apart"
    for _ in range(2):
        now_s[0] += ASK_AGAIN_S
        seen = clock()
    assert seen == clock() == 5000.0 and not answers
    assert len(said) == 1 and "behind" in said[0]
