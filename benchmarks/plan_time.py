"""Seconds of `plan` for one job spec and for many: after the imports, and as a whole process. It should grow linearly.

    python benchmarks/plan_time.py [--specs 200] [--repeat 5]

No key and no Hub: prices of the snapshot, sizes of the table. Each spec has a data file of its own with 500 rows. With
--base the specs are compared with a commit in which each of them was another.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from support.big_ledger import ENV, git

from pushtrain.plan import plan_specs
from pushtrain.plan.document import document
from pushtrain.plan.markdown import markdown
from pushtrain.spec.file import loads

ROW = json.dumps({"prompt": "why is the sky blue? " * 20, "completion": "because of scattering. " * 40}) + "\n"
ENVIRON = {**ENV, "HF_HUB_OFFLINE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--specs", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    os.nice(10)
    seconds: dict[int, float] = {}
    for count in (1, asked.specs):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            repository(root, count)
            repeat = asked.repeat if count == 1 else max(1, asked.repeat // 2)
            seconds[count] = timed(lambda: in_process(root, None), repeat)  # noqa: B023
            against = timed(lambda: in_process(root, "HEAD~1"), repeat)  # noqa: B023
            whole = timed(lambda: process(root), repeat)  # noqa: B023
            print(
                f"{count:4} specs: {seconds[count]:.3f} s after imports, {against:.3f} s with --base, "
                f"{whole:.3f} s as a process"
            )
    if asked.specs > 1:
        ratio = seconds[asked.specs] / seconds[1] / asked.specs
        print(f"{asked.specs} specs cost {ratio:.2f} × {asked.specs} times one: 1 is linear; goal for one: 1 s")


def in_process(root: Path, base: str | None) -> None:
    loads.cache_clear()
    plans, problems = plan_specs([], root, ENVIRON, base=base)
    assert plans.plans and not problems, problems
    document(plans)
    markdown(plans)


def process(root: Path) -> None:
    command = [sys.executable, "-m", "pushtrain", "plan", "--json"]
    path = str(Path(__file__).parents[1])
    subprocess.run(command, cwd=root, env=ENVIRON | {"PYTHONPATH": path}, check=True, stdout=subprocess.DEVNULL)


def timed(work: Callable[[], None], repeat: int) -> float:
    found = []
    for _ in range(repeat):
        began_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - began_s)
    return statistics.median(found)


def repository(root: Path, count: int) -> None:
    git("init", "-q", "-b", "main", str(root))
    for folder in ("jobs", "data"):
        (root / folder).mkdir()
    for epochs in (1.0, 2.0):
        for number in range(count):
            name = f"job-{number}"
            (root / "data" / f"{name}.jsonl").write_text(ROW * 500)
            (root / "jobs" / f"{name}.yaml").write_text(json.dumps(spec(name, epochs), indent=1))
        git("add", ".", cwd=root)
        git("commit", "-q", "-m", f"{epochs:g} epochs", cwd=root)


def spec(name: str, epochs: float) -> dict[str, object]:
    return {
        "version": 1,
        "name": name,
        "model": {"id": "Qwen/Qwen3-8B"},
        "data": {"path": f"data/{name}.jsonl"},
        "method": {"kind": "qlora"},
        "train": {"epochs": epochs},
        "compute": {"gpus": ["NVIDIA A40", "NVIDIA RTX A6000"]},
        "budget": {"max_hours": 8.0, "max_usd": 5.0},
        "publish": {"repo": f"org/{name}"},
    }


if __name__ == "__main__":
    main()
