"""What a lost pod costs: a training killed with SIGKILL and resumed, beside the same one unbroken.

Lost steps are those that are trained twice; extra seconds are what both attempts took beyond the unbroken one: starting
once more, and the lost steps. Seconds of processors say that on a busy machine, too. What a cloud takes for another pod
comes on top (`benchmarks/run_times.py`). Goal: lost steps at most one checkpoint interval. The weights are compared,
too: they have to be the same bytes.
"""

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from support.training import Took, World, arguments, machine, ran, rows_of, seconds_to, spread, world

STEPS, EVERY = 40, 10
# In a turn each: right before a checkpoint, in the middle, right after one.
KILLED_AT = (29, 15, 31)


def main() -> None:
    asked = arguments(__doc__ or "", repeats=3)
    lost: list[float] = []
    extra: list[Took] = []
    share: list[Took] = []
    again: list[float] = []
    with tempfile.TemporaryDirectory() as scratch, world(Path(scratch), rows_of(200, 20, 60), asked.model) as job:
        job.train = {
            "max_steps": STEPS,
            "save_steps": EVERY,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_length": 128,
            "gradient_checkpointing": False,
        }
        ran(job.ours(job.folder / "warm"), job)  # fills the page cache, and the volume with the model and the tokens
        for turn in range(asked.repeats):
            killed_at = KILLED_AT[turn % len(KILLED_AT)]
            whole, broken = job.folder / f"whole-{turn}", job.folder / f"broken-{turn}"
            unbroken = _cost(job.ours(whole), job)
            first = seconds_to(f"step {killed_at}/", job.ours(broken), job)
            second = _cost([*job.ours(broken), "--attempt", "2"], job)
            resumed = json.loads((broken / "attempt-2" / "result.json").read_text())["metrics"]["resumed_from_step"]
            if _weights(whole) != _weights(broken):
                raise RuntimeError(f"killed at step {killed_at}, the resumed training made other weights")
            lost.append(killed_at - resumed)
            together = Took(first.wall_s + second.wall_s, first.cpu_s + second.cpu_s)
            extra.append(Took(together.wall_s - unbroken.wall_s, together.cpu_s - unbroken.cpu_s))
            share.append(Took(together.wall_s / unbroken.wall_s, together.cpu_s / unbroken.cpu_s))
            again.append(_until_first_step(broken / "attempt-2"))
    print(f"{machine()}; {asked.model or 'a random Llama of 0.7 M parameters'}; {asked.repeats} turns of {STEPS} steps")
    print(f"  lost steps {spread(lost)}   goal: at most {EVERY}, the checkpoint interval")
    for name, at in (("by the clock", 0), ("of processors", 1)):
        more, times = spread([it[at] for it in extra]), spread([it[at] for it in share])
        print(f"  extra seconds {name} {more}: with the break {times} times the unbroken training")
    print(f"  of them to the first new step {spread(again)}, from the first event of the second attempt")
    print("  the weights are the same bytes each time")


def _cost(command: list[str], job: World) -> Took:
    began, before = time.perf_counter(), os.times()
    ran(command, job)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(time.perf_counter() - began, used)


def _weights(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def _until_first_step(attempt: Path) -> float:
    events = (attempt / "events.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in (attempt / "metrics.jsonl").read_text().splitlines()]
    first = min(row["time"] for row in steps if "loss" in row)
    return float(first - json.loads(events[0])["time"])


if __name__ == "__main__":
    main()
