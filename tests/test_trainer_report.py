"""The files an attempt leaves: whole lines, no NaN, no secret, one end, also on a full disk."""

import json
import subprocess
from pathlib import Path

import pytest

from trainer.failures import DiskFull, OutOfMemory
from trainer.report import Log, Report, say


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_not_a_number_is_written_as_null(tmp_path: Path) -> None:
    report = Report(tmp_path, now=lambda: 5.0)
    report.metrics({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "nested": [float("-inf"), 1.5]})
    [record] = lines(tmp_path / "metrics.jsonl")
    assert record == {"time": 5.0, "step": 1, "loss": None, "grad_norm": None, "nested": [None, 1.5]}


def test_a_secret_reaches_neither_file_nor_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-secret-in-trainer")
    report = Report(tmp_path)
    report.event("preparing", "with canary-secret-in-trainer", token="canary-secret-in-trainer")
    report.result({"samples": [{"adapter": "said canary-secret-in-trainer aloud"}]})
    say("canary-secret-in-trainer")
    report.close()
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "canary-secret" not in written + capsys.readouterr().out
    assert "***" in written


def test_a_sign_of_life_is_given_once_a_minute_of_silence(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    log = Log(now_s=lambda: now)
    for now in (10.0, 59.0, 60.0, 61.0, 119.0, 120.0):
        log.say_if_quiet(f"at {now:.0f}")
    now = 150.0
    log.say("step 1")
    now = 209.0
    log.say_if_quiet("too early")
    assert capsys.readouterr().out.splitlines() == ["at 60", "at 120", "step 1"]


def test_a_step_between_two_logged_ones_leaves_a_sign_every_five_seconds(tmp_path: Path) -> None:
    clock = [100.0]
    report = Report(tmp_path, now=lambda: clock[0])
    report.step()
    sign = tmp_path / "step"
    for clock[0], is_new in ((104.9, False), (105.0, True), (109.0, False), (111.0, True)):
        sign.unlink()
        report.step()
        assert sign.exists() == is_new
        sign.touch()
    (tmp_path / "worker").mkdir()
    Report(tmp_path / "worker", is_main=False).step()
    assert not (tmp_path / "worker" / "step").exists()


def test_the_first_failure_of_an_attempt_stays(tmp_path: Path) -> None:
    report = Report(tmp_path)
    report.failure(OutOfMemory("out of memory", hint="less"))
    Report(tmp_path, is_main=False).failure(DiskFull("full"))
    assert lines(tmp_path / "failure.json") == [{"reason": "OutOfMemory", "message": "out of memory (less)"}]


def test_a_new_start_of_an_attempt_forgets_its_end_and_keeps_its_events(tmp_path: Path) -> None:
    report = Report(tmp_path)
    report.event("preparing", "first")
    report.failure(DiskFull("full"))
    Report(tmp_path).result({})
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {
        "events.jsonl",
        "result.json",
    }


def test_another_worker_writes_a_failure_and_nothing_else(tmp_path: Path) -> None:
    report = Report(tmp_path, is_main=False)
    report.event("training", "x")
    report.metrics({"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_still_has_room_to_say_so(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        report = Report(folder / "attempt-1")
        with pytest.raises(OSError, match="No space left"), (folder / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        report.failure(DiskFull("no space"))
        assert lines(folder / "attempt-1" / "failure.json")[0]["reason"] == "DiskFull"
    finally:
        subprocess.run(["umount", str(folder)], check=True)
