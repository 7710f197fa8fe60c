"""Process start → first optimizer step: our trainer beside `trl sft` and beside a bare loop of transformers and PEFT.

The same job each: a LoRA of rank 16 on the same model, rows and batches, on a volume that has the model already. The
three take turns, and each ratio is of one turn: a busy machine slows all of them. Seconds of processors stand beside
those of the clock: they are what is left of the difference on a busy machine. Goals: at most 1.0 and 1.15.
"""

import tempfile
from pathlib import Path

from support.training import Took, arguments, machine, rows_of, seconds_to, spread, world

GOALS = {"trl sft": 1.0, "bare loop": 1.15}


def main() -> None:
    asked = arguments(__doc__ or "", repeats=3)
    with tempfile.TemporaryDirectory() as scratch, world(Path(scratch), rows_of(200, 20, 60), asked.model) as job:
        job.train = {
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_length": 128,
            "gradient_checkpointing": False,
        }
        took: dict[str, list[Took]] = {"ours": [], "trl sft": [], "bare loop": []}
        for turn in range(asked.repeats + 1):
            seconds = {
                "ours": seconds_to("step 1/", job.ours(job.folder / f"run-{turn}"), job),
                "trl sft": seconds_to("'loss'", job.trl(job.folder / f"trl-{turn}"), job),
                "bare loop": seconds_to("step 1 of the bare loop", job.bare(), job),
            }
            if turn > 0:  # the first fills the page cache, and the volume with the model
                for name, value in seconds.items():
                    took[name].append(value)
    print(f"{machine()}; {asked.model or 'a random Llama of 0.7 M parameters'}; {asked.repeats} turns")
    for name, values in took.items():
        wall, cpu = spread([it.wall_s for it in values]), spread([it.cpu_s for it in values])
        print(f"  {name:10} {wall} s to the first step, {cpu} s of processors")
    for name, goal in GOALS.items():
        pairs = list(zip(took["ours"], took[name], strict=True))
        wall = spread([mine.wall_s / theirs.wall_s for mine, theirs in pairs])
        cpu = spread([mine.cpu_s / theirs.cpu_s for mine, theirs in pairs])
        print(f"  ours / {name:10} {wall}, of processors {cpu}   goal {goal:.2f}")


if __name__ == "__main__":
    main()
