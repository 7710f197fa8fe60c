"""The parts of `logs -f` and `top`; whole in test_whole_live.py."""

import io
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from test_lifecycle import pod, record

from infra.clouds.runpod.shapes import pod as read_pod
from pushtrain.live.logs import Stream
from pushtrain.live.once import Once
from pushtrain.live.rows import Row, last_figures, rows
from pushtrain.live.top import draw
from pushtrain.pod.figures import Disk
from pushtrain.wiring import open_cloud


def test_a_line_that_comes_two_ways_is_shown_once_however_often_it_was_said() -> None:
    once, shown = Once(), []
    told = [("ledger", "a"), ("cloud", "a"), ("cloud", "b"), ("cloud", "still here"), ("cloud", "still here")]
    told += [("ledger", "b\n"), ("ledger", "still here"), ("ledger", "still here"), ("ledger", "still here")]
    for way, line in told:
        if once.is_new(way, line):  # type: ignore[arg-type]
            shown.append(line.strip())
    assert shown == ["a", "b", "still here", "still here", "still here"]


def test_without_a_key_of_the_cloud_the_ledger_alone_is_followed_and_that_is_said() -> None:
    said: list[str] = []
    stream = Stream(lambda: open_cloud({}), "pod", said.append).start()
    give_up_s = time.monotonic() + 150
    while not said and time.monotonic() < give_up_s:
        time.sleep(0.05)
    assert said and said[0].startswith("from the ledger alone: ") and "RUNPOD_API_KEY" in said[0]
    assert list(stream.drain()) == []


def test_what_only_one_way_has_is_shown() -> None:
    once = Once()
    assert once.is_new("cloud", "boot: fetched commit") and once.is_new("ledger", "what the cloud forgot")


def test_a_row_is_the_clouds_figures_and_the_pods_own_where_it_tells_them() -> None:
    run = record("claimed", "provisioning", "provisioned", "booting", "training")
    run = replace(run, run={"resource_prefix": "pt-1-r", "budget": {"max_usd": 5.0}})
    live = replace(pod("p1"), name="pt-1-r-a1", gpu="NVIDIA A40", gpu_percent=97.0, uptime_s=60)
    told = last_figures(
        b'{"time": 90, "disk_gb": 7.5, "disk_total_gb": 50}\nno JSON\n{"time": 95, "gpu_utilization": 3}\n'
    )
    other = replace(pod("p2"), name="pt-1-other-a1", usd_per_hour=1.0)
    mine, nobodys = rows([run], [live, other], {"r": told}, now_s=100.0)
    assert (mine.pod_id, mine.gpu_percent, mine.disk_gb, mine.told_s) == ("p1", 97.0, 7.5, 5.0)
    assert mine.usd_per_hour == 3.6 and mine.cap_usd == 5.0 and mine.spent_usd is not None and mine.spent_usd > 0
    assert nobodys.run_id == "pt-1-other-a1" and "sweep" in nobodys.state and nobodys.usd_per_hour == 1.0
    (waits,) = rows([run], [], {}, now_s=100.0)
    assert waits.pod_id is None and waits.gpu_percent is None and waits.usd_per_hour == 0


def test_a_terminal_of_80_columns_has_room_for_a_pod() -> None:
    figures = {"gpu_percent": 97.0, "gpu_memory_percent": 61.0, "memory_percent": 12.0, "usd_per_hour": 3.6}
    steps = {"step": 34, "total_steps": 200, "idle_s": None, "told_s": 5.0, "spent_usd": 1.25, "cap_usd": 5.0}
    disk = {"disk_gb": 8.0, "disk_total_gb": 50.0, "volume_gb": 40.0, "volume_total_gb": 100.0}
    pod = {"attempt": 1, "pod_id": "p", "gpu": "NVIDIA A40", "gpu_count": 1, "data_center": None, "uptime_s": 60}
    row = Row(run_id="job-01234567-89abcdef", state="training", **pod, **figures, **disk, **steps)  # type: ignore[arg-type]
    console = Console(width=80, file=(shown := io.StringIO()))
    console.print(draw([row]))
    for text in (
        row.run_id,
        "1 × NVIDIA A40",
        "step 34/200",
        "97, 61",
        "40/100",
        "3.60/h",
        "1.250",
        "0:01:00",
    ):
        assert text in shown.getvalue()


def test_the_gpus_figures_are_those_of_the_busiest_and_none_before_the_container_runs() -> None:
    raw = {"id": "a", "name": "b", "status": "RUNNING", "runtime": {"uptime": 5}}
    assert read_pod({**raw, "runtime": None}).gpu_percent is None
    gpus = [{"util": 3, "memoryUtil": 50}, {"util": 88, "memoryUtil": None}]
    found = read_pod({**raw, "runtime": {"uptime": 5, "gpus": gpus}})
    assert (found.gpu_percent, found.gpu_memory_percent) == (88.0, 50.0)
    assert read_pod(raw).gpu_percent is None
    assert read_pod({**raw, "runtime": {"uptime": 5, "memory": {"util": 41}}}).memory_percent == 41.0


def test_a_pod_tells_of_its_disk_every_five_minutes_and_of_no_cluster(tmp_path: Path) -> None:
    clock = [1000.0]
    disk = Disk({"disk": tmp_path, "volume": tmp_path / "gone"}, clock=lambda: clock[0])
    assert disk() is None
    clock[0] += 60
    row = disk()
    assert row is not None and set(row) == {"time", "disk_gb", "disk_total_gb"} and row["time"] == 1060
    clock[0] += 299
    assert disk() is None
    clock[0] += 1
    assert disk() is not None
