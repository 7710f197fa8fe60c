"""The seconds before the first step, by name."""

import os
import time
from pathlib import Path

from trainer.phases import Phases, process_start


def test_each_phase_reaches_from_the_one_before_and_one_that_comes_again_is_added() -> None:
    clock = [103.0]
    phases = Phases(began=100.0, now=lambda: clock[0])
    for clock[0], name in ((103.0, "start"), (104.5, "model"), (104.0, "clock set back"), (106.0, "model")):
        phases.ended(name)
    assert phases.seconds == {"start": 3.0, "model": 3.5, "clock set back": 0.0}


def test_the_start_of_this_process_is_before_now_and_after_its_parents() -> None:
    began = process_start(time.time())
    assert time.time() - 3600 < began < time.time()


def test_a_process_with_brackets_in_its_name_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    ticks = 300 * os.sysconf("SC_CLK_TCK")
    (tmp_path / "self" / "stat").write_text("7 (a b) c) S " + "0 " * 18 + f"{ticks} 0 0\n")
    (tmp_path / "uptime").write_text("310.00 5.00\n")
    assert process_start(1000.0, tmp_path) == 990.0
    assert process_start(1000.0, tmp_path / "nowhere") == 1000.0
