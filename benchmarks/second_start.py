"""A second start on the same volume beside the first: process start → first optimizer step, the rows being tokens.

Before each first start the tokens are removed; model and page cache are warm in both, so that the ratio is of reading,
checking and tokenising the rows alone. It falls with their number: goal at most 0.5 for a dataset worth a GPU. A start
that also downloads the model is not measured here. `--rows 2000 40000 …` for other sizes.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from support.training import Took, World, machine, rows_of, seconds_to, spread, world

GOAL = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model of the real Hub; else a small random one on loopback")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000])
    parser.add_argument("--repeats", type=int, default=1)
    asked = parser.parse_args()
    print(f"{machine()}; {asked.model or 'a random Llama of 0.7 M parameters'}; {asked.repeats} turns")
    for count in asked.rows:
        with (
            tempfile.TemporaryDirectory() as scratch,
            world(Path(scratch), rows_of(count, 60, 180), asked.model) as job,
        ):
            job.train = {
                "max_steps": 1,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 1,
                "max_length": 512,
                "gradient_checkpointing": False,
            }
            report(count, [turn(job, number) for number in range(asked.repeats + 1)][1:])


def turn(job: World, number: int) -> tuple[Took, Took]:
    """A first start and a second one, each of a run of its own."""
    tokens = Path(job.environ["HF_HOME"]).parent / "pushtrain" / "tokens"
    shutil.rmtree(tokens, ignore_errors=True)
    first, second = (
        seconds_to("step 1/", job.ours(job.folder / f"run-{number}-{start}"), job) for start in ("first", "second")
    )
    assert len(list(tokens.iterdir())) == 1
    return first, second


def report(count: int, turns: list[tuple[Took, Took]]) -> None:
    for name, took in zip(("first", "second"), zip(*turns, strict=True), strict=True):
        print(f"  {count} rows, {name:6} start: {spread([it.wall_s for it in took])} s to the first step")
    wall = spread([second.wall_s / first.wall_s for first, second in turns])
    cpu = spread([second.cpu_s / first.cpu_s for first, second in turns])
    print(f"  {count} rows, second / first {wall}, of processors {cpu}   goal {GOAL:.2f} where rows are many")


if __name__ == "__main__":
    main()
