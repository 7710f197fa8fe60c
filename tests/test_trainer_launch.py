"""Several processes: how many, and that they start, stop and fail as one."""

import os
import signal
import textwrap
import threading
import time
from pathlib import Path

import pytest

from trainer.checkpoint import stop_on_signals
from trainer.failures import GpuUnavailable, OutOfMemoryInWorker, Preempted, WorkerDied
from trainer.launch import process_count, run_workers, visible_gpus


def test_gpus_are_counted_by_the_list_of_visible_ones_else_by_their_devices(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia5", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == 2
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "5"}, tmp_path) == 1
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,GPU-2f"}, tmp_path) == 2
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == 0
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == 0
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path / "no devices") == 0


def test_a_process_a_gpu_and_never_fewer_than_the_spec_pays_for() -> None:
    assert process_count(1, visible=0) == process_count(4, visible=0) == 1
    assert process_count(2, visible=8) == 2
    with pytest.raises(GpuUnavailable, match="is 4, this machine has 2"):
        process_count(4, visible=2)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package named `trainer` that does what its argument says, in place of the one that trains."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    program = """
        import os, pathlib, signal, sys, time
        rank, what, folder = os.environ["RANK"], sys.argv[1], pathlib.Path(sys.argv[2])
        place = [os.environ[name] for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")]
        (folder / rank).write_text(" ".join(place))
        if what == "one dies" and rank == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "one is short" and rank == "1":
            sys.exit(76)
        if what in ("wait", "one dies", "one is short"):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
            (folder / f"ready-{rank}").touch()
            time.sleep(60)
    """
    (tmp_path / "trainer" / "__main__.py").write_text(textwrap.dedent(program))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.launch.GRACE_S", 0.3)
    return tmp_path


def test_each_worker_knows_its_place(worker: Path) -> None:
    with stop_on_signals() as stop:
        run_workers(["end", str(worker)], 2, stop)
    first, second = ((worker / rank).read_text().split() for rank in "01")
    assert first[:2] == ["0", "2"]
    assert second[:2] == ["1", "2"]
    assert first[2] == second[2]


def test_one_that_runs_out_of_memory_ends_them_all_to_start_again(worker: Path) -> None:
    with stop_on_signals() as stop, pytest.raises(OutOfMemoryInWorker):
        run_workers(["one is short", str(worker)], 2, stop)


def test_a_request_to_stop_reaches_every_worker(worker: Path) -> None:
    def ask() -> None:
        while not all((worker / f"ready-{rank}").exists() for rank in "01"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    asker = threading.Thread(target=ask)
    with stop_on_signals() as stop, pytest.raises(Preempted):
        asker.start()
        run_workers(["wait", str(worker)], 2, stop)
    asker.join()


def test_when_one_is_killed_the_others_do_not_outlive_the_call(worker: Path) -> None:
    started = time.monotonic()
    with stop_on_signals() as stop, pytest.raises(WorkerDied, match="-9"):
        run_workers(["one dies", str(worker)], 2, stop)
    assert time.monotonic() - started < 200
