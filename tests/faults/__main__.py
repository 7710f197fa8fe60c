"""`make faults N=10000`, `make faults SEED=17`, `make faults REPLAY='{"seed":…}'`."""

import argparse
import os
import sys

from .batch import play_safely, run_batch, shortest
from .rentals import RENTALS
from .schedule import Schedule, schedule
from .several import ALL, ANY, share

SHOWN = 5


def main() -> int:
    """0: every promise held; 1: one was broken, and the shortest schedule that breaks it was printed."""
    parser = argparse.ArgumentParser(prog="faults", description="Fault schedules under virtual time.")
    parser.add_argument("--n", type=int, default=1000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one alone, and say everything")
    parser.add_argument("--replay", type=_printed, help="play this schedule alone, and say everything")
    parser.add_argument("--cloud", choices=[*RENTALS, ANY, ALL], default=ALL, help="where they are played")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.replay or options.seed is not None:
        if options.replay:
            return _one(options.replay)
        return _one(schedule(options.seed, share(options.cloud, options.seed)))
    seeds = range(options.first, options.first + options.n)
    total = run_batch(
        seeds,
        processes=options.processes,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
        cloud=options.cloud,
    )
    print(total.table())
    for found, sentence in total.broken[:SHOWN]:
        small, said = shortest(found, sentence)
        print(f"\nseed {found.seed} breaks a promise: {said}\n  make faults REPLAY='{small.text()}'")
    if len(total.broken) > SHOWN:
        print(f"\nand {len(total.broken) - SHOWN} more seeds: {[it.seed for it, _ in total.broken[SHOWN:]][:50]}")
    return int(bool(total.broken))


def _printed(text: str) -> Schedule:
    try:
        return Schedule.parse(text)
    except (KeyError, TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"no schedule as a broken promise prints one: {error}") from None


def _one(it: Schedule) -> int:
    result = play_safely(it)
    print(it.text())
    print("\n".join(result.said))
    for sentence in result.broken:
        print(f"broken: {sentence}")
    if not result.broken:
        print("every promise held")
    return int(bool(result.broken))


if __name__ == "__main__":
    sys.exit(main())
