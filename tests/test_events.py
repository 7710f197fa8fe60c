"""Events: what is written is what is read, and a chain that was touched says where."""

import json
from dataclasses import replace
from typing import Any

import pytest

from pushtrain.bounds import EVENT_BYTES
from pushtrain.events import Event, EventDraft, broken_links, decode, encode, now_text, parse_time

DRAFT = EventDraft(state="training", writer="pod", attempt=2, reason="Because", message="Schritt 1 ✓", data={"a": [1]})

AT: dict[str, Any] = {"seq": 1, "prev": None, "now_s": 0.0}


def chain(*states: str) -> list[bytes]:
    raws: list[bytes] = []
    for seq, state in enumerate(states, 1):
        prev = decode(raws[-1]).digest if raws else None
        raws.append(encode(EventDraft(state=state, writer="control", attempt=1), seq=seq, prev=prev, now_s=seq)[1])
    return raws


def events(raws: list[bytes]) -> list[Event]:
    return [decode(raw) for raw in raws]


def test_an_event_comes_back_as_it_was_said() -> None:
    name, raw = encode(DRAFT, seq=7, prev="ab", now_s=1_700_000_000.1234)
    event = decode(raw)
    assert name == "events/000007-training.json"
    assert (event.seq, event.state, event.writer, event.attempt, event.prev) == (7, "training", "pod", 2, "ab")
    assert (event.reason, event.message, event.data) == ("Because", "Schritt 1 ✓", {"a": [1]})
    assert event.time == "2023-11-14T22:13:20.123Z"
    assert event.epoch_s == 1_700_000_000.123
    assert encode(DRAFT, seq=7, prev="ab", now_s=1_700_000_000.1234) == (name, raw)
    assert raw.endswith(b"}\n")


def test_a_draft_may_carry_its_own_time() -> None:
    raw = encode(EventDraft(state="training", writer="pod", attempt=1, time=now_text(5)), seq=1, prev=None, now_s=99)[1]
    assert decode(raw).epoch_s == 5.0
    assert parse_time("1970-01-01T01:00:00+01:00") == 0.0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(EventDraft(state="training", writer="pod", attempt=1, data={"x": number}), seq=1, prev=None, now_s=0)


@pytest.mark.parametrize("state", ["", "Training", "a b", "a/b", "../a", "a\n", "training.", "x" * 31])
def test_a_state_that_is_no_file_name_is_refused(state: str) -> None:
    with pytest.raises(ValueError, match="not an event state"):
        encode(EventDraft(state=state, writer="pod", attempt=1), seq=1, prev=None, now_s=0)


def test_an_event_that_is_too_large_is_cut_and_says_so() -> None:
    data = {"rungs": [{"gpu": "A40", "why": "x" * 9000}] * 300, "pod_id": "p1"}
    name, raw = encode(
        EventDraft(state="training", writer="pod", attempt=1, message="y" * 20_000, data=data),
        seq=1,
        prev=None,
        now_s=0,
    )
    event = decode(raw)
    assert len(raw) <= EVENT_BYTES and name == "events/000001-training.json"
    assert event.message.endswith("… [12000 characters cut]") and event.data["pod_id"] == "p1"
    assert event.data["cut"]["bytes"] > 2_700_000 and len(event.data["cut"]["sha256"]) == 64
    assert event.data["rungs"][0]["why"].endswith("characters cut]")
    wide = decode(encode(replace(DRAFT, data={"a": [1] * 200_000, "b": {str(n): n for n in range(50_000)}}), **AT)[1])
    assert wide.data["a"][-1].endswith("entries cut]") and wide.data["b"]["cut"].endswith("keys")
    whole = {"rungs": [{"gpu": "A40", "usd": 1.5}] * 900}
    assert decode(encode(replace(DRAFT, data=whole), **AT)[1]).data == whole


def test_an_older_reader_survives_a_newer_writer() -> None:
    body = json.loads(encode(DRAFT, seq=1, prev=None, now_s=0)[1]) | {"colour": "blue"}
    assert decode(json.dumps(body).encode()).message == "Schritt 1 ✓"
    assert decode(b'{"seq": 1, "time": "1970-01-01T00:00:00Z", "state": "training"}').data == {}


def test_a_whole_chain_has_no_broken_link() -> None:
    assert broken_links([]) == []
    assert broken_links(events(chain("claimed", "training", "closed"))) == []


def test_a_changed_event_is_named_by_the_one_after_it() -> None:
    raws = chain("claimed", "training", "closed")
    raws[1] = raws[1].replace(b'"attempt": 1', b'"attempt": 2')
    assert broken_links(events(raws)) == ["event 3 (closed) does not follow from the event before it"]


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ([0, 2], "event 2 is missing or out of order: found number 3"),
        ([1, 0, 2], "event 1 is missing or out of order: found number 2"),
        ([0, 1, 1], "event 3 is missing or out of order: found number 2"),
    ],
)
def test_a_missing_or_moved_event_is_named(order: list[int], problem: str) -> None:
    raws = chain("claimed", "training", "closed")
    assert broken_links(events([raws[index] for index in order])) == [problem]
