"""The history of a run's attempts: where each was, why it ended, and how much work was done twice."""

import json
from dataclasses import replace

from test_lifecycle import record

from pushtrain.attempts import attempts, steps_lost
from pushtrain.events import now_text

# Events are 10 s apart: training begins at 30 s, again at 70 s and, in a restarted container, at 90 s.
TEXTS = (
    *("claimed", "provisioned", "training:1:0", "lost:1:PodLost"),
    *("provisioned:2", "booting:2", "training:2:40", "booting:2", "training:2:50", "finished:2"),
)


def metrics(*rows: tuple[float, int]) -> bytes:
    lines = [json.dumps({"time": time_s, "step": step, "loss": 1.0}) for time_s, step in rows]
    lines += [
        "not json",
        json.dumps({"time": 60.0, "step": 999, "eval_loss": 1.0}),
        json.dumps({"time": "x", "step": 1, "loss": 2}),
    ]
    return "\n".join(lines).encode()


def test_what_was_done_twice_is_counted_where_it_was_first_done() -> None:
    # 57 steps before the pod was lost, then from 40 on to 52, and in the next container from 50 on.
    rows = metrics((35.0, 20), (39.0, 57), (75.0, 45), (85.0, 52), (95.0, 60))
    assert steps_lost(record(*TEXTS).events, rows) == {1: 17, 2: 2}
    assert steps_lost(record(*TEXTS[:4]).events, rows) == {}
    assert steps_lost(record(*TEXTS).events, b"") == {}


def test_every_attempt_has_its_place_its_hours_and_its_end() -> None:
    made = record(*TEXTS)
    events = tuple(
        replace(event, data={**event.data, "gpu": "NVIDIA A40", "data_center": "EU-SE-1"})
        if event.state == "provisioned"
        else event
        for event in made.events
    )
    first, second = attempts(replace(made, events=events), metrics((39.0, 57)))
    assert (first["pod"], first["gpu"], first["ended"]) == ("pod1", "NVIDIA A40", "PodLost")
    assert (first["resumed_from_step"], first["steps_lost"]) == (0, 17)
    assert (second["attempt"], second["ended"], second["resumed_from_step"]) == (2, "finished", 40)
    assert (first["hours"], second["hours"]) == (round(20 / 3600, 6), round(50 / 3600, 6))


def test_an_attempt_that_never_trained_lost_nothing() -> None:
    (only,) = attempts(record("claimed", "provisioned", "booting", "lost:1:CrashLoop"), b"")
    assert (only["resumed_from_step"], only["steps_lost"], only["ended"]) == (None, 0, "CrashLoop")


def test_a_clock_that_is_off_loses_no_work_that_was_not_done() -> None:
    made = record(*TEXTS)
    events = tuple(replace(it, time=now_text(it.epoch_s + 9e5)) if it.attempt == 2 else it for it in made.events)
    assert steps_lost(events, metrics((39.0, 57), (75.0, 45))) == {1: 17}
