"""What ledger, metrics and watch cost: seconds a step with them beside the same training without.

One process, one model; two trainings take turns. With: every step is judged, written to metrics.jsonl and said in the
log, TensorBoard is told, the threads that look beside the training run. Without: the trainer alone. Goal: at most 2 %.

On a busy machine the difference of two trainings is noise; the seconds of processors that our callback takes a step, of
those the whole step takes, are not: the last line.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from support.training import Shape, arguments, machine, ran, rows_of, spread, world

STEPS = 12
PROGRAM = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from transformers import TrainerCallback
from pushtrain.spec.file import load
from trainer.__main__ import _quiet_libraries
_quiet_libraries()
from trainer import data, preflight
from trainer.adapters import with_trained_weights
from trainer.checkpoint import Stop
from trainer.job import Job
from trainer.model import load_model, load_tokenizer
from trainer.report import Report
from trainer.tasks import task_of
from trainer.training import build_trainer
from trainer.watch import Watch

class Clock(TrainerCallback):
    def __init__(self): self.at = []
    def on_step_begin(self, *_, **__): self.at.append((time.perf_counter(), time.process_time()))

root, repeats = Path.cwd(), int(sys.argv[1])
STEPS = int(sys.argv[2])
(root / "run").mkdir()
spec = load(root / "jobs/bench.yaml", root)
job = Job(spec=spec, root=root, run_dir=root / "run", processes=1, run_id="bench", commit=None,
          inputs=preflight.pin_inputs(spec, root, root / "run"), uploads=False)
task, tokenizer = task_of(spec), load_tokenizer(job)
prepared = task.prepare(job, data.local_rows(job), tokenizer)
model = with_trained_weights(load_model(job), job, task.peft_type)

own = []

class Timed(Watch):
    pass

def timed(name):
    def call(self, *args, **options):
        began = time.thread_time()
        try:
            return getattr(Watch, name)(self, *args, **options)
        finally:
            own.append(time.thread_time() - began)
    return call

for name in ("on_step_end", "on_substep_end", "on_log"):
    setattr(Timed, name, timed(name))

def seconds_a_step(is_watched):
    # By the clock the median of the steps, of processors (all threads) the mean.
    clock = Clock()
    watch = Timed(job, Report(root / "run" / "attempt-1"), Stop())
    trainer = build_trainer(job, model, tokenizer, prepared, watch if is_watched else TrainerCallback())
    trainer.add_callback(clock)
    watch.trainer = trainer
    if is_watched:
        with watch.running():
            trainer.train()
    else:
        trainer.train()
    at = clock.at[2:]
    steps = sorted(after[0] - before[0] for before, after in zip(at, at[1:]))
    return steps[len(steps) // 2], (at[-1][1] - at[0][1]) / (len(at) - 1)

seconds_a_step(True)
for turn in range(repeats):
    first = turn % 2 == 0
    one, other = seconds_a_step(first), seconds_a_step(not first)
    watched, alone = (one, other) if first else (other, one)
    print("OWN", sum(own) / (turn + 2) / STEPS / watched[1])
    print("RATIO", watched[0] / alone[0], watched[1] / alone[1], alone[0])
"""


def main() -> None:
    asked = arguments(__doc__ or "", repeats=4)
    rows, shape = rows_of(200, 60, 200), Shape(hidden=192, layers=4)
    with tempfile.TemporaryDirectory() as scratch, world(Path(scratch), rows, asked.model, shape) as job:
        job.train = {
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_length": 512,
            "packing": False,
            "gradient_checkpointing": False,
            "save_steps": 10_000,
        }
        job.ours(job.folder / "run", track=["tensorboard"])
        try:
            said = ran([sys.executable, "-c", PROGRAM, str(asked.repeats), str(STEPS)], job)
        except subprocess.TimeoutExpired as late:
            raise SystemExit(f"not done in {late.timeout:.0f} s") from late
    found = [line.split()[1:] for line in said.splitlines() if line.startswith("RATIO")]
    print(f"{machine()}; {asked.model or 'a random Llama of 2 M parameters'}; {len(found)} turns of {STEPS} steps")
    wall, cpu, alone = (spread([float(it[which]) for it in found], digits=3) for which in range(3))
    print(f"  without: {alone} s a step")
    own = [float(line.split()[1]) for line in said.splitlines() if line.startswith("OWN")]
    print(f"  with / without {wall}, of processors {cpu}   goal 1.02")
    print(f"  in our callback: {spread([100 * share for share in own])} % of a step's processors   goal 2")


if __name__ == "__main__":
    main()
