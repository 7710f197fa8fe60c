"""Only whole checkpoints of the same recipe are resumed; a wish to stop waits for the end of a step."""

import os
import signal
from pathlib import Path

import pytest

from trainer.checkpoint import (
    RESUME_FROM,
    Stop,
    latest_complete,
    make_room,
    mark_complete,
    remove,
    rotate,
    stop_on_signals,
    to_resume,
    whole_at,
)
from trainer.failures import DiskFull, OtherRecipe, Preempted

RECIPE = {"model": {"id": "demo/tiny"}, "train": {"learning_rate": 0.1, "seed": 17}}
GB = 10**9


def checkpoint(root: Path, step: int, *, is_marked: bool = True, is_final: bool = False) -> Path:
    folder = root / f"checkpoint-{step}"
    (folder / "nested").mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(bytes(range(256)) * step)
    (folder / "nested" / "state.json").write_text("{}")
    if is_marked:
        mark_complete(folder, RECIPE, is_final=is_final)
    return folder


def test_the_furthest_whole_checkpoint_is_taken_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        checkpoint(tmp_path, step, is_final=step == 10)
    found = latest_complete(tmp_path, RECIPE)
    assert found is not None
    assert (found.path.name, found.step, found.is_final) == ("checkpoint-10", 10, True)


def test_nothing_to_resume_where_there_is_no_folder(tmp_path: Path) -> None:
    assert latest_complete(tmp_path / "none", RECIPE) is None


@pytest.mark.parametrize("damage", ["no marker", "cut", "flipped", "gone", "half a marker"])
def test_a_damaged_checkpoint_is_passed_over_and_out_of_the_way(tmp_path: Path, damage: str) -> None:
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
    found = latest_complete(tmp_path, RECIPE)
    assert found is not None
    assert found.step == 2
    assert not newest.exists()
    aside = tmp_path / "damaged-checkpoint-4"
    assert aside.exists() == (damage in ("cut", "flipped", "gone")), "what was whole once is not thrown away at once"
    rotate(tmp_path, lambda _: GB)
    assert not aside.exists(), "it outlived the next whole checkpoint"


def test_of_another_recipe_none_is_resumed_and_none_is_lost(tmp_path: Path) -> None:
    """Its files may be the only copy of somebody's training: whoever changed the spec is told what is different."""
    first, last = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    changed = {**RECIPE, "train": {"learning_rate": 0.2, "seed": 17}}
    with pytest.raises(OtherRecipe, match=r"train\.learning_rate: 0\.1 → 0\.2") as refused:
        latest_complete(tmp_path, changed)
    assert "--run-dir" in str(refused.value.hint) and refused.value.exit_code == 2
    assert first.exists() and last.exists()


def test_older_ones_stay_while_they_fit_and_the_last_whole_one_always(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        checkpoint(tmp_path, step)
    rotate(tmp_path, lambda _: GB)
    assert kept(tmp_path) == [4, 6, 8]
    rotate(tmp_path, lambda _: 0)  # half of what they hold: 8 alone is nearly that
    assert kept(tmp_path) == [8]
    rotate(tmp_path, lambda _: 0)
    assert kept(tmp_path) == [8]


def test_room_is_made_for_the_next_one_by_the_oldest_and_never_by_the_last_whole_one(tmp_path: Path) -> None:
    for step in (10, 11, 12):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 13, is_marked=False)
    make_room(tmp_path, 1000, lambda root: 999 if (root / "checkpoint-10").exists() else 1000)
    assert kept(tmp_path) == [11, 12]
    with pytest.raises(DiskFull, match="filling: a checkpoint takes"):
        make_room(tmp_path, 1000, lambda _: 999)
    assert kept(tmp_path) == [12]


def test_the_checkpoint_that_may_be_published_stays_however_old_it_is(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        checkpoint(tmp_path, step)
    best = frozenset({"checkpoint-2"})
    rotate(tmp_path, lambda _: GB, best)
    assert kept(tmp_path) == [2, 6, 8, 10]
    with pytest.raises(DiskFull):
        make_room(tmp_path, 1000, lambda _: 0, best)
    assert kept(tmp_path) == [2, 10]
    assert whole_at(tmp_path, 2) == tmp_path / "checkpoint-2"
    assert whole_at(tmp_path, 4) is None
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"other bytes")
    assert whole_at(tmp_path, 2) is None


def test_a_removal_that_was_cut_short_leaves_an_unfinished_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path, 2)
    monkeypatch.setattr("shutil.rmtree", lambda path: (path / "optimizer.pt").unlink())
    remove(folder)
    assert folder.exists() and not (folder / "COMPLETE.json").exists()
    monkeypatch.undo()
    assert latest_complete(tmp_path, RECIPE) is None
    assert not folder.exists()


def test_one_of_several_processes_takes_what_was_found_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 4)
    monkeypatch.setenv(RESUME_FROM, "checkpoint-2")
    found = to_resume(tmp_path, RECIPE)
    assert found is not None and found.step == 2
    monkeypatch.setenv(RESUME_FROM, "")
    assert to_resume(tmp_path, RECIPE) is None
    monkeypatch.delenv(RESUME_FROM)
    found = to_resume(tmp_path, RECIPE)
    assert found is not None and found.step == 4


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


def kept(root: Path) -> list[int]:
    return sorted(int(path.parent.name.removeprefix("checkpoint-")) for path in root.glob("*/COMPLETE.json"))
