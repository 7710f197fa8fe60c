"""Pods that write at the same time, each to its own branch of one remote: pushes per update, and seconds per update.

    python benchmarks/ledger_writers.py [--writers 1 16 64] [--updates N] [--http PLACES]

Each writer is a process with a cache of its own that appends without a pause: an event, a log chunk, a metrics chunk.
On two cores 64 of them are far more than 64 pods, which push once a minute. With --http the remote is git's smart HTTP
backend on loopback, serving so many requests at once and sending the rest away (503): those tries count as pushes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from support.big_ledger import ENV, git

from pushtrain.errors import LedgerUnavailable
from pushtrain.events import EventDraft
from pushtrain.gitstore import GitStore
from pushtrain.ledger import Ledger

LOG = b"step 1 of 100, loss 1.234, 5678 tokens/s\n" * 50
METRICS = b'{"step": 1, "loss": 1.234, "tokens_per_s": 5678}\n' * 20


class CountingStore(GitStore):
    pushes = 0

    def push(self, *args: Any, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        self.pushes += 1
        return super().push(*args, **options)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--updates", type=int, default=8, help="for each writer")
    parser.add_argument("--http", type=int, metavar="PLACES", help="smart HTTP with so many places instead of file://")
    parser.add_argument("--child", nargs=4, metavar=("URL", "CACHE", "RUN", "UPDATES"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        write(*asked.child)
        return
    os.nice(10)
    for writers in asked.writers:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), writers, asked.updates, asked.http)


def measure(folder: Path, writers: int, updates: int, places: int | None) -> None:
    remote = folder / "ledger.git"
    git("init", "-q", "--bare", str(remote))
    host = smart_http(folder, places) if places else None
    url = f"{host.url}/ledger.git" if host else f"file://{remote}"
    claims = Ledger(f"file://{remote}", cache_dir=folder / "claims", environ=ENV)
    runs = [f"job{number}-01234567-{number:08x}" for number in range(writers)]
    claimed = EventDraft(state="claimed", writer="control", attempt=1)
    for run_id in runs:
        claims.claim(run_id, files={"spec.yaml": b"", "run.json": b"{}"}, event=claimed)
    me = [sys.executable, __file__, "--child", url]
    began_s = time.perf_counter()
    children = [
        subprocess.Popen(
            [*me, str(folder / run_id), run_id, str(updates)],
            env=ENV | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
        )
        for run_id in runs
    ]
    said = [json.loads(child.communicate(timeout=900)[0]) for child in children]
    whole_s = time.perf_counter() - began_s
    seconds = sorted(second for one in said for second in one["seconds"])
    pushes, landed = sum(one["pushes"] for one in said), writers * updates
    records = claims.read_all(claims.refs())
    for run_id in runs:
        messages = [event.message for event in records[run_id].events[1:]]
        assert messages == [f"update {turn}" for turn in range(updates)], "an update was lost, doubled or reordered"
    if host:
        host.close()
    where = f"{'smart HTTP' if places else 'file://'}, load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    print(
        f"{writers:3} writers, {landed:4} updates in {whole_s:6.1f} s: {pushes / landed:.2f} pushes per update, "
        f"p50 {statistics.median(seconds):.3f} s, p99 {seconds[int(0.99 * (len(seconds) - 1))]:.3f} s ({where})"
    )


def smart_http(folder: Path, places: int) -> Any:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from git_http import GitHost

    return GitHost(folder, ENV, at_once=places)


def write(url: str, cache: str, run_id: str, updates: str) -> None:
    store = CountingStore(url, Path(cache), token=None, environ=ENV)
    ledger = Ledger(url, cache_dir=Path(cache), environ=ENV, store=store)
    seconds = []
    for turn in range(int(updates)):
        event = EventDraft(state="training", writer="pod", attempt=1, message=f"update {turn}")
        began_s = time.perf_counter()
        while True:
            try:
                ledger.append(run_id, events=[event], log=LOG, metrics=METRICS)
                break
            except LedgerUnavailable:
                time.sleep(0.05)
        seconds.append(time.perf_counter() - began_s)
    print(json.dumps({"pushes": store.pushes, "seconds": seconds}))


if __name__ == "__main__":
    main()
