"""What a pull request waits for: `review` of one changed spec and of 200, and the month so far over 1,000 closed runs.

    python benchmarks/review_times.py [--specs N] [--finished N]

Real git on this disk, no network: the Hub is off, prices are the snapshot's. Prints seconds after imports, and the
ratio of N specs to one.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from support.big_ledger import ENV, git, runs_of, write_runs

from pushtrain.github.review import review
from pushtrain.ledger import Ledger
from pushtrain.policy.gate import month_so_far

SPEC = """\
version: 1
name: {name}
task: sft
model: {{id: Qwen/Qwen3-8B}}
data: {{source: hf://datasets/trl-lib/Capybara}}
method: {{kind: qlora}}
compute: {{gpus: [NVIDIA A40, NVIDIA RTX A6000]}}
budget: {{max_hours: 8, max_usd: 5}}
publish: {{repo: org/{name}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--specs", type=int, default=200)
    parser.add_argument("--finished", type=int, default=1000)
    asked = parser.parse_args()
    os.environ.update(ENV | {"HF_HUB_OFFLINE": "1"})
    with tempfile.TemporaryDirectory() as folder:
        one, many = (reviewed(Path(folder) / f"{count}", count) for count in (1, asked.specs))
        print(f"review of 1 spec: {one:.2f} s; of {asked.specs}: {many:.2f} s, {many / one:.0f} times as long")
        first, again = month(Path(folder), asked.finished)
        print(f"month so far over {asked.finished} closed runs: {first:.2f} s, read again {again * 1000:.0f} ms")


def reviewed(root: Path, count: int) -> float:
    """Seconds of a review of a pull request that adds `count` specs."""
    (root / "jobs").mkdir(parents=True)
    git("init", "-q", "--initial-branch=main", str(root))
    (root / "pushtrain-policy.yaml").write_text("version: 1\nmax_usd_per_run: 20\ngpus: [NVIDIA *]\n")
    git("add", ".", cwd=root)
    git("commit", "-qm", "base", cwd=root)
    git("switch", "-qc", "pull", cwd=root)
    for number in range(count):
        (root / "jobs" / f"job{number}.yaml").write_text(SPEC.format(name=f"job{number}"))
    git("add", ".", cwd=root)
    git("commit", "-qm", "jobs", cwd=root)
    began_s = time.perf_counter()
    found = review(root, "main", "0" * 40, os.environ)
    text = found.as_markdown()
    taken_s = time.perf_counter() - began_s
    assert len(found.plans) == count and not found.problems and len(text) < 65_536
    return taken_s


def month(base: Path, finished: int) -> tuple[float, float]:
    """Seconds to read what the month has cost: by a machine that has read nothing, and by the same process again."""
    remote = base / "ledger.git"
    git("init", "-q", "--bare", str(remote))
    git("config", "uploadpack.allowFilter", "true", cwd=remote)  # as at GitHub
    url = f"file://{remote}"
    write_runs(
        remote, runs_of("f" * 40, url, 10_000, finished), closed=True, pod=lambda run: ("p", "v"), log_bytes=4096
    )
    ledger, taken = Ledger(url, cache_dir=base / "cache", environ=ENV), []
    runs = ledger.refs()
    for _ in range(2):
        began_s = time.perf_counter()
        assert month_so_far(ledger, runs, time.time()) == finished
        taken.append(time.perf_counter() - began_s)
    return taken[0], taken[1]


if __name__ == "__main__":
    main()
