"""The client's share of RunPod's request windows, against a server that counts as RunPod's documentation says."""

import random
from dataclasses import dataclass, field

import pytest

from infra.clouds.quota import Quota
from infra.clouds.wire import Limits

POLICY = {"minute": (60, 60), "hour": (3000, 3600), "day": (50000, 86400)}


@dataclass
class Server:
    """Fixed windows; whoever is over one gets a 429. `least_left` is the least that was ever left of each."""

    used: dict[str, tuple[int, int]] = field(default_factory=dict)
    least_left: dict[str, int] = field(default_factory=lambda: {name: quota for name, (quota, _) in POLICY.items()})
    refused: int = 0

    def request(self, now_s: float) -> dict[str, str]:
        over, states = False, []
        for name, (quota, length_s) in POLICY.items():
            window, used = self.used.get(name, (-1, 0))
            used = used + 1 if window == now_s // length_s else 1
            self.used[name] = (int(now_s // length_s), used)
            left = max(0, quota - used)
            over = over or used > quota
            self.least_left[name] = min(self.least_left[name], left)
            states.append(f'"{name}";r={left};t={int(length_s - now_s % length_s)}')
        self.refused += over
        policy = ", ".join(f'"{name}";q={quota};w={length_s}' for name, (quota, length_s) in POLICY.items())
        return {"ratelimit": ", ".join(states), "ratelimit-policy": policy}


def test_nothing_is_waited_for_before_an_answer_or_without_headers():
    quota = Quota()
    for now_s in range(1000):
        assert quota.wait_s(now_s) == 0
        quota.sent(now_s)
        quota.heard({}, now_s)


@pytest.mark.parametrize("others_per_minute", [0, 10], ids=["alone", "beside-another-client"])
def test_who_asks_as_fast_as_it_may_for_a_day_is_never_refused_and_leaves_room(others_per_minute: int):
    quota, server, now_s, sent = Quota(), Server(), 17.0, 0
    chance, others_at = random.Random(1), 17.0
    while now_s < 86400:
        while others_per_minute and others_at <= now_s:
            refused = server.refused
            server.request(others_at)
            server.refused = refused
            others_at += 60 / others_per_minute
        wait_s = quota.wait_s(now_s)
        assert others_per_minute or wait_s <= Limits().max_wait_s, "beyond that the client would give up"
        if wait_s:
            now_s += wait_s
            continue
        quota.sent(now_s)
        quota.heard(server.request(now_s), now_s)
        sent += 1
        now_s += 0.1 + chance.random() / 10
    assert server.refused == 0
    others = 2 * others_per_minute
    assert server.least_left["minute"] >= 6 - others
    assert server.least_left["hour"] >= 300 - others
    assert server.least_left["day"] >= 5000 - others
    assert sent > 0.75 * (50000 - 1440 * others_per_minute), "most of the day's requests can be used"


def test_a_hundred_runs_that_end_at_once_are_terminated_while_reads_have_to_wait():
    quota, server, now_s = Quota(), Server(), 3600.0 - 1800
    for _ in range(2700):  # somebody has used the hour up, but for what is kept
        server.request(now_s)
    now_s, server.refused = 3600.0 - 100, 0
    quota.heard(server.request(now_s), now_s)
    assert quota.wait_s(now_s) > 90, "no room for a read"
    for _ in range(2 * 100):
        wait_s = quota.wait_s(now_s, ends_something=True)
        assert wait_s <= 61
        now_s += wait_s
        quota.sent(now_s)
        quota.heard(server.request(now_s), now_s)
    assert server.refused == 0


def test_an_even_tick_is_never_held_up():
    """Pods and volumes listed every ten seconds for a day: what `--follow` does, whatever the number of runs."""
    quota, server = Quota(), Server()
    for tick in range(8640):
        for _ in range(2):
            now_s = 5.0 + 10 * tick
            assert quota.wait_s(now_s) == 0
            quota.sent(now_s)
            quota.heard(server.request(now_s), now_s)
    assert server.refused == 0


def test_requests_whose_answer_is_lost_are_counted_until_the_server_says_more():
    quota = Quota()
    quota.heard({"ratelimit": '"minute";r=10;t=30', "ratelimit-policy": '"minute";q=60;w=60'}, 0.0)
    for _ in range(4):
        assert quota.wait_s(1.0) == 0
        quota.sent(1.0)
    assert quota.wait_s(1.0) == 30.0, "six are kept"
    assert quota.wait_s(1.0, ends_something=True) == 0
    for _ in range(6):
        quota.sent(2.0)
    assert quota.wait_s(2.0, ends_something=True) == 29.0
    assert quota.wait_s(31.0) == 0, "a new minute"
    assert quota.scarce(32.0) == "60 of 60 requests left in this minute, new in 59 s"


@pytest.mark.parametrize("header", ["", "minute", '"minute";r=x;t=1', '"minute";t=1;r=0', "r=0;t=9"])
def test_a_header_nobody_can_read_changes_nothing(header: str):
    quota = Quota()
    quota.heard({"ratelimit": header, "ratelimit-policy": header}, 0.0)
    assert quota.wait_s(0.0) == 0 and quota.scarce(0.0) == "no window is known"
