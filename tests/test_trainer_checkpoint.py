"""Only whole checkpoints of the same recipe are resumed; a wish to stop waits for the end of a step."""

import json
import os
import signal
from pathlib import Path

import pytest

from trainer.checkpoint import Stop, latest_complete, mark_complete, stop_on_signals
from trainer.failures import Preempted

DIGEST = "d" * 64


def checkpoint(root: Path, step: int, *, is_marked: bool = True, is_final: bool = False) -> Path:
    folder = root / f"checkpoint-{step}"
    (folder / "nested").mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(bytes(range(256)) * step)
    (folder / "nested" / "state.json").write_text("{}")
    if is_marked:
        mark_complete(folder, DIGEST, is_final=is_final)
    return folder


def test_the_furthest_whole_checkpoint_is_taken_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        checkpoint(tmp_path, step, is_final=step == 10)
    found = latest_complete(tmp_path, DIGEST)
    assert found is not None
    assert (found.path.name, found.step, found.is_final) == ("checkpoint-10", 10, True)


def test_nothing_to_resume_where_there_is_no_folder(tmp_path: Path) -> None:
    assert latest_complete(tmp_path / "none", DIGEST) is None


@pytest.mark.parametrize("damage", ["no marker", "cut", "flipped", "gone", "half a marker", "another recipe"])
def test_a_damaged_checkpoint_is_passed_over_and_removed(tmp_path: Path, damage: str) -> None:
    checkpoint(tmp_path, 2)
    newest = checkpoint(tmp_path, 4, is_marked=damage != "no marker")
    data, marker = newest / "optimizer.pt", newest / "COMPLETE.json"
    match damage:
        case "cut":
            data.write_bytes(data.read_bytes()[:-1])
        case "flipped":
            data.write_bytes(b"\xff" + data.read_bytes()[1:])
        case "gone":
            (newest / "nested" / "state.json").unlink()
        case "half a marker":
            marker.write_text(marker.read_text()[:40])
        case "another recipe":
            marker.write_text(json.dumps({**json.loads(marker.read_text()), "digest": "e" * 64}))
    found = latest_complete(tmp_path, DIGEST)
    assert found is not None
    assert found.step == 2
    assert not newest.exists()


def test_a_signal_is_an_exception_outside_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    with stop_on_signals(), pytest.raises(Preempted, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_signals_are_wishes_inside_of_training_however_many_come() -> None:
    with stop_on_signals() as stop:
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested
        with pytest.raises(Preempted):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert not Stop().requested
