"""A run with thousands of appends, and a ledger with thousands of runs: what each append, fetch and look then costs.

    python benchmarks/long_run.py [--appends 5000] [--refs 20000]

An append is a log chunk of 2 KB and a metrics chunk of 1 KB, as a pod sends them every minute: 5,000 are three and a
half days of them, if their pace did not slow. Two branches a run: 20,000 refs are 10,000 runs.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from support.big_ledger import ENV, git, median_s

from pushtrain.events import EventDraft
from pushtrain.ledger import Ledger

RUN = "job-01234567-89abcdef"
LOG = b"step %06d of 500000, loss 1.2345, 5678 tokens/s\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--appends", type=int, default=5000)
    parser.add_argument("--refs", type=int, nargs="+", default=[2200, 20000])
    asked = parser.parse_args()
    os.nice(10)
    with tempfile.TemporaryDirectory() as folder:
        appends(Path(folder), asked.appends)
    for refs in asked.refs:
        with tempfile.TemporaryDirectory() as folder:
            many_refs(Path(folder), refs)


def appends(folder: Path, number: int) -> None:
    remote = folder / "ledger.git"
    ledger = new_ledger(folder, remote)
    seconds: list[float] = []
    print(" appends      p50      p99  pod cache    remote  after gc  cold fetch  warm read")
    for turn in range(1, number + 1):
        log = b"".join(LOG % (turn * 40 + line) for line in range(40))
        began_s = time.perf_counter()
        ledger.append(RUN, log=log, metrics=b'{"step": %d, "loss": 1.2345}\n' % turn * 35, timeout_s=300)
        seconds.append(time.perf_counter() - began_s)
        if turn in (1000, 2500, number):
            loose_mb = size_mb(remote)
            git("gc", "-q", cwd=remote)  # as a host does by itself
            last = sorted(seconds[-500:])
            began_s = time.perf_counter()
            reader = Ledger(ledger.url, cache_dir=folder / f"cold{turn}", environ=ENV)
            reader.read(RUN)
            cold_s = time.perf_counter() - began_s
            warm_s = median_s(lambda: Ledger(ledger.url, cache_dir=folder / f"cold{turn}", environ=ENV).read(RUN))  # noqa: B023
            p99 = last[int(0.99 * (len(last) - 1))]
            print(
                f"{turn:8} {statistics.median(last):6.3f} s {p99:6.3f} s {size_mb(folder / 'pod'):7.1f} MB "
                f"{loose_mb:6.1f} MB {size_mb(remote):6.1f} MB {cold_s:9.2f} s {warm_s:8.3f} s"
            )


def many_refs(folder: Path, refs: int) -> None:
    remote = folder / "ledger.git"
    ledger = new_ledger(folder, remote)
    tip = git("rev-parse", f"refs/heads/runs/{RUN}", cwd=remote)
    names = (f"job{n}-01234567-{n:08x}" for n in range(refs // 2))
    updates = "".join(
        f"create refs/heads/runs/{it} {tip}\ncreate refs/heads/claims/{it[:-17]}{it[-8:]} {tip}\n" for it in names
    )
    git("update-ref", "--stdin", cwd=remote, stdin=updates.encode())
    git("pack-refs", "--all", cwd=remote)
    listed = git("ls-remote", "--heads", f"file://{remote}")
    turns = count()
    print(
        f"{refs} refs: git ls-remote {median_s(lambda: git('ls-remote', '--heads', ledger.url)):.3f} s "
        f"({len(listed) / 1e6:.1f} MB), look {median_s(ledger.look):.3f} s, "
        f"append {median_s(lambda: ledger.append(RUN, log=b'%d' % next(turns)), 11):.3f} s"
    )


def new_ledger(folder: Path, remote: Path) -> Ledger:
    git("init", "-q", "--bare", str(remote))
    git("config", "receive.autogc", "false", cwd=remote)  # it is measured before and after one gc
    ledger = Ledger(f"file://{remote}", cache_dir=folder / "pod", environ=ENV)
    claimed = EventDraft(state="claimed", writer="control", attempt=1)
    ledger.claim(RUN, files={"spec.yaml": b"", "run.json": b"{}"}, event=claimed)
    return ledger


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    main()
