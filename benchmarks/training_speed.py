"""Tokens per second beside `trl sft`: at equal settings, and with packing on short rows.

Both train a LoRA of rank 16 once over the same rows; the time is from the first step's line to the last one's, so no
start is in it. The two take turns, and each ratio is of one turn. Goals: at least 1.0, and with packing 2.0.
"""

import tempfile
from pathlib import Path
from typing import Any

from support.training import Shape, World, arguments, machine, rows_of, seconds_between, spread, world

BATCH, PASSES, STEPS = 4, 2, 24
EQUAL = {
    "max_steps": STEPS,
    "per_device_train_batch_size": BATCH,
    "gradient_accumulation_steps": PASSES,
    "max_length": 256,
    "packing": False,
    "padding_free": False,
    "gradient_checkpointing": False,
    "save_steps": 10_000,
}
# One sequence of 256 tokens a pass: about the rows of a padded batch of four, and no padding.
PACKED = {**EQUAL, "packing": True, "per_device_train_batch_size": 1}
del PACKED["padding_free"]


def main() -> None:
    asked = arguments(__doc__ or "", repeats=3)
    rows = rows_of(BATCH * PASSES * STEPS, 4, 120)
    shape = Shape(hidden=256, layers=6)
    equal, packed, theirs_s = [], [], []
    with tempfile.TemporaryDirectory() as scratch, world(Path(scratch), rows, asked.model, shape) as job:
        for turn in range(asked.repeats):
            theirs = epoch_s("'loss'", job, job.trl(job.folder / f"trl-{turn}", **EQUAL))
            ours = epoch_s("step ", job, job.ours(job.folder / f"equal-{turn}", **EQUAL))
            tight: dict[str, Any] = {**PACKED, "epochs": 1.0}
            del tight["max_steps"]
            in_packs = epoch_s("step ", job, job.ours(job.folder / f"packed-{turn}", **tight))
            theirs_s.append(theirs)
            equal.append(theirs / ours)
            packed.append(theirs / in_packs)
    print(f"{machine()}; {asked.model or 'a random Llama of 5 M parameters'}; {len(rows)} rows; {asked.repeats} turns")
    print(f"  trl sft takes {spread(theirs_s)} s for the rows")
    print(f"  ours, equal settings: {spread(equal)} × its tokens/s   goal 1.0")
    print(f"  ours, with packing:   {spread(packed)} × its tokens/s   goal 2.0")


def epoch_s(marker: str, job: World, command: list[str]) -> float:
    """Seconds for all steps, from those after the first."""
    seconds, steps = seconds_between(marker, command, job)
    return seconds / steps * (steps + 1)


if __name__ == "__main__":
    main()
